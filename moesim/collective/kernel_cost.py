"""Seconds a communication kernel takes beside the bytes on the fullest link: fixed, per message, and rate not reached.

Array letters: F flow, D rank.
"""

import numpy as np
from numpy.typing import NDArray

from moesim.calibration import OperationProfile
from moesim.network.bound import bound_completion, link_busy_s
from moesim.network.flow import Flows


def kernel_cost_s(
    profile: OperationProfile, flows: Flows, bandwidth: NDArray[np.float64], fixed_s: float, floor_s: float = 0.0
) -> float:
    """What the operation costs on top of its flows when they start together.

    fixed_s + message_s x messages of the busiest rank + wire time x (1 / reached - 1), and no less than what `floor_s`
    leaves beyond the flows' own bound.
    """
    seconds = fixed_s
    if profile.message_s is not None or profile.reached is not None:
        messages, rank_bytes = busiest(flows)
        if profile.message_s is not None:
            seconds += profile.message_s.value * messages
        if profile.reached is not None and rank_bytes > 0.0:
            size = rank_bytes / messages if profile.reached.against == "message_bytes" else rank_bytes
            wire_s = float(link_busy_s(flows.paths, flows.bytes_F, bandwidth).max(initial=0.0))
            seconds += wire_s * (1.0 / profile.reached.read(size) - 1.0)
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
