"""Plain oracles: max-min rates by the definition, and an event loop that shares anew at every arrival and completion."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def naive_rates(
    bandwidth: NDArray[np.float64], paths: Sequence[Sequence[int]], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Progressive filling with numpy: find the link that fills first, freeze its flows, repeat."""
    crosses = np.zeros((len(paths), len(bandwidth)))
    for flow, path in enumerate(paths):
        crosses[flow, list(path)] = 1.0
    rate = np.full(len(paths), np.inf)
    is_open = np.array([len(path) > 0 for path in paths], bool)
    while is_open.any():
        fixed = ~is_open & np.isfinite(rate)
        left = bandwidth - rate[fixed] @ crosses[fixed]
        open_weight = weight[is_open] @ crosses[is_open]
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.where(open_weight > 0.0, left / open_weight, np.inf)
        link = int(np.argmin(level))
        freeze = is_open & (crosses[:, link] > 0.0)
        rate[freeze] = weight[freeze] * level[link]
        is_open &= ~freeze
    return rate


def naive_finish(
    bandwidth: NDArray[np.float64],
    paths: Sequence[Sequence[int]],
    size: NDArray[np.float64],
    weight: NDArray[np.float64],
    start: NDArray[np.float64],
) -> NDArray[np.float64]:
    """When flows end that start at `start`, rates worked out afresh at every arrival and completion."""
    left = size.astype(float).copy()
    finish = np.full(len(size), np.nan)
    instant = (size == 0.0) | np.array([len(path) == 0 for path in paths], bool)
    finish[instant] = start[instant]
    now = 0.0
    while np.isnan(finish).any():
        waiting = np.isnan(finish) & (start > now)
        running = np.flatnonzero(np.isnan(finish) & (start <= now))
        arrival = start[waiting].min() if waiting.any() else np.inf
        if len(running) == 0:
            now = arrival
            continue
        rate = naive_rates(bandwidth, [paths[flow] for flow in running], weight[running])
        ends = now + left[running] / rate
        first = ends.min()
        if arrival < first:
            left[running] -= rate * (arrival - now)
            now = arrival
            continue
        ended = running[ends <= first + 1e-12 * first]
        left[running] -= rate * (first - now)
        finish[ended] = first
        now = first
    return finish
