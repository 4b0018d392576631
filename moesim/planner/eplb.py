"""DeepSeek's expert-parallelism load balancer (EPLB), reproduced bit for bit with its waste.

After github.com/deepseek-ai/EPLB, eplb.py (MIT licence), written anew: the same float32 arithmetic and the same order,
so the same slots. Ties: a sort keeps the lower index first, a maximum or minimum is its first occurrence. Upstream
leaves equal loads to torch's unstable sort, which keeps the lower index first up to 16 items or on processors without
AVX-512 sorting; elsewhere the upstream answer for equal loads is another one of the same quality. Group loads are
rounded once from float64; upstream's float32 sums can differ from them in the last bit above 2**24 tokens a group.
Heaps stand where upstream scans: 65,536 experts take 0.04 s.

Array letters: L MoE ordinal, E expert, G group, D device, N node, P slot. A *local expert* is an expert numbered within
its node.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.errors import Declined
from moesim.placement import ExpertPlacement
from moesim.planner.heap import drop_first, order, sift_down
from moesim.planner.problem import PlacementAnswer, PlacementProblem


def place_eplb(
    problem: PlacementProblem, num_groups: int, num_nodes: int, notes: tuple[str, ...] = ()
) -> PlacementAnswer:
    """Place every layer with `num_groups` expert groups packed to `num_nodes` nodes; 1 and 1 is the global policy.

    EPLB wants the same number of slots on every device: the largest such number not above what was asked is used, and
    noted. Raises Declined where that number is below the number of experts.
    """
    asked, devices, experts = problem.num_slots, problem.num_devices, problem.num_experts
    used = asked - asked % devices
    if problem.slots_D is not None:
        used = min(used, int(problem.slots_D.min()) * devices)  # no device more than the one with least room
    if used < experts:
        raise Declined(
            f"EPLB needs slots divisible by {devices} devices; the largest such number up to slots={asked} is {used}, "
            f"fewer than experts={experts}; ask for {-(-experts // devices) * devices}"
        )
    if used < asked:
        notes += (f"EPLB needs slots divisible by {devices} devices: {used} used of {asked} asked",)
    load_LE = problem.load_LE.astype(np.float32)
    rows = (rebalance(load_E, used, num_groups, num_nodes, devices) for load_E in load_LE)
    return PlacementAnswer(tuple(ExpertPlacement(row, experts, devices) for row in rows), notes)


def rebalance(
    load_E: NDArray[np.float32], num_slots: int, num_groups: int, num_nodes: int, num_devices: int
) -> NDArray[np.int32]:
    """The expert of each slot of one layer, int32 [P], slots numbered node by node, device by device.

    Groups must divide experts, nodes must divide groups and devices, devices must divide slots.
    """
    group_size = load_E.size // num_groups
    slots_per_node = num_slots // num_nodes

    # Step 1: pack groups to nodes.  [G] -> the experts of each node, in packing order [N, E / N]
    load_G = load_E.reshape(num_groups, group_size).sum(axis=1, dtype=np.float64).astype(np.float32)
    groups_NG = pack_equal_counts(load_G, num_nodes)
    experts_NE = (groups_NG[:, :, None] * group_size + np.arange(group_size)).reshape(num_nodes, -1)

    expert_of_slot_NP = np.empty((num_nodes, slots_per_node), dtype=np.int32)
    for node, experts in enumerate(experts_NE):
        # Step 2: copy the experts with the largest load per copy.  [E / N] -> local expert of each copy [P / N]
        load_local = load_E[experts]
        local_of_copy, copies = replicate(load_local, slots_per_node)

        # Step 3: pack the copies to the node's devices.  [P / N] -> the copies of each device [D / N, P / D]
        load_of_copy = (load_local / copies.astype(np.float32))[local_of_copy]
        copies_D = pack_equal_counts(load_of_copy, num_devices // num_nodes)
        expert_of_slot_NP[node] = experts[local_of_copy[copies_D.ravel()]]
    return expert_of_slot_NP.ravel()


@njit(cache=True, nogil=True)
def replicate(load_E, num_slots):  # type: ignore[no-untyped-def]  # types are numba's
    """Each copy beyond the first goes to the expert with the largest load per copy, the lowest index among equals.

    `load_E` float32; returns the expert of each copy int64 [num_slots], first copies first, and the copies of each
    expert [E].
    """
    num_experts = load_E.size
    expert_of_copy = np.arange(num_slots)
    copies_E = np.ones(num_experts, dtype=np.int64)
    key_E = -load_E.astype(np.float64)  # float32 values, so that they compare as float32
    equal_E = np.zeros(num_experts, dtype=np.int64)
    heap = np.arange(num_experts)
    order(heap, num_experts, key_E, equal_E)
    for copy in range(num_experts, num_slots):
        expert = heap[0]
        expert_of_copy[copy] = expert
        copies_E[expert] += 1
        key_E[expert] = -(load_E[expert] / np.float32(copies_E[expert]))
        sift_down(heap, num_experts, 0, key_E, equal_E)
    return expert_of_copy, copies_E


def pack_equal_counts(load_I: NDArray[np.float32], num_packs: int) -> NDArray[np.int64]:
    """Pack items, largest first, each into the lightest pack with room; the packs get equally many.

    `load_I` holds a multiple of `num_packs` items. Returns the items of each pack in packing order, [packs, items].
    """
    if load_I.size == num_packs:  # one each, in their own order
        return np.arange(num_packs)[:, None]
    packed: NDArray[np.int64] = _pack(load_I, np.argsort(-load_I, kind="stable"), num_packs)
    return packed


@njit(cache=True, nogil=True)
def _pack(load_I, order_I, num_packs):  # type: ignore[no-untyped-def]
    """Pack items in the order given."""
    items_per_pack = load_I.size // num_packs
    packed = np.empty((num_packs, items_per_pack), dtype=np.int64)
    fill = np.zeros(num_packs, dtype=np.int64)
    load = np.zeros(num_packs, dtype=np.float64)  # float32 values
    equal = np.zeros(num_packs, dtype=np.int64)
    heap, size = np.arange(num_packs), num_packs  # in heap order already
    for item in order_I:
        pack = heap[0]
        packed[pack, fill[pack]] = item
        fill[pack] += 1
        load[pack] = np.float32(load[pack]) + load_I[item]
        if fill[pack] == items_per_pack:
            size = drop_first(heap, size, load, equal)
        else:
            sift_down(heap, size, 0, load, equal)
    return packed
