"""Seconds a communication kernel takes beside the bytes on the fullest link: fixed, by message, by size, rate not reached.

Array letters: F flow, D rank.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.calibration import OperationProfile
from moesim.calibration_curves import Curve
from moesim.network.bound import bound_completion, link_busy_s
from moesim.network.flow import Flows


class CallSize(NamedTuple):
    """What costs are read at: messages and bytes of the busiest rank, bytes of a copy, experts and ranks of the group."""

    messages: int
    rank_bytes: float
    copy_bytes: float
    experts: int
    ranks: int

    def along(self, curve: Curve) -> float:
        """Ranks, bytes a message, or all bytes of the busiest rank, as the curve says."""
        if curve.against == "ranks":
            return float(self.ranks)
        return self.rank_bytes / max(self.messages, 1) if curve.against == "message_bytes" else self.rank_bytes


def added_s(profile: OperationProfile, size: CallSize) -> float:
    """Seconds on top of flows and fixed cost, for messages, experts, the pipeline's fill and the protocol of that size."""
    seconds = 0.0
    if profile.message_s is not None:
        seconds += profile.message_s.value * size.messages
    if profile.expert_s is not None:
        seconds += profile.expert_s.value * size.experts
    if profile.fill_s_per_byte is not None and size.rank_bytes > 0.0:
        seconds += profile.fill_s_per_byte.value * size.copy_bytes
    if profile.protocol_s is not None and size.rank_bytes > 0.0:
        seconds += profile.protocol_s.read(size.along(profile.protocol_s))
    return seconds


def slowdown(profile: OperationProfile, size: CallSize) -> float:
    """Wire time over what it takes at the links' rates, at least 1: the inverse of `reached`."""
    if profile.reached is None or size.rank_bytes <= 0.0:
        return 1.0
    return 1.0 / profile.reached.read(size.along(profile.reached))


def depends_on_size(profile: OperationProfile) -> bool:
    """Whether an operation has costs beside its flows and its fixed cost."""
    parts = (profile.message_s, profile.expert_s, profile.fill_s_per_byte, profile.protocol_s, profile.reached)
    return any(part is not None for part in parts)


def kernel_cost_s(
    profile: OperationProfile,
    flows: Flows,
    bandwidth: NDArray[np.float64],
    fixed_s: float,
    floor_s: float = 0.0,
    *,
    copy_bytes: float = 0.0,
    experts: int = 0,
    ranks: int = 1,
) -> float:
    """What the operation costs on top of its flows when they start together.

    fixed_s + added_s + wire time x (slowdown - 1), and no less than what `floor_s` leaves beyond the flows' own bound.
    `experts` (0: not known) and `ranks` are those of one group.
    """
    seconds = fixed_s
    if depends_on_size(profile):
        size = CallSize(*busiest(flows), copy_bytes, experts, ranks)
        seconds += added_s(profile, size)
        if (factor := slowdown(profile, size)) > 1.0:
            seconds += float(link_busy_s(flows.paths, flows.bytes_F, bandwidth).max(initial=0.0)) * (factor - 1.0)
    if floor_s > 0.0:
        seconds = max(seconds, floor_s - bound_completion(flows, bandwidth))
    return seconds


def busiest(flows: Flows) -> tuple[int, float]:
    """Most messages and most bytes that any rank sends or receives; a message is all bytes to one other rank.

    Flows of several paths between two ranks are one message, flows inside a rank none; counted separately, so that the
    rank with most messages need not be the one with most bytes.
    """
    other_F = (flows.source_F != flows.target_F) & (flows.bytes_F > 0.0)
    if not other_F.any():
        return 0, 0.0
    source_F, target_F = flows.source_F[other_F].astype(np.int64), flows.target_F[other_F].astype(np.int64)
    width = int(max(source_F.max(), target_F.max())) + 1
    pairs = np.unique(source_F * width + target_F)
    messages = max(np.bincount(pairs // width).max(), np.bincount(pairs % width).max())
    bytes_F = flows.bytes_F[other_F]
    most = max(np.bincount(source_F, weights=bytes_F).max(), np.bincount(target_F, weights=bytes_F).max())
    return int(messages), float(most)
