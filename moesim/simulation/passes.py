"""Pass: one way of one micro-batch through one part of the model, the unit that pipeline schedules put in order.

A part is a run of consecutive layers. A stage holds one part, or several (interleaved: part % stages is the stage;
dualpipe: stage i holds parts i and stages - 1 - i).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Kind = Literal["forward", "backward", "backward_input", "backward_weight"]


class Pass(NamedTuple):
    """`backward` makes both gradients at once; `backward_input` that of the input, `backward_weight` that of the weights."""

    kind: Kind
    micro_batch: int
    part: int


Slot = tuple[Pass, ...]  # one pass, or a forward and a backward that overlap
Order = tuple[tuple[Slot, ...], ...]  # for each stage what it runs, in order


def make_order(stages: Sequence[Sequence[Slot | Pass]]) -> Order:
    """The order in which each stage runs these slots; a pass that stands alone is a slot of its own."""
    return tuple(tuple((item,) if isinstance(item, Pass) else item for item in slots) for slots in stages)


def most_in_flight(slots: Sequence[Slot]) -> dict[int, int]:
    """For each part of a stage how many micro-batches' activations it holds at most: forward done, gradients not yet.

    The most of one part is taken where the stage holds most of all its parts together.
    """
    now: dict[int, int] = {}
    most: dict[int, int] = {}
    for slot in slots:
        for item in slot:
            if item.kind == "forward":
                now[item.part] = now.get(item.part, 0) + 1
        if sum(now.values()) > sum(most.values()):
            most = dict(now)
        for item in slot:
            if item.kind in ("backward", "backward_weight"):
                now[item.part] -= 1
    return most
