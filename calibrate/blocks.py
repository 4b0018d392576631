"""Byte patterns of collectives: every block says who sent it to whom, so that a wrong or missing block shows."""

import torch

from calibrate.machine import Machine
from calibrate.timing import ProbeFailed

POISON = 255


def mark(source: int, target: int) -> int:
    """The byte that fills the block `source` sends to `target`; never the poison."""
    return (31 * source + 7 * target + 1) % 251


def send_buffer(machine: Machine, sizes: list[int]) -> torch.Tensor:
    """Blocks of `sizes[target]` bytes, one after the other, each filled with its mark."""
    parts = [torch.full((size,), mark(machine.rank, target), dtype=torch.uint8) for target, size in enumerate(sizes)]
    return torch.cat(parts).to(machine.device)


def poisoned(machine: Machine, size: int) -> torch.Tensor:
    """A receive buffer that holds nothing right yet."""
    return torch.full((size,), POISON, dtype=torch.uint8, device=machine.device)


def check_received(machine: Machine, buffer: torch.Tensor, sizes: list[int], what: str) -> None:
    """Raise ProbeFailed unless `buffer` holds `sizes[source]` bytes of each source's mark, in order."""
    start = 0
    for source, size in enumerate(sizes):
        if not bool((buffer[start : start + size] == mark(source, machine.rank)).all()):
            raise ProbeFailed(f"{what}: rank {machine.rank} did not receive what rank {source} sent")
        start += size
