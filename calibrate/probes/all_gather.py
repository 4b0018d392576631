"""All-gather: every rank ends with the blocks of all. `bytes_per_rank` is the result a rank ends with (nccl-tests' size)."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from calibrate.blocks import mark, poisoned
from calibrate.machine import Machine
from calibrate.timing import Operation, ProbeFailed


def unable(machine: Machine) -> str | None:
    """Needs two ranks or more."""
    return None if machine.ranks > 1 else "an all-gather needs at least 2 ranks; start with torchrun --nproc-per-node N"


def cases(machine: Machine, effort: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sizes by powers of four."""
    for power in range(12, (28 if effort == "full" else 16) + 1, 2):
        size = max(2**power // machine.ranks, 1) * machine.ranks
        yield "all_gather", {**machine.places, "bytes_per_rank": size, "dtype": "uint8"}


def prepare(machine: Machine, params: dict[str, Any]) -> Operation:
    """Each rank's block carries a mark that does not depend on the receiver."""
    block = int(params["bytes_per_rank"]) // machine.ranks
    mine = torch.full((block,), mark(machine.rank, 0), dtype=torch.uint8, device=machine.device)
    target = poisoned(machine, block * machine.ranks)
    expected = torch.cat(
        [torch.full((block,), mark(source, 0), dtype=torch.uint8) for source in range(machine.ranks)]
    ).to(machine.device)

    def check() -> None:
        if not torch.equal(target, expected):
            raise ProbeFailed(f"all-gather of {block} bytes a rank: rank {machine.rank} holds wrong blocks")

    def run(_: int) -> None:
        dist.all_gather_into_tensor(target, mine)

    return Operation(run, check)
