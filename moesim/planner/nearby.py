"""A placement near the old one: which slots to give to other experts, in the order of what each moved copy gains.

From the old copies, again and again the change that lowers the power mean of the devices' loads most for each copy that
travels: a copy of a loaded expert in the slot of an expert with several copies (one copy travels), or two copies that
trade places (two travel). Array letters: E expert, D device, P slot, M change.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

POWER_STEPS = 4  # loads count to the power 2^4: a device near the largest one counts too
_HOT = 8  # the most loaded devices that are tried before the search ends
_FREE = 0.25  # what a change that moves nothing, or back, counts as, in copies
_LEAST = 1e-7  # of the power mean: smaller gains are rounding


@dataclass(frozen=True, slots=True)
class Trail:
    """Changes in order, [M] each: the slot, the expert it gets, copies that travel so far, largest load / mean then."""

    slot_M: NDArray[np.int64]
    expert_M: NDArray[np.int64]
    moved_M: NDArray[np.int64]
    worst_M: NDArray[np.float64]

    def until(self, start_P: NDArray[np.int32], most_moved: int) -> NDArray[np.int32]:
        """The slots after the changes up to the lowest largest load that `most_moved` travelling copies reach."""
        slots_P = start_P.copy()
        allowed = np.flatnonzero(self.moved_M <= most_moved)
        if allowed.size:
            last = int(allowed[np.argmin(self.worst_M[allowed])])
            for slot, expert in zip(self.slot_M[: last + 1], self.expert_M[: last + 1], strict=True):
                slots_P[slot] = expert
        return slots_P


def near_trail(
    start_P: NDArray[np.int32],
    old_ED: NDArray[np.bool_],
    load_E: NDArray[np.float64],
    slots_D: NDArray[np.int64],
    speed_D: NDArray[np.float64],
    most_moved: int,
) -> Trail:
    """Changes from `start_P` on while each pays and at most `most_moved` copies travel beyond those in `old_ED`.

    No change puts an expert twice on a device or takes its last copy. Both slots of a trade stand one after the other, the
    first as travelling too far to stop there.
    """
    offsets_D1 = np.concatenate([[0], np.cumsum(slots_D)]).astype(np.int64)
    log = _walk(start_P.astype(np.int64), old_ED, load_E.astype(np.float64), offsets_D1, 1.0 / speed_D, most_moved)
    return Trail(log[0].astype(np.int64), log[1].astype(np.int64), log[2].astype(np.int64), log[3])


@njit(cache=True, nogil=True)
def _walk(slots_P, old_ED, load_E, offsets_D1, price_D, most_moved):  # type: ignore[no-untyped-def]  # types are numba's
    num_experts, num_devices = load_E.size, price_D.size
    held_ED = np.zeros((num_experts, num_devices), dtype=np.int64)
    device_P = np.empty(slots_P.size, dtype=np.int64)
    for device in range(num_devices):
        for slot in range(offsets_D1[device], offsets_D1[device + 1]):
            device_P[slot] = device
            held_ED[slots_P[slot], device] += 1
    copies_E = held_ED.sum(axis=1)
    load_D = np.zeros(num_devices)
    for slot in range(slots_P.size):
        load_D[device_P[slot]] += load_E[slots_P[slot]] / copies_E[slots_P[slot]] * price_D[device_P[slot]]
    mean = load_D.mean()
    most = 4 * (most_moved + 16)
    log = np.zeros((4, most))
    if mean <= 0.0:
        return log[:, :0]
    moved, length, frozen = 0, 0, np.zeros(num_devices, dtype=np.bool_)
    for slot in range(slots_P.size):
        moved += 0 if old_ED[slots_P[slot], device_P[slot]] else 1
    change_D = np.zeros(num_devices)
    while length + 2 <= most:
        hot, tried = -1, 0
        for device in range(num_devices):
            tried += 1 if frozen[device] else 0
            if not frozen[device] and (hot < 0 or load_D[device] > load_D[hot]):
                hot = device
        if hot < 0 or tried >= _HOT:
            break
        found = _best_change(
            hot, slots_P, device_P, held_ED, old_ED, copies_E, load_E, load_D, offsets_D1, price_D, change_D, mean,
            most_moved - moved,
        )  # fmt: skip
        first, second, expert, travels = found
        if first < 0:
            frozen[hot] = True
            continue
        frozen[:] = False
        if second >= 0:
            one, other = slots_P[first], slots_P[second]
            _note(log, length, first, other, most_moved + 1, 0.0)  # half of a trade is no place to stop at
            _trade(first, second, slots_P, device_P, held_ED, copies_E, load_E, load_D, price_D)
            moved += travels
            _note(log, length + 1, second, one, moved, load_D.max() / mean)
            length += 2
        else:
            _fill_change(first, expert, slots_P, device_P, held_ED, copies_E, load_E, price_D, change_D)
            load_D += change_D
            device = device_P[first]
            held_ED[slots_P[first], device] -= 1
            copies_E[slots_P[first]] -= 1
            held_ED[expert, device] += 1
            copies_E[expert] += 1
            slots_P[first] = expert
            moved += travels
            _note(log, length, first, expert, moved, load_D.max() / mean)
            length += 1
    return log[:, :length]


@njit(cache=True, nogil=True)
def _best_change(  # type: ignore[no-untyped-def]
    hot, slots_P, device_P, held_ED, old_ED, copies_E, load_E, load_D, offsets_D1, price_D, change_D, mean, room
):
    """The change on or off the hot device that gains most per copy: (slot, other slot or -1, expert, copies that travel)."""
    best, first, second, chosen, travel = 0.0, -1, -1, -1, 0
    floor = _LEAST * _raised(load_D[hot] / mean)
    for mine in range(offsets_D1[hot], offsets_D1[hot + 1]):
        ours = slots_P[mine]
        share = load_E[ours] / copies_E[ours]
        for slot in range(slots_P.size):
            device, theirs = device_P[slot], slots_P[slot]
            if device == hot or held_ED[ours, device] or theirs == ours:
                continue
            if copies_E[theirs] > 1:  # a copy of ours in the slot of theirs
                travels = _travels(old_ED, device, theirs, ours)
                if travels <= room:
                    _fill_change(slot, ours, slots_P, device_P, held_ED, copies_E, load_E, price_D, change_D)
                    gain = _gain(load_D, change_D, mean)
                    if gain > floor and gain / max(travels, _FREE) > best:
                        best, first, second, chosen, travel = gain / max(travels, _FREE), slot, -1, ours, travels
            if held_ED[theirs, hot]:
                continue
            given = share - load_E[theirs] / copies_E[theirs]
            if given > 0.0:
                travels = _travels(old_ED, hot, ours, theirs) + _travels(old_ED, device, theirs, ours)
                if travels <= room:
                    after_hot, after = load_D[hot] - given * price_D[hot], load_D[device] + given * price_D[device]
                    gain = _raised(load_D[hot] / mean) + _raised(load_D[device] / mean)
                    gain -= _raised(after_hot / mean) + _raised(after / mean)
                    if gain > floor and gain / max(travels, _FREE) > best:
                        best, first, second, chosen, travel = gain / max(travels, _FREE), mine, slot, ours, travels
        if copies_E[ours] > 1:  # another expert in this slot
            for expert in range(load_E.size):
                travels = _travels(old_ED, hot, ours, expert)
                if held_ED[expert, hot] or travels > room:
                    continue
                _fill_change(mine, expert, slots_P, device_P, held_ED, copies_E, load_E, price_D, change_D)
                gain = _gain(load_D, change_D, mean)
                if gain > floor and gain / max(travels, _FREE) > best:
                    best, first, second, chosen, travel = gain / max(travels, _FREE), mine, -1, expert, travels
    return first, second, chosen, travel


@njit(cache=True, nogil=True)
def _note(log, place, slot, expert, moved, worst):  # type: ignore[no-untyped-def]
    log[0, place], log[1, place], log[2, place], log[3, place] = slot, expert, moved, worst


@njit(cache=True, nogil=True)
def _travels(old_ED, device, leaves, comes):  # type: ignore[no-untyped-def]
    """Copies that travel more when `comes` replaces `leaves` on the device."""
    return (0 if old_ED[comes, device] else 1) - (0 if old_ED[leaves, device] else 1)


@njit(cache=True, nogil=True)
def _fill_change(slot, expert, slots_P, device_P, held_ED, copies_E, load_E, price_D, change_D):  # type: ignore[no-untyped-def]
    """What every device's load gains when the slot gets `expert` instead of one with other copies."""
    device, before = device_P[slot], slots_P[slot]
    copies, others = copies_E[expert], copies_E[before] - 1
    less, more = (
        load_E[expert] / copies - load_E[expert] / (copies + 1),
        load_E[before] / others - load_E[before] / (others + 1),
    )
    for other in range(price_D.size):
        change_D[other] = (held_ED[before, other] * more - held_ED[expert, other] * less) * price_D[other]
    change_D[device] += (load_E[expert] / (copies + 1) - load_E[before] / others) * price_D[device]


@njit(cache=True, nogil=True)
def _trade(first, second, slots_P, device_P, held_ED, copies_E, load_E, load_D, price_D):  # type: ignore[no-untyped-def]
    one, other = slots_P[first], slots_P[second]
    here, there = device_P[first], device_P[second]
    given = load_E[one] / copies_E[one] - load_E[other] / copies_E[other]
    load_D[here] -= given * price_D[here]
    load_D[there] += given * price_D[there]
    held_ED[one, here] -= 1
    held_ED[other, here] += 1
    held_ED[other, there] -= 1
    held_ED[one, there] += 1
    slots_P[first], slots_P[second] = other, one


@njit(cache=True, nogil=True)
def _gain(load_D, change_D, mean):  # type: ignore[no-untyped-def]
    gain = 0.0
    for device in range(load_D.size):
        if change_D[device] != 0.0:
            gain += _raised(load_D[device] / mean) - _raised((load_D[device] + change_D[device]) / mean)
    return gain


@njit(cache=True, nogil=True)
def _raised(x):  # type: ignore[no-untyped-def]
    for _ in range(POWER_STEPS):
        x = x * x
    return x
