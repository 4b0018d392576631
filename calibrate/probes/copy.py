"""Copy: rate of the device's memory, one buffer to another. `bytes` are read once and written once."""

from collections.abc import Iterator
from typing import Any

import torch

from calibrate.machine import Machine
from calibrate.timing import Operation, ProbeFailed, buffer_sets


def unable(machine: Machine) -> str | None:
    """Runs everywhere."""
    return None


def cases(machine: Machine, effort: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sizes by powers of four from 64 KiB."""
    largest = (32 if machine.is_gpu else 28) if effort == "full" else 24
    for power in range(16, largest + 1, 2):
        yield "copy", {"hardware": machine.hardware, "bytes": 2**power}


def prepare(machine: Machine, params: dict[str, Any]) -> Operation:
    """Rotated pairs of buffers; targets are poisoned so that a copy that did not happen shows."""
    size = int(params["bytes"])
    count = buffer_sets(machine, 2 * size)
    sources = [torch.full((size,), i % 200, dtype=torch.uint8, device=machine.device) for i in range(count)]
    targets = [torch.full((size,), 255, dtype=torch.uint8, device=machine.device) for _ in range(count)]
    done: set[int] = set()

    def run(i: int) -> None:
        targets[i % count].copy_(sources[i % count])
        done.add(i % count)

    def check() -> None:
        for i in done:
            if not torch.equal(targets[i], sources[i]):
                raise ProbeFailed(f"a copy of {size} bytes differs from its source")

    return Operation(run, check)
