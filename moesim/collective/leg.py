"""Leg: flows of token copies of the same kind inside one collective, before they have paths or bytes.

Array letters: F flow, D device of the expert-parallel group, N node, R device in a node, W wait.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Copies = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """Copies from device to device [F]; with `engine` the copies also pass both devices' copy engines.

    Copies are whole until a path policy spreads a flow over several paths.
    """

    source_F: Ints
    target_F: Ints
    copies_F: Copies
    engine: bool

    @classmethod
    def from_matrix(cls, copies_DD: Ints, *, engine: bool) -> "Leg":
        """The leg of a copies matrix; pairs without copies are left out, own copies only load the copy engine."""
        kept = copies_DD if engine else copies_DD - np.diag(np.diag(copies_DD))
        source_F, target_F = np.nonzero(kept)
        return cls(source_F=source_F, target_F=target_F, copies_F=kept[source_F, target_F], engine=engine)

    def reversed(self) -> "Leg":
        """The same copies travelling back."""
        return Leg(source_F=self.target_F, target_F=self.source_F, copies_F=self.copies_F, engine=self.engine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Legs:
    """All legs of one collective, and what each device waits for.

    `waits_W` rows are (device, leg, target): the device may go on when all flows of `leg` into `target` have ended.
    A row may be there twice.
    """

    legs: tuple[Leg, ...]
    waits_W: Ints


def own_waits(leg: Leg, index: int) -> Ints:
    """Every device that receives in this leg waits for its own receives."""
    target = np.flatnonzero(np.bincount(leg.target_F))
    return np.stack([target, np.full_like(target, index), target], axis=1)
