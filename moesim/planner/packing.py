"""Expert copies to devices, the most loaded first, without two copies of an expert on a device.

Array letters: E expert, D device, P slot.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.placement import slots_per_device
from moesim.planner.heap import drop_first, order, sift_up


def pack_longest_first(
    load_E: NDArray[np.float64],
    copies_E: NDArray[np.int64],
    num_devices: int,
    slots_D: NDArray[np.int64] | None = None,
    speed_D: NDArray[np.float64] | None = None,
) -> NDArray[np.int32]:
    """The expert of each slot, int32 [P], slots device by device; P is the sum of `copies_E` and of `slots_D`.

    Experts go in falling order of load per copy, ties by index; the copies of one go to the devices with the smallest
    loads (divided by `speed_D`, where given) that have room, all different. Where too few devices have room, a copy is
    swapped with one elsewhere afterwards, so that a device repeats an expert only when it has more copies than there
    are devices (or no swap separates them).
    """
    slots_D = slots_per_device(int(copies_E.sum()), num_devices) if slots_D is None else slots_D
    price_D = np.ones(num_devices) if speed_D is None else 1.0 / speed_D
    offsets_D1 = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(slots_D)))
    share_E = load_E / copies_E
    order_E = np.argsort(-share_E, kind="stable")
    expert_of_slot_P, load_D, repeats = _pack(share_E, copies_E, order_E, offsets_D1, price_D)
    if repeats:
        _separate(expert_of_slot_P, share_E, load_D, offsets_D1, price_D)
    return np.asarray(expert_of_slot_P, dtype=np.int32)


@njit(cache=True, nogil=True)
def _pack(share_E, copies_E, order_E, offsets_D1, price_D):  # type: ignore[no-untyped-def]  # types are numba's
    """Slots filled longest first, device loads, and how many copies found no device without their expert."""
    num_devices = offsets_D1.size - 1
    expert_of_slot_P = np.empty(offsets_D1[num_devices], dtype=np.int64)
    fill_D = np.zeros(num_devices, dtype=np.int64)
    load_D = np.zeros(num_devices, dtype=np.float64)
    heap, size = np.empty(num_devices, dtype=np.int64), 0
    for device in range(num_devices):
        if offsets_D1[device + 1] > offsets_D1[device]:
            heap[size] = device
            size += 1
    order(heap, size, load_D, fill_D)
    taken = np.empty(num_devices, dtype=np.int64)
    repeats = 0
    for expert in order_E:
        left = copies_E[expert]
        while left:
            together = min(left, size)
            for copy in range(together):
                taken[copy] = heap[0]
                size = drop_first(heap, size, load_D, fill_D)
            for device in taken[:together]:
                expert_of_slot_P[offsets_D1[device] + fill_D[device]] = expert
                fill_D[device] += 1
                load_D[device] += share_E[expert] * price_D[device]
                if offsets_D1[device] + fill_D[device] < offsets_D1[device + 1]:
                    heap[size] = device
                    sift_up(heap, size, load_D, fill_D)
                    size += 1
            left -= together
            repeats += left
    return expert_of_slot_P, load_D, repeats


@njit(cache=True, nogil=True)
def _separate(expert_of_slot_P, share_E, load_D, offsets_D1, price_D):  # type: ignore[no-untyped-def]
    """Swap each repeated copy with a copy elsewhere, the pair of devices left lightest, neither repeating anything."""
    held_E = np.zeros(share_E.size, dtype=np.bool_)  # experts on the device at hand
    for device in range(load_D.size):
        for slot in range(offsets_D1[device], offsets_D1[device + 1]):
            if held_E[expert_of_slot_P[slot]]:
                _swap_away(slot, device, held_E, expert_of_slot_P, share_E, load_D, offsets_D1, price_D)
            held_E[expert_of_slot_P[slot]] = True
        for slot in range(offsets_D1[device], offsets_D1[device + 1]):
            held_E[expert_of_slot_P[slot]] = False


@njit(cache=True, nogil=True)
def _swap_away(  # type: ignore[no-untyped-def]
    slot, device, held_E, expert_of_slot_P, share_E, load_D, offsets_D1, price_D
):
    """Swap the copy in `slot` with the best one on a device that lacks its expert; nothing where there is none."""
    expert = expert_of_slot_P[slot]
    best, best_slot, best_device = np.inf, -1, -1
    for later in range(slot + 1, offsets_D1[device + 1]):
        held_E[expert_of_slot_P[later]] = True
    for other in range(load_D.size):
        lacks = True
        for theirs in range(offsets_D1[other], offsets_D1[other + 1]):
            lacks = lacks and expert_of_slot_P[theirs] != expert
        if not lacks:
            continue
        for theirs in range(offsets_D1[other], offsets_D1[other + 1]):
            if held_E[expert_of_slot_P[theirs]]:
                continue
            gain = share_E[expert_of_slot_P[theirs]] - share_E[expert]
            heavier = max(load_D[device] + gain * price_D[device], load_D[other] - gain * price_D[other])
            if heavier < best:
                best, best_slot, best_device = heavier, theirs, other
    if best_slot >= 0:
        gain = share_E[expert_of_slot_P[best_slot]] - share_E[expert]
        load_D[device] += gain * price_D[device]
        load_D[best_device] -= gain * price_D[best_device]
        expert_of_slot_P[slot], expert_of_slot_P[best_slot] = expert_of_slot_P[best_slot], expert
    for later in range(slot + 1, offsets_D1[device + 1]):
        held_E[expert_of_slot_P[later]] = False
    for earlier in range(offsets_D1[device], slot):
        held_E[expert_of_slot_P[earlier]] = True
