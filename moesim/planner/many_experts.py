"""A layer with too many experts for a table of experts by devices: few nodes a token, level loads, memory shared evenly.

The experts that carry most load get a copy on every node, as far as slots reach; every other expert has one copy. With
product keys every node starts with a tile of the grid (`key_tiles`), else with experts that are used together
(`super_experts`); `smooth_fan_out` then moves those that the sketch's tokens use often, and each node deals its experts to
its devices by load. Work: tokens x top-k x nodes, and experts x log experts; nothing is as large as experts x devices.
Array letters: T token, K top-k, E expert, V expert that is often used, N node, D device, P slot.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.placement import ExpertPlacement, slots_per_device
from moesim.planner.packing import pack_longest_first
from moesim.planner.problem import PlacementProblem, TokenSketch
from moesim.planner.product_keys import group_by_keys, square_grid
from moesim.planner.smooth_fan_out import spread_smoothly, vertex_tokens
from moesim.planner.super_experts import NodeRoom, start_by_keys, start_by_use

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
LOAD_SLACK = 0.10  # a node's load may be this much above its share
DEVICE_SLACK = 0.15  # a device's
FEW_TOKENS = 6  # of the sketch; an expert used less often tells nothing about itself
THOROUGH = 2.0  # work limit from which tiles are dealt by Mt-KaHyPar
_ROOM = 0.6  # of a node's slots for experts with load: idle ones beside them are what lets its devices be level


def place_many(problem: PlacementProblem, sketch: TokenSketch | None, layer: int) -> ExpertPlacement:
    """The layer's placement on exactly the problem's slots; by load alone where there is no sketch."""
    load_E = problem.load_LE[layer]
    slots_N = np.bincount(problem.node_of_devices, weights=problem.slots_of_devices).astype(np.int64)
    by_load_E = np.argsort(-load_E, kind="stable")
    hot = by_load_E[: _num_everywhere(problem.num_slots, problem.num_experts, slots_N)]
    node_E = _nodes(problem, sketch, layer, hot, slots_N)
    room_N = slots_N - hot.size
    _evict(node_E, load_E, room_N)
    homeless = by_load_E[node_E[by_load_E] == _NOWHERE]
    _house(node_E, homeless, load_E, room_N, _share(problem))
    return _on_devices(problem, load_E, node_E, hot, by_load_E[hot.size :], slots_N)


_NOWHERE, _EVERYWHERE = -1, -2


def _num_everywhere(num_slots: int, num_experts: int, slots_N: Ints) -> int:
    """How many experts can have a copy on every node while every other expert keeps one."""
    if slots_N.size == 1:
        return 0
    return int(min((num_slots - num_experts) // (slots_N.size - 1), slots_N.min(), num_experts))


def _share(problem: PlacementProblem) -> Floats:
    """The part of all load that is each node's [N], by the speeds of devices with slots."""
    able_D = problem.speeds * (problem.slots_of_devices > 0)
    speed_N = np.bincount(problem.node_of_devices, weights=able_D, minlength=problem.num_nodes)
    share_N: Floats = speed_N / speed_N.sum()
    return share_N


def _nodes(problem: PlacementProblem, sketch: TokenSketch | None, layer: int, hot: Ints, slots_N: Ints) -> Ints:
    """The node of each expert that tokens or keys give one [E], else -1; -2 for those on every node."""
    load_E, num_experts = problem.load_LE[layer], problem.num_experts
    node_E = np.full(num_experts, _NOWHERE, dtype=np.int64)
    node_E[hot] = _EVERYWHERE
    if sketch is None or sketch.num_tokens == 0 or problem.num_nodes == 1:
        return node_E
    experts_TK = sketch.experts_LTK[layer]
    seen_E = np.bincount(experts_TK[experts_TK >= 0], minlength=num_experts)
    alone = np.flatnonzero((seen_E >= FEW_TOKENS) & (node_E == _NOWHERE))
    group_E, room = group_by_keys(experts_TK, num_experts), _room(problem, load_E, hot, slots_N)
    vertex_E = np.full(num_experts, -1, dtype=np.int64)
    vertex_E[alone] = np.arange(alone.size)
    num_vertices = alone.size
    if group_E is not None:  # experts that are seldom used stay with those of their tile and row
        _start_by_keys(node_E, problem, sketch, layer, room)
        rare = np.flatnonzero((node_E >= 0) & (vertex_E < 0) & (load_E > 0))
        together, vertex_A = np.unique(node_E[rare] * num_experts + group_E[rare], return_inverse=True)
        vertex_E[rare] = num_vertices + vertex_A
        num_vertices += together.size
    if num_vertices == 0:
        return node_E
    there = np.flatnonzero(vertex_E >= 0)
    vertex_TK = np.where(experts_TK >= 0, vertex_E[experts_TK], -1)
    weight_T = sketch.weight_T * sketch.window_weight_W[sketch.window_T]
    load_V = np.bincount(vertex_E[there], weights=load_E[there], minlength=num_vertices).astype(np.float64)
    size_V = np.bincount(vertex_E[there], minlength=num_vertices).astype(np.float64)
    if group_E is None:
        start_V = start_by_use(vertex_TK, weight_T, load_V, room, _longest_first(load_V, slots_N.size))
    else:
        start_V = np.empty(num_vertices, dtype=np.int64)
        start_V[vertex_E[there]] = node_E[there]
    node_E[there] = spread_smoothly(
        start_V, vertex_tokens(vertex_TK, num_vertices), weight_T, load_V, size_V, room.most_load_N, room.most_size_N
    )[vertex_E[there]]
    return node_E


def _start_by_keys(node_E: Ints, problem: PlacementProblem, sketch: TokenSketch, layer: int, room: NodeRoom) -> None:
    """Give every expert that is not everywhere the node of its tile of the grid of keys."""
    hot_E = node_E == _EVERYWHERE
    load_E = np.where(hot_E, 0.0, problem.load_LE[layer])
    experts_TK = sketch.experts_LTK[layer]
    if hot_E.any():
        experts_TK = np.where((experts_TK >= 0) & ~hot_E[experts_TK], experts_TK, np.int32(-1))
    node_T = (sketch.source_T % problem.num_devices // problem.devices_per_node).astype(np.int64)
    tile_E = start_by_keys(
        experts_TK,
        node_T,
        load_E,
        square_grid(problem.num_experts),
        room,
        problem.seed,
        thorough=problem.work_limit >= THOROUGH,
    )
    node_E[~hot_E] = tile_E[~hot_E]


def _room(problem: PlacementProblem, load_E: Floats, hot: Ints, slots_N: Ints) -> NodeRoom:
    """What nodes take beside the experts that are everywhere."""
    share_N = _share(problem)
    most_load_N = share_N * ((1.0 + LOAD_SLACK) * load_E.sum() - load_E[hot].sum())
    room_N = (slots_N - hot.size).astype(np.float64)
    enough = 1.5 * np.count_nonzero(load_E > 0) / max(float(room_N.sum()), 1.0)
    return NodeRoom(
        share_N=share_N,
        most_load_N=np.maximum(most_load_N, 0.0),
        most_size_N=room_N * max(_ROOM, min(1.0, enough)),
    )


def _longest_first(load_V: Floats, num_nodes: int) -> Ints:
    """The node of each vertex, the heaviest to the lightest node; equal numbers of vertices, up to one."""
    slots_N = slots_per_device(load_V.size, num_nodes)
    packed = pack_longest_first(load_V, np.ones(load_V.size, dtype=np.int64), num_nodes, slots_N)
    node_V = np.empty(load_V.size, dtype=np.int64)
    node_V[packed] = np.repeat(np.arange(num_nodes), slots_N)
    return node_V


def _evict(node_E: Ints, load_E: Floats, room_N: Ints) -> None:
    """Take the lightest experts off nodes that have more than room."""
    there = np.flatnonzero(node_E >= 0)
    order = there[np.lexsort((-load_E[there], node_E[there]))]
    count_N = np.bincount(node_E[there], minlength=room_N.size)
    place = np.arange(order.size) - np.repeat(np.cumsum(count_N) - count_N, count_N)
    node_E[order[place >= room_N[node_E[order]]]] = _NOWHERE


def _house(node_E: Ints, homeless: Ints, load_E: Floats, room_N: Ints, share_N: Floats) -> None:
    """Experts without a node, heaviest first, to the lightest node with room; those without load wherever room is."""
    there = np.flatnonzero(node_E >= 0)
    left_N = room_N - np.bincount(node_E[there], minlength=room_N.size)
    load_N = np.bincount(node_E[there], weights=load_E[there], minlength=room_N.size) / np.maximum(share_N, 1e-12)
    loaded = homeless[load_E[homeless] > 0]
    _to_lightest(node_E, loaded, load_E, left_N, load_N, np.maximum(share_N, 1e-12))
    idle = homeless[loaded.size :]
    node_E[idle] = np.repeat(np.arange(room_N.size), left_N)[: idle.size]


@njit(cache=True, nogil=True)
def _to_lightest(node_E, experts, load_E, left_N, load_N, share_N):  # type: ignore[no-untyped-def]  # types are numba's
    for expert in experts:
        best, chosen = np.inf, -1
        for node in range(left_N.size):
            if left_N[node] > 0 and load_N[node] < best:
                best, chosen = load_N[node], node
        node_E[expert] = chosen
        left_N[chosen] -= 1
        load_N[chosen] += load_E[expert] / share_N[chosen]


def _on_devices(
    problem: PlacementProblem, load_E: Floats, node_E: Ints, hot: Ints, others: Ints, slots_N: Ints
) -> ExpertPlacement:
    """Each node's experts to its devices, longest first; slots left over get copies of what carries most load."""
    order = np.argsort(node_E, kind="stable")
    order = order[node_E[order] >= 0]
    starts_N1 = np.searchsorted(node_E[order], np.arange(slots_N.size + 1))
    copies_E = np.ones(load_E.size)
    copies_E[hot] = slots_N.size
    parts = []
    for node in range(slots_N.size):
        mine = np.concatenate([hot, order[starts_N1[node] : starts_N1[node + 1]]])
        mine = np.concatenate([mine, _more(others, node_E, node, int(slots_N[node]) - mine.size, hot)])
        devices = slice(node * problem.devices_per_node, (node + 1) * problem.devices_per_node)
        slots_D = problem.slots_of_devices[devices]
        unique, copies = np.unique(mine, return_counts=True)
        share = load_E[unique] / copies_E[unique]
        speeds = problem.speeds[devices]
        parts.append(unique[pack_longest_first(share, copies, slots_D.size, slots_D, speeds)])
    expert_P = np.concatenate(parts)
    single_E = np.bincount(expert_P, minlength=load_E.size) == 1
    offsets_D1 = np.concatenate([[0], np.cumsum(problem.slots_of_devices)])
    price_D = float(problem.speeds.sum()) / problem.speeds
    most = (1.0 + DEVICE_SLACK) * float(load_E.sum())
    _relieve(expert_P, load_E / copies_E, single_E, offsets_D1, price_D, most)
    return problem.placement(expert_P)


@njit(cache=True, nogil=True)
def _relieve(expert_P, share_E, is_single_E, offsets_D1, price_D, most):  # type: ignore[no-untyped-def]  # types are numba's
    """Swap experts of devices above `most` for the lightest of other devices: a node's heavy experts may not divide well.

    The lightest expert that brings the device under `most` goes to the fullest device that can take it.
    """
    load_D = np.zeros(price_D.size)
    for device in range(price_D.size):
        for slot in range(offsets_D1[device], offsets_D1[device + 1]):
            load_D[device] += share_E[expert_P[slot]] * price_D[device]
    for _ in range(4 * price_D.size):
        hot = np.argmax(load_D)
        if load_D[hot] <= most:
            break
        given = -1
        for slot in range(offsets_D1[hot], offsets_D1[hot + 1]):
            enough = load_D[hot] - share_E[expert_P[slot]] * price_D[hot] <= most
            lighter = given < 0 or share_E[expert_P[slot]] < share_E[expert_P[given]]
            if enough and lighter and is_single_E[expert_P[slot]]:
                given = slot
        if given < 0:
            break
        share, target = share_E[expert_P[given]], -1
        for device in range(price_D.size):
            fits = load_D[device] + share * price_D[device] <= most and offsets_D1[device] < offsets_D1[device + 1]
            if fits and (target < 0 or load_D[device] > load_D[target]):
                target = device
        taken = -1
        if target >= 0:
            for slot in range(offsets_D1[target], offsets_D1[target + 1]):
                lighter = taken < 0 or share_E[expert_P[slot]] < share_E[expert_P[taken]]
                if lighter and is_single_E[expert_P[slot]]:
                    taken = slot
        if taken < 0 or share_E[expert_P[taken]] >= share:
            break
        back = share_E[expert_P[taken]]
        load_D[hot] += (back - share) * price_D[hot]
        load_D[target] += (share - back) * price_D[target]
        expert_P[given], expert_P[taken] = expert_P[taken], expert_P[given]


def _more(others: Ints, node_E: Ints, node: int, count: int, hot: Ints) -> Ints:
    """`count` more experts for a node: the heaviest that it lacks, then any again."""
    if count <= 0:
        return others[:0]
    lacking = others[node_E[others] != node][:count]
    again = np.concatenate([hot, others])
    return np.concatenate([lacking, np.resize(again, count - lacking.size)])
