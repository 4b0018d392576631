"""Bounds: what no placement can beat, term by term, so that a plan can say how far from optimal it is.

Array letters: E expert, D device, S rank (of all groups), N node, T token, K top-k.

`receive_bounds` hold for what a rank waits for and computes itself; a step takes at least the mean of that over ranks
(with any weights), even where fast ranks run ahead, so their sum over layers bounds a step from below.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.planner.bounds_fitted import ExpertFloor
from moesim.planner.objective_tables import CostTables

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ReceiveBounds:
    """Seconds of one layer of one step that ranks need for themselves, in the weighted mean over ranks, at least."""

    dispatch_s: float
    experts_s: float
    combine_s: float
    shared_s: float
    names: tuple[str, str, str]  # of the argument behind each of the first three


def receive_bounds(
    costs: CostTables,
    slots_D: Ints,
    experts_TK: NDArray[np.int32],
    source_T: NDArray[np.int32],
    weight_S: Floats,
    inbound: dict[tuple[int, str], float],
    floor: ExpertFloor | None = None,
) -> ReceiveBounds:
    """Bounds for all tokens of one step in one layer; `weight_S` weighs the ranks and sums to 1.

    `inbound` is `inbound_seconds(costs, weight_S)`, `floor` is `expert_floor` where experts follow a fitted curve.

    experts     mean over ranks of launch + max(weight bytes of every expert with a token, once a group / HBM rate,
                tiles of every expert's tokens / FLOP rate) + activations + shared expert: splitting an expert over
                copies reads weights again and never saves a tile; by a fitted curve, see bounds_fitted
    dispatch, combine   extra + the fewest copies that must come in / the links they come in by: a token needs
                ceil(K / slots) devices and ceil(K / slots of a node) nodes, and a rank's or node's own slots serve at
                most its most wanted experts
    """
    source, expert = source_pairs(experts_TK, source_T)
    load_GE = group_loads(costs, source, expert)
    routed_s, compute = experts_bound(costs, slots_D, load_GE, weight_S, floor)
    tokens_S = np.bincount(source_T, minlength=costs.num_ranks)
    shared_S = np.maximum(
        tokens_S * costs.shared_params * costs.shared_flop_s_S, costs.shared_bytes * costs.shared_byte_s_S
    )
    has_shared = (tokens_S > 0) & (costs.shared_params > 0)
    shared_s = float((weight_S * has_shared * (costs.shared_launch_s + shared_S)).sum())
    copies = _fewest_copies(costs, slots_D, experts_TK, source_T, source, expert)
    times, names = [], []
    for op in range(2):
        arguments = {"fixed cost": 0.0, "collective of no placement": float(costs.constant_O[op])}
        for argument, (kind, amount) in copies.items():
            arguments[argument] = amount * inbound[op, kind]
        name = max(arguments, key=lambda key: arguments[key])
        names.append(name)
        times.append(max(float(costs.least_O[op]), float(costs.extra_O[op]) + arguments[name]))
    return ReceiveBounds(
        dispatch_s=times[0],
        experts_s=routed_s + shared_s,
        combine_s=times[1],
        shared_s=shared_s,
        names=(names[0], compute, names[1]),
    )


def source_pairs(experts_TK: NDArray[np.int32], source_T: NDArray[np.int32]) -> tuple[Ints, Ints]:
    """Source rank and expert of every pair of a token and one of its experts."""
    token, k = np.nonzero(experts_TK >= 0)
    return source_T[token].astype(np.int64), experts_TK[token, k].astype(np.int64)


def group_loads(costs: CostTables, source: Ints, expert: Ints) -> Ints:
    """Tokens of each expert in each expert-parallel group [G, E], from `source_pairs`."""
    groups, experts = costs.num_ranks // costs.group_size, costs.params_E.size
    keys = source // costs.group_size * experts + expert
    return np.bincount(keys, minlength=groups * experts).reshape(groups, experts)


def experts_bound(
    costs: CostTables,
    slots_D: Ints,
    load_GE: NDArray[np.integer],
    weight_S: Floats,
    floor: ExpertFloor | None = None,
) -> tuple[float, str]:
    """Seconds of routed experts, weighted mean over ranks, at least, for tokens of each expert in each group; the argument."""
    if costs.curve.fitted:
        least_s = 0.0 if floor is None else floor.seconds(load_GE)
        return least_s, "the cheapest groups of experts that devices and slots allow, by the fitted curve"
    byte_s, flop_s = float((weight_S * costs.byte_s_S).min()), float((weight_S * costs.flop_s_S).min())
    active_GE = load_GE > 0
    tiles_GE = -(-load_GE // costs.tile) * costs.tile
    read_s = byte_s * float((active_GE * costs.weight_bytes_E).sum())
    multiply_s = flop_s * float((tiles_GE * costs.params_E).sum())
    moved_s = float((weight_S * costs.moved_s_S).min()) * float((load_GE * costs.activation_bytes_E).sum())
    busy = sum(math.ceil(int(active.sum()) / int(slots_D.max())) for active in active_GE)
    launch_s = costs.launch_s * float(np.sort(weight_S)[:busy].sum())
    name = "every active expert's weights read once" if read_s >= multiply_s else "total work over capacity"
    return launch_s + max(read_s, multiply_s) + moved_s, name


def _fewest_copies(
    costs: CostTables,
    slots_D: Ints,
    experts_TK: NDArray[np.int32],
    source_T: NDArray[np.int32],
    source: Ints,
    expert: Ints,
) -> dict[str, tuple[str, float]]:
    """Kind and number of copies that any placement makes, by the argument."""
    per_node, group = costs.devices_per_node, costs.group_size
    in_device = int(slots_D.max())
    in_node = int(np.add.reduceat(slots_D, np.arange(0, group, per_node)).max())
    k_T = (experts_TK >= 0).sum(axis=1)
    most_k = int(k_T.max(initial=0))
    pairs = int(k_T.sum())
    far_device = pairs - _served(source, expert, in_device)
    far_node = pairs - _served(source // per_node, expert, in_node)
    if not costs.distinct:
        return {
            "every pair is a copy": ("engine", float(pairs)),
            "experts that a device's slots cannot hold": ("device", float(far_device)),
        }
    device_copies = -(-k_T // in_device)
    least = {
        "each token needs K / slots devices": ("engine", float(device_copies.sum())),
        "experts that a device's slots cannot hold": ("device", far_device / max(min(most_k, in_device), 1)),
    }
    if costs.node_copies:
        least["each token needs K / slots of a node nodes"] = (
            "node",
            float(np.maximum(-(-k_T // in_node) - 1, 0).sum()),
        )
        least["experts that a node's slots cannot hold"] = ("node", far_node / max(min(most_k, in_node), 1))
    return least


def _served(holder: Ints, expert: Ints, slots: int) -> int:
    """Pairs that each holder's own slots can serve when they hold its most wanted experts.

    Only pairs that occur are counted: a table of ranks by a million experts would take gigabytes.
    """
    width = int(expert.max(initial=0)) + 1
    keys, count_P = np.unique(holder * width + expert, return_counts=True)
    holder_P = keys // width
    order_P = np.lexsort((-count_P, holder_P))
    rank_P = np.arange(keys.size) - np.searchsorted(holder_P, holder_P)  # within the holder: keys are in its order
    return int(count_P[order_P][rank_P < slots].sum())


def inbound_seconds(costs: CostTables, weight_S: Floats) -> dict[tuple[int, str], float]:
    """Seconds that one copy adds to the weighted mean of what ranks wait for, at least, by operation and kind of copy.

    Kinds: engine (to a device, the own one too), device (to another device), node (to another node). A resource is a
    rank's own when all copies on it end there. Every copy into rank s crosses one of a set of its own resources, so the
    fullest of them takes copies / (sum over the set of 1 / seconds) at least; 0 where some copy crosses none.
    """
    seconds = {}
    rail_C = np.zeros(costs.source_C.size, dtype=np.bool_)
    rail_C[costs.channel_SN[costs.channel_SN >= 0]] = True
    far_C = costs.source_C != costs.target_C
    for op in range(2):
        receiver_C = costs.target_C if op == 0 else costs.source_C
        own_X = _own(costs, op, receiver_C)
        for kind, channels_C in (("engine", ~rail_C), ("device", ~rail_C & far_C), ("node", rail_C)):
            seconds[op, kind] = _least(costs, weight_S, receiver_C, own_X, channels_C)
    return seconds


def _own(costs: CostTables, op: int, receiver_C: Ints) -> NDArray[np.bool_]:
    """Entries (channel, resource) of the operation whose resource serves one receiver only."""
    receiver_X = np.repeat(receiver_C, np.diff(costs.offsets_C1))
    low_R = np.full(costs.seconds_R.size, costs.num_ranks)
    high_R = np.full(costs.seconds_R.size, -1)
    np.minimum.at(low_R, costs.resource_X, receiver_X)
    np.maximum.at(high_R, costs.resource_X, receiver_X)
    own_X: NDArray[np.bool_] = ((low_R == high_R) & (costs.op_R == op))[costs.resource_X]
    return own_X


def _least(
    costs: CostTables,
    weight_S: Floats,
    receiver_C: Ints,
    own_X: NDArray[np.bool_],
    channels_C: NDArray[np.bool_],
) -> float:
    """The smallest over ranks of weight / (sum over the set of 1 / seconds)."""
    channel_X = np.repeat(np.arange(receiver_C.size), np.diff(costs.offsets_C1))
    least = math.inf
    used_X = own_X & channels_C[channel_X]
    order_X = np.argsort(receiver_C[channel_X[used_X]], kind="stable")
    entries = np.flatnonzero(used_X)[order_X]
    receiver_Y = receiver_C[channel_X[entries]]
    count_S = np.bincount(receiver_C[channels_C], minlength=costs.num_ranks)
    for rank in np.flatnonzero(count_S):
        mine = entries[np.searchsorted(receiver_Y, rank) : np.searchsorted(receiver_Y, rank, side="right")]
        least = min(least, weight_S[rank] * _of_rank(costs, channel_X[mine], mine, int(count_S[rank])))
    return least if math.isfinite(least) else 0.0


def _of_rank(costs: CostTables, channel_Y: Ints, entries: Ints, num_channels: int) -> float:
    """Seconds a copy of one rank: of the slowest resource that all channels use, else of the set of slowest ones."""
    if np.unique(channel_Y).size < num_channels:
        return 0.0
    resource_Y = costs.resource_X[entries]
    seconds_Y = costs.share_X[entries] * costs.seconds_R[resource_Y]
    users = np.bincount(resource_Y, minlength=costs.seconds_R.size)
    common = users[resource_Y] == num_channels
    if common.any():
        by_resource = {int(r): float(seconds_Y[resource_Y == r].min()) for r in np.unique(resource_Y[common])}
        return max(by_resource.values())
    order = np.lexsort((-seconds_Y, channel_Y))
    first = order[np.concatenate(([True], np.diff(channel_Y[order]) > 0))]  # the slowest of each channel
    chosen = np.unique(resource_Y[first])
    least = [float(seconds_Y[first][resource_Y[first] == resource].min()) for resource in chosen]
    return 1.0 / sum(1.0 / value for value in least)
