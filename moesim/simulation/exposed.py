"""Exposed time: every instant of one rank given to one of its spans, so that overlapping spans add up to the step."""

import numpy as np
from numpy.typing import NDArray

from moesim.result import PHASES

_COMMUNICATION = np.array([name in ("dispatch", "combine") for name in PHASES])


def exposed_seconds(
    phase: NDArray[np.int8], start_s: NDArray[np.float64], end_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Seconds of each span of one rank in which it is what the rank's time goes to.

    Compute comes first; what remains of communication is exposed. Of several transfers in flight the one that ends first
    has the time, since that is what the rank is waiting for. Spans that do not overlap keep their length.
    """
    order = np.argsort(start_s, kind="stable")
    if (start_s[order][1:] >= end_s[order][:-1]).all():
        return end_s - start_s
    rank_of_span = np.lexsort((np.arange(len(phase)), end_s, _COMMUNICATION[phase]))
    place = np.empty(len(phase), dtype=np.int64)
    place[rank_of_span] = np.arange(len(phase))  # the smallest place of the spans in flight has the time
    edges = np.unique(np.concatenate([start_s, end_s]))
    seconds = np.zeros(len(phase))
    starting = order.tolist()[::-1]
    active: list[int] = []
    for left, right in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        while starting and start_s[starting[-1]] <= left:
            active.append(starting.pop())
        active = [span for span in active if end_s[span] > left]
        if active:
            seconds[min(active, key=place.__getitem__)] += right - left
    return seconds
