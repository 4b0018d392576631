"""Point to point: one rank sends to another and gets the same back; half the round trip, by class of pair.

Classes: `same_node` (ranks 0 and 1 of a host) and `cross_node` (the same local rank of the first two hosts).
"""

from collections.abc import Iterator
from typing import Any

import torch.distributed as dist

from calibrate.blocks import mark, poisoned
from calibrate.machine import Machine
from calibrate.timing import Operation, ProbeFailed


def unable(machine: Machine) -> str | None:
    """Needs two ranks or more."""
    return None if machine.ranks > 1 else "a pair needs at least 2 ranks; start with torchrun --nproc-per-node N"


def cases(machine: Machine, effort: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sizes by powers of four from 64 B. Times are of a round trip halved: `trips` is 2."""
    pairs = [("same_node", 0, 1)] if machine.ranks_per_node > 1 else []
    if machine.nodes > 1:
        pairs.append(("cross_node", 0, machine.ranks_per_node))
    for pair_class, first, second in pairs:
        for power in range(6, (28 if effort == "full" else 16) + 1, 2):
            yield (
                "point_to_point",
                {
                    **machine.places,
                    "pair_class": pair_class,
                    "first": first,
                    "second": second,
                    "bytes": 2**power,
                    "trips": 2,
                },
            )


def prepare(machine: Machine, params: dict[str, Any]) -> Operation:
    """The second rank returns what it got; all others only wait."""
    first, second, size = (int(params[key]) for key in ("first", "second", "bytes"))
    buffer = poisoned(machine, size)
    if machine.rank == first:
        buffer.fill_(mark(first, second))

    def run(_: int) -> None:
        if machine.rank == first:
            dist.send(buffer, second)
            dist.recv(buffer, second)
        elif machine.rank == second:
            dist.recv(buffer, first)
            dist.send(buffer, first)

    def check() -> None:
        if machine.rank in (first, second) and not bool((buffer == mark(first, second)).all()):
            raise ProbeFailed(f"{size} bytes came back changed between ranks {first} and {second}")

    return Operation(run, check)
