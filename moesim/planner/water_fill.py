"""How many copies each expert gets: as water fills a vessel, wherever the load per copy is highest.

The largest load per copy is as small as the slots allow, and the answer is that of handing out one slot after the other
to the expert with the largest load per copy. A bisection on that load skips most of the hand-outs: O(E log P) for a
million experts. Array letter: E expert.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.planner.heap import drop_first, order, sift_down

_FEW = 64  # slots left for one-by-one hand-out, beside one in 64 experts


def water_fill(load_E: NDArray[np.float64], num_slots: int, num_devices: int) -> NDArray[np.int64]:
    """Copies of each expert, int64 [E], at least 1, `num_slots` in all.

    No expert gets more copies than there are devices, unless the slots exceed experts x devices. Among equal loads per
    copy the expert with fewer copies, then the lower index, comes first, so that idle experts share what is left.

    >>> water_fill(np.array([6.0, 1.0, 3.0]), 5, 4).tolist()
    [2, 1, 2]
    """
    most = max(num_devices, -(-num_slots // load_E.size))
    level = _level(load_E, num_slots, most, float(load_E.sum()) / num_slots, float(load_E.max()))
    copies_E: NDArray[np.int64] = _fill(load_E, num_slots, most, level)
    return copies_E


@njit(cache=True, nogil=True)
def _level(load_E, num_slots, most, low, high):  # type: ignore[no-untyped-def]  # types are numba's
    """A load per copy, by bisection, that needs no more slots than there are, and nearly all."""
    few = _FEW + load_E.size // _FEW
    left = num_slots - load_E.size
    while left > few and high - low > 1e-12 * high:
        level = 0.5 * (low + high)
        needed = 0
        for load in load_E:
            needed += _copies(load, level, most)
        if needed <= num_slots:
            high, left = level, num_slots - needed
        else:
            low = level
    return high


@njit(cache=True, nogil=True)
def _fill(load_E, num_slots, most, level):  # type: ignore[no-untyped-def]
    """The copies that `level` needs, then one by one those left, each to the largest load per copy that may grow."""
    copies_E = np.empty(load_E.size, dtype=np.int64)
    key_E = np.empty(load_E.size, dtype=np.float64)
    heap, size = np.empty(load_E.size, dtype=np.int64), 0
    left = num_slots
    for expert in range(load_E.size):
        copies_E[expert] = _copies(load_E[expert], level, most)
        key_E[expert] = -load_E[expert] / copies_E[expert]
        left -= copies_E[expert]
        if copies_E[expert] < most:
            heap[size] = expert
            size += 1
    order(heap, size, key_E, copies_E)
    for _ in range(left):
        expert = heap[0]
        copies_E[expert] += 1
        key_E[expert] = -load_E[expert] / copies_E[expert]
        if copies_E[expert] == most:
            size = drop_first(heap, size, key_E, copies_E)
        else:
            sift_down(heap, size, 0, key_E, copies_E)
    return copies_E


@njit(cache=True, nogil=True)
def _copies(load, level, most):  # type: ignore[no-untyped-def]
    """The fewest copies, 1..most, whose load each is at most `level`."""
    if load <= level:
        return 1
    if load > level * most:
        return most
    copies = max(1, int(load / level))
    while copies < most and load / copies > level:
        copies += 1
    return copies
