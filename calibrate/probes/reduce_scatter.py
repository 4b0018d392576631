"""Reduce-scatter: every rank ends with its block of the sum.

`bytes_per_rank` is the buffer a rank contributes (nccl-tests' size), in fp32.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from calibrate.machine import Machine
from calibrate.timing import Operation, ProbeFailed


def unable(machine: Machine) -> str | None:
    """Needs two ranks or more."""
    return (
        None if machine.ranks > 1 else "a reduce-scatter needs at least 2 ranks; start with torchrun --nproc-per-node N"
    )


def cases(machine: Machine, effort: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sizes by powers of four."""
    for power in range(12, (28 if effort == "full" else 16) + 1, 2):
        size = max(2**power // (4 * machine.ranks), 1) * 4 * machine.ranks
        yield "reduce_scatter", {**machine.places, "bytes_per_rank": size, "dtype": "fp32"}


def prepare(machine: Machine, params: dict[str, Any]) -> Operation:
    """Rank r contributes r + 1 everywhere, so every element of the sum is n (n + 1) / 2."""
    elements = int(params["bytes_per_rank"]) // 4
    mine = torch.full((elements,), float(machine.rank + 1), device=machine.device)
    target = torch.full((elements // machine.ranks,), torch.nan, device=machine.device)
    expected = machine.ranks * (machine.ranks + 1) / 2

    def run(_: int) -> None:
        dist.reduce_scatter_tensor(target, mine)

    def check() -> None:
        if not bool((target == expected).all()):
            raise ProbeFailed(f"reduce-scatter of {elements} numbers: rank {machine.rank} holds a wrong sum")

    return Operation(run, check)
