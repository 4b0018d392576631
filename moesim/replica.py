"""Which copy of its expert each token is sent to.

Array letters: T token, K top-k, E expert, P slot, D device, R replicated expert (one with several copies). `nearest`
fixes one copy for each (source device, expert), as SGLang's static dispatch does: a copy on the device itself, else one
on its node, else the devices without a copy near are split evenly over all copies. `even` draws a copy for each token,
`split` draws it by the shares that the placement carries for the token's source node.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.errors import InputError, unknown_name
from moesim.hashing import splitmix64
from moesim.placement import ExpertPlacement
from moesim.units import TINY

POLICIES = ("even", "nearest", "split")
_TABLE_ENTRIES = (
    1 << 25
)  # slots of one table of `nearest` (128 MiB); more replicated experts are done in several passes
mix = njit(cache=True)(splitmix64)  # also for kernels that repeat these choices


def choose_replicas(
    experts_TK: NDArray[np.int32],
    source_T: NDArray[np.int32],
    placement: ExpertPlacement,
    policy: str,
    devices_per_node: int,
    seed: int,
    token_offset: int = 0,
) -> NDArray[np.int32]:
    """The slot each (token, expert) pair is sent to, int32 [T, K]; -1 where the row has no expert or that no live copy.

    `policy` is nearest, even or split; token i of the array has index `token_offset` + i for the last two. The answer
    depends only on the arguments. Raises InputError for ids or sources out of range, or a placement without shares for
    `split`; UnknownName for another policy.
    """
    if policy not in POLICIES:
        raise unknown_name("replica policy", policy, POLICIES)
    _check(experts_TK, source_T, placement)
    if policy == "split":
        shares_NP = live_shares(placement)
    slots_TK = _first_copies(experts_TK, placement)
    if placement.num_slots == placement.num_experts:
        return slots_TK
    if policy == "even":
        key = replica_key(seed)
        _even(
            slots_TK, experts_TK, placement.slot_offsets_E1, placement.slots_by_expert_P, key, np.uint64(token_offset)
        )
        return slots_TK
    if policy == "split":
        node_T = source_T // sources_per_row(len(shares_NP), placement.num_devices, devices_per_node)
        if source_T.size and node_T.max() >= len(shares_NP):
            raise InputError(f"the split has shares for {len(shares_NP)} source nodes, the group {node_T.max() + 1}")
        copies = (placement.slot_offsets_E1, placement.slots_by_expert_P, shares_NP)
        _split(slots_TK, experts_TK, node_T, *copies, replica_key(seed), np.uint64(token_offset))
        return slots_TK
    wanted_E = np.zeros(placement.num_experts, dtype=np.bool_)
    where = (placement.slot_offsets_E1, placement.slots_by_expert_P, placement.device_of_slot_P)
    _only_near(slots_TK, experts_TK, source_T, *where, devices_per_node, wanted_E)
    replicated_R = np.flatnonzero(wanted_E)
    step = max(1, _TABLE_ENTRIES // placement.num_devices)
    for start in range(0, replicated_R.size, step):
        block_R = replicated_R[start : start + step]
        table_RD = nearest_table(placement, block_R, devices_per_node, seed)
        row_E = np.full(placement.num_experts, -1, dtype=np.int32)
        row_E[block_R] = np.arange(block_R.size, dtype=np.int32)
        _look_up(slots_TK, experts_TK, source_T, row_E, table_RD)
    return slots_TK


def nearest_table(
    placement: ExpertPlacement, experts_R: NDArray[np.int64], devices_per_node: int, seed: int
) -> NDArray[np.int32]:
    """The slot that each source device uses for each of `experts_R`, int32 [R, D].

    Within each of the three classes (copies on the device, on the node, elsewhere) every copy gets its share of the
    sources, equal up to one, in an order shuffled by `seed` and the expert.
    """
    table_RD = np.full((experts_R.size, placement.num_devices), -1, dtype=np.int32)
    _fill_nearest(
        table_RD,
        experts_R,
        placement.slot_offsets_E1,
        placement.slots_by_expert_P,
        placement.device_of_slot_P,
        devices_per_node,
        replica_key(seed),
    )
    return table_RD


def replica_key(seed: int) -> np.uint64:
    """The key that `even`, `split` and the shuffles of `nearest` start from."""
    if seed < 0:
        raise InputError(f"seed={seed} is negative; seeds are integers >= 0")
    return np.uint64(splitmix64(np.array([seed % (1 << 64)], dtype=np.uint64))[0])


def sources_per_row(num_rows: int, num_devices: int, devices_per_node: int) -> int:
    """Source devices that share one row of a split: all of one row, each of its own, else those of a node."""
    if num_rows == 1:
        return num_devices
    return 1 if num_rows == num_devices else devices_per_node


def live_shares(placement: ExpertPlacement) -> NDArray[np.float64]:
    """The placement's split over its live slots [N, P]: scaled to sum to 1 for each expert, even where nothing is left."""
    if placement.split_NP is None:
        raise InputError("replica policy split needs a plan with a split table; take nearest or even, or plan again")
    if not placement.dead_devices:
        return placement.split_NP
    expert_P = placement.expert_of_slot_P
    alive_P = ~np.isin(placement.device_of_slot_P, placement.dead_devices)
    shares_NP = placement.split_NP * alive_P
    total_NE = np.stack([np.bincount(expert_P, weights=row, minlength=placement.num_experts) for row in shares_NP])
    shares_NP = np.where(total_NE[:, expert_P] > 0, shares_NP, alive_P)
    total_NE = np.stack([np.bincount(expert_P, weights=row, minlength=placement.num_experts) for row in shares_NP])
    shared_NP: NDArray[np.float64] = shares_NP / np.maximum(total_NE[:, expert_P], TINY)
    return shared_NP


def _check(experts_TK: NDArray[np.int32], source_T: NDArray[np.int32], placement: ExpertPlacement) -> None:
    if experts_TK.ndim != 2 or source_T.shape != experts_TK.shape[:1]:
        raise InputError(f"experts of shape {experts_TK.shape} do not match sources of shape {source_T.shape}")
    if experts_TK.size and not (-1 <= experts_TK.min() and experts_TK.max() < placement.num_experts):
        raise InputError(
            f"expert ids {experts_TK.min()}..{experts_TK.max()} leave -1..{placement.num_experts - 1} of the placement"
        )
    if source_T.size and not (0 <= source_T.min() and source_T.max() < placement.num_devices):
        raise InputError(
            f"source devices {source_T.min()}..{source_T.max()} leave 0..{placement.num_devices - 1} of the placement"
        )


def _first_copies(experts_TK: NDArray[np.int32], placement: ExpertPlacement) -> NDArray[np.int32]:
    """The lowest slot of each expert, -1 without a live copy; -1 stays -1 (the entry after the last expert)."""
    slots_P1 = np.append(placement.slots_by_expert_P, np.int32(-1))
    first_E = np.where(placement.replicas_E > 0, slots_P1[placement.slot_offsets_E1[:-1]], np.int32(-1))
    return np.append(first_E, np.int32(-1))[experts_TK]


@njit(cache=True, nogil=True)
def _even(slots_TK, experts_TK, offsets_E1, slots_P, key, token_offset):  # type: ignore[no-untyped-def]
    """Replace each replicated expert's slot by copy number hash(seed, token, expert) mod copies."""
    for token in range(experts_TK.shape[0]):
        token_key = mix(key ^ (np.uint64(token) + token_offset))
        for k in range(experts_TK.shape[1]):
            expert = experts_TK[token, k]
            if expert < 0:
                continue
            copies = offsets_E1[expert + 1] - offsets_E1[expert]
            if copies > 1:
                copy = mix(token_key ^ np.uint64(expert)) % np.uint64(copies)
                slots_TK[token, k] = slots_P[offsets_E1[expert] + np.int64(copy)]


@njit(cache=True, nogil=True)
def _split(slots_TK, experts_TK, node_T, offsets_E1, slots_P, shares_NP, key, token_offset):  # type: ignore[no-untyped-def]
    """Replace each replicated expert's slot by the one whose stretch of shares holds hash(seed, token, expert)."""
    for token in range(experts_TK.shape[0]):
        token_key = mix(key ^ (np.uint64(token) + token_offset))
        for k in range(experts_TK.shape[1]):
            expert = experts_TK[token, k]
            if expert >= 0 and offsets_E1[expert + 1] - offsets_E1[expert] > 1:
                slots = slots_P[offsets_E1[expert] : offsets_E1[expert + 1]]
                slots_TK[token, k] = drawn_slot(token_key, expert, slots, shares_NP[node_T[token]])


@njit(cache=True, nogil=True)
def drawn_slot(token_key, expert, slots, share_P):  # type: ignore[no-untyped-def]
    """The slot of `slots` whose stretch of shares holds the token's draw."""
    draw = (mix(token_key ^ np.uint64(expert)) >> np.uint64(11)) * 2.0**-53
    for slot in slots:
        draw -= share_P[slot]
        if draw < 0.0:
            return slot
    last = slots[0]  # rounding only: the last one with a share
    for slot in slots:
        if share_P[slot] > 0.0:
            last = slot
    return last


@njit(cache=True, nogil=True)
def _only_near(  # type: ignore[no-untyped-def]
    slots_TK, experts_TK, source_T, offsets_E1, slots_P, device_P, devices_per_node, wanted_E
):
    """Use the only copy on the token's device or, where that has none, on its node; `wanted_E`: experts with other pairs.

    The table of `nearest` says the same of these pairs, so that it need not be made for experts of every node.
    """
    for token in range(experts_TK.shape[0]):
        source = source_T[token]
        first_device = source - source % devices_per_node
        for k in range(experts_TK.shape[1]):
            expert = experts_TK[token, k]
            if expert < 0 or offsets_E1[expert + 1] - offsets_E1[expert] < 2:
                continue
            slots = slots_P[offsets_E1[expert] : offsets_E1[expert + 1]]
            low, high = 0, slots.size
            while low < high:
                middle = (low + high) // 2
                if device_P[slots[middle]] < first_device:
                    low = middle + 1
                else:
                    high = middle
            on_node, on_device, chosen = 0, 0, -1
            while low < slots.size and device_P[slots[low]] < first_device + devices_per_node:
                on_node += 1
                if device_P[slots[low]] == source:
                    on_device += 1
                if device_P[slots[low]] == source or on_device == 0:
                    chosen = slots[low]
                low += 1
            if on_device == 1 or (on_device == 0 and on_node == 1):
                slots_TK[token, k] = chosen
            else:
                wanted_E[expert] = True


@njit(cache=True, nogil=True)
def _look_up(slots_TK, experts_TK, source_T, row_E, table_RD):  # type: ignore[no-untyped-def]
    """Replace the slots of the experts that have a row in the table."""
    for token in range(experts_TK.shape[0]):
        for k in range(experts_TK.shape[1]):
            expert = experts_TK[token, k]
            if expert >= 0 and row_E[expert] >= 0:
                slots_TK[token, k] = table_RD[row_E[expert], source_T[token]]


@njit(cache=True, nogil=True)
def _fill_nearest(  # type: ignore[no-untyped-def]
    table_RD, experts_R, offsets_E1, slots_P, device_P, devices_per_node, key
):
    """One row per expert."""
    for row in range(experts_R.size):
        slots = slots_P[offsets_E1[experts_R[row]] : offsets_E1[experts_R[row] + 1]]
        fill_nearest_row(table_RD[row], experts_R[row], slots, device_P, devices_per_node, key)


@njit(cache=True, nogil=True)
def fill_nearest_row(slot_D, expert, slots, device_P, devices_per_node, key):  # type: ignore[no-untyped-def]
    """Devices that hold the expert themselves, then those whose node does, then all left over; `slot_D` starts at -1.

    `slots` ascend, so their devices do too.
    """
    num_devices = slot_D.size
    state = mix(key ^ np.uint64(expert))
    for width in (1, devices_per_node, num_devices):
        start = 0
        for end in range(1, slots.size + 1):  # copies start..end-1 lie in one stretch of `width` devices
            stretch = device_P[slots[start]] // width
            if end == slots.size or device_P[slots[end]] // width != stretch:
                near_D = slot_D[stretch * width : min(num_devices, (stretch + 1) * width)]
                state = _share(near_D, slots[start:end], state)
                start = end


@njit(cache=True, nogil=True)
def _share(slot_D, slots, state):  # type: ignore[no-untyped-def]
    """Give each device without a slot (-1) one of `slots`, each equally often up to one; returns the next state.

    Devices and slots are both shuffled, so that neither who gets one source more nor who gets whom is regular.
    """
    devices, count = np.empty(slot_D.size, dtype=np.int64), 0
    for device in range(slot_D.size):
        if slot_D[device] < 0:
            devices[count] = device
            count += 1
    order = np.arange(slots.size)
    state = _shuffle(devices, count, state)
    state = _shuffle(order, slots.size, state)
    for position in range(count):
        slot_D[devices[position]] = slots[order[position % slots.size]]
    return state


@njit(cache=True, nogil=True)
def _shuffle(items, count, state):  # type: ignore[no-untyped-def]
    """Fisher-Yates on the first `count` items, in place; returns the next state."""
    for last in range(count - 1, 0, -1):
        state = mix(state)
        pick = np.int64(state % np.uint64(last + 1))
        items[last], items[pick] = items[pick], items[last]
    return state
