"""All-reduce: every rank ends with the sum. `bytes_per_rank` is the buffer of a rank (nccl-tests' size), fp32."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from calibrate.machine import Machine
from calibrate.timing import Operation, ProbeFailed


def unable(machine: Machine) -> str | None:
    """Needs two ranks or more."""
    return None if machine.ranks > 1 else "an all-reduce needs at least 2 ranks; start with torchrun --nproc-per-node N"


def cases(machine: Machine, effort: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sizes by powers of four."""
    for power in range(12, (28 if effort == "full" else 16) + 1, 2):
        size = max(2**power // (4 * machine.ranks), 1) * 4 * machine.ranks
        yield "all_reduce", {**machine.places, "bytes_per_rank": size, "dtype": "fp32"}


def prepare(machine: Machine, params: dict[str, Any]) -> Operation:
    """Rank r contributes r + 1, so a sum is n (n + 1) / 2; in place, so later repeats sum sums (and may overflow)."""
    elements = int(params["bytes_per_rank"]) // 4
    buffer = torch.full((elements,), float(machine.rank + 1), device=machine.device)

    def run(_: int) -> None:
        dist.all_reduce(buffer)

    def check() -> None:
        # Infinity costs the same to add as any number; the check starts afresh.
        buffer.fill_(float(machine.rank + 1))
        run(0)
        if not bool((buffer == machine.ranks * (machine.ranks + 1) / 2).all()):
            raise ProbeFailed(f"all-reduce of {elements} numbers: rank {machine.rank} holds a wrong sum")

    return Operation(run, check)
