"""Swaps of copies between devices that take load off the most loaded one, never putting an expert twice on a device.

Array letters: E expert, D device, P slot.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

MOST_PAIRS = 1 << 28  # swaps looked at, a second or so: where it ends is the same on every machine
_MOST_DOUBLE = 1 << 22  # swaps of two for two looked at for one device; devices of hundreds of slots need none


def level_by_swaps(
    expert_of_slot_P: NDArray[np.int32],
    share_E: NDArray[np.float64],
    slots_D: NDArray[np.int64],
    speed_D: NDArray[np.float64],
    most_pairs: int = MOST_PAIRS,
) -> NDArray[np.int32]:
    """The slots after swaps that lower the largest load / speed; `share_E` is the load of one copy of each expert.

    Again and again the device with the largest load / speed gives a copy to another device for a lighter one, the pair
    that leaves the larger of the two smallest; where no swap lowers it, two of its copies for one or two others are
    tried. It ends where neither helps, or after looking at `most_pairs` swaps.
    """
    offsets_D1 = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(slots_D)))
    slots_P = expert_of_slot_P.astype(np.int64)
    _level(slots_P, share_E, offsets_D1, 1.0 / speed_D, most_pairs)
    return slots_P.astype(np.int32)


@njit(cache=True, nogil=True)
def _level(slots_P, share_E, offsets_D1, price_D, most_pairs):  # type: ignore[no-untyped-def]  # types are numba's
    num_devices = price_D.size
    load_D = np.zeros(num_devices)
    device_P = np.empty(slots_P.size, dtype=np.int64)
    for device in range(num_devices):
        for slot in range(offsets_D1[device], offsets_D1[device + 1]):
            device_P[slot] = device
            load_D[device] += share_E[slots_P[slot]] * price_D[device]
    on_hot_E = np.zeros(share_E.size, dtype=np.int64)  # how often the hottest device holds each expert
    theirs = 0.0  # pairs of slots of one device, over all devices
    for device in range(num_devices):
        slots = float(offsets_D1[device + 1] - offsets_D1[device])
        theirs += 0.5 * slots * (slots - 1.0)
    moved = True
    while moved:
        hot = np.argmax(load_D)
        first, end = offsets_D1[hot], offsets_D1[hot + 1]
        most_pairs -= (end - first) * slots_P.size
        if most_pairs < 0:
            return
        for slot in range(first, end):
            on_hot_E[slots_P[slot]] += 1
        moved = _single(hot, slots_P, share_E, offsets_D1, price_D, load_D, on_hot_E)
        doubles = 0.5 * (end - first) * (end - first - 1) * theirs
        if not moved and doubles <= min(most_pairs, _MOST_DOUBLE):
            most_pairs -= np.int64(doubles)
            moved = _double(hot, slots_P, share_E, offsets_D1, price_D, load_D, on_hot_E)
        on_hot_E[:] = 0


@njit(cache=True, nogil=True)
def _holds(slots_P, first, end, expert):  # type: ignore[no-untyped-def]
    """Whether a slot of first..end holds the expert."""
    for slot in range(first, end):  # noqa: SIM110  # numba compiles loops, not generators
        if slots_P[slot] == expert:
            return True
    return False


@njit(cache=True, nogil=True)
def _single(hot, slots_P, share_E, offsets_D1, price_D, load_D, on_hot_E):  # type: ignore[no-untyped-def]
    """The best swap of one copy for one; whether there was one."""
    best, best_mine, best_theirs, best_device = load_D[hot] * (1.0 - 1e-12), -1, -1, -1
    for other in range(price_D.size):
        if other == hot:
            continue
        theirs_first, theirs_end = offsets_D1[other], offsets_D1[other + 1]
        for theirs in range(theirs_first, theirs_end):
            if on_hot_E[slots_P[theirs]]:
                continue
            share = share_E[slots_P[theirs]]
            for mine in range(offsets_D1[hot], offsets_D1[hot + 1]):
                given = share_E[slots_P[mine]] - share
                if given <= 0.0:
                    continue
                after = max(load_D[hot] - given * price_D[hot], load_D[other] + given * price_D[other])
                if after < best and not _holds(slots_P, theirs_first, theirs_end, slots_P[mine]):
                    best, best_mine, best_theirs, best_device = after, mine, theirs, other
    if best_mine < 0:
        return False
    _exchange(best_mine, best_theirs, hot, best_device, slots_P, share_E, price_D, load_D)
    return True


@njit(cache=True, nogil=True)
def _exchange(mine, theirs, hot, other, slots_P, share_E, price_D, load_D):  # type: ignore[no-untyped-def]
    given = share_E[slots_P[mine]] - share_E[slots_P[theirs]]
    load_D[hot] -= given * price_D[hot]
    load_D[other] += given * price_D[other]
    slots_P[mine], slots_P[theirs] = slots_P[theirs], slots_P[mine]


@njit(cache=True, nogil=True)
def _double(hot, slots_P, share_E, offsets_D1, price_D, load_D, on_hot_E):  # type: ignore[no-untyped-def]
    """The best swap of two copies for two of one other device; whether there was one."""
    best, best_device = load_D[hot] * (1.0 - 1e-12), -1
    chosen = np.zeros(4, dtype=np.int64)
    first, end = offsets_D1[hot], offsets_D1[hot + 1]
    for other in range(price_D.size):
        if other == hot or load_D[other] >= best:
            continue
        their_first, their_end = offsets_D1[other], offsets_D1[other + 1]
        for a in range(first, end):
            if _holds(slots_P, their_first, their_end, slots_P[a]):
                continue
            for b in range(a + 1, end):
                if _holds(slots_P, their_first, their_end, slots_P[b]):
                    continue
                mine = share_E[slots_P[a]] + share_E[slots_P[b]]
                for c in range(their_first, their_end):
                    if on_hot_E[slots_P[c]]:
                        continue
                    for d in range(c + 1, their_end):
                        given = mine - share_E[slots_P[c]] - share_E[slots_P[d]]
                        if given <= 0.0 or on_hot_E[slots_P[d]]:
                            continue
                        after = max(load_D[hot] - given * price_D[hot], load_D[other] + given * price_D[other])
                        if after < best:
                            best, best_device = after, other
                            chosen[0], chosen[1], chosen[2], chosen[3] = a, b, c, d
    if best_device < 0:
        return False
    _exchange(chosen[0], chosen[2], hot, best_device, slots_P, share_E, price_D, load_D)
    _exchange(chosen[1], chosen[3], hot, best_device, slots_P, share_E, price_D, load_D)
    return True
