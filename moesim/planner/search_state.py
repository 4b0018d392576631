"""SearchState: one layer's copies and the source table of every expert, with what each window's step costs under them.

The local search works on this. A *source table* says which copy each source device uses for an expert: nothing is drawn,
so a copy that no source uses is *idle*, and its weights are not read. Costs are those of moesim.planner.objective_tables,
but for three things that make them good to search on: the slowest device and the fullest link are power means (a device
near the maximum counts too, since another step may make it the maximum), rows of arithmetic grow smoothly with tokens, and
the loads of a thinned sketch are scaled to the window's own.

Array letters: E expert, D device of a group, S rank, G group, W window, T token, K top-k, C channel, R resource, V (window,
group), O operation.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.placement import ExpertPlacement
from moesim.planner.problem import TokenSketch
from moesim.planner.search_costs import SearchCosts
from moesim.planner.sketch import pairs_by_expert

POWER = 16  # of the power mean: 64 equal devices count as 1.3 times their maximum
Floats = NDArray[np.float64]


class SearchTokens(NamedTuple):
    """The sketch of one layer as the kernels read it; `pair_scale_E` turns sketched loads into the window's own."""

    experts_TK: NDArray[np.int32]
    source_T: NDArray[np.int32]
    window_T: NDArray[np.int32]
    weight_T: Floats
    window_weight_W: Floats
    offsets_E1: NDArray[np.int64]  # the tokens of expert e: token_X[offsets_E1[e]:offsets_E1[e + 1]]
    token_X: NDArray[np.int32]
    pair_scale_E: Floats


class SearchState(NamedTuple):
    """Copies and tables, and what follows from them; kernels change it in place.

    `device_ED[e, d]` is the device whose copy of expert e source device d uses. `rows_EDV` are tokens per step of each
    copy, `uses_ED` how many sources use it.
    """

    holds_ED: NDArray[np.bool_]
    fill_D: NDArray[np.int64]
    slots_D: NDArray[np.int64]
    copies_E: NDArray[np.int64]
    device_ED: NDArray[np.int32]
    uses_ED: NDArray[np.int32]
    rows_EDV: Floats
    read_s_WS: Floats
    rows_s_WS: Floats
    other_s_WS: Floats
    active_WS: NDArray[np.int64]
    fixed_s_WS: Floats
    load_WR: Floats
    compute_sum_W: Floats
    network_sum_WO: Floats
    away_WSA: Floats  # scratch: copies that end [.., 0, 2] and begin [.., 1, 3], to devices and to nodes; rows [.., 4]


def layer_tokens(sketch: TokenSketch, layer: int, load_E: Floats) -> SearchTokens:
    """The tokens of one layer; `load_E` is the planning window's exact load, of which a thinned sketch shows a part."""
    experts_TK = np.ascontiguousarray(sketch.experts_LTK[layer])
    token_X, expert_X = pairs_by_expert(experts_TK)
    seen_E = np.bincount(expert_X, weights=sketch.weight_T[token_X], minlength=load_E.size)
    scale_E = np.ones(load_E.size)
    if not sketch.whole and load_E.sum() > 0:
        wanted_E = load_E * (seen_E.sum() / load_E.sum())
        scale_E = np.clip((wanted_E + 1.0) / (seen_E + 1.0), 0.5, 2.0)
    return SearchTokens(
        experts_TK=experts_TK,
        source_T=sketch.source_T.astype(np.int32),
        window_T=sketch.window_T,
        weight_T=sketch.weight_T,
        window_weight_W=sketch.window_weight_W,
        offsets_E1=np.concatenate([[0], np.cumsum(np.bincount(expert_X, minlength=load_E.size))]).astype(np.int64),
        token_X=token_X,
        pair_scale_E=scale_E,
    )


def state_bytes(num_experts: int, num_devices: int, windows: int, ranks: int) -> int:
    """About what a SearchState takes: its tables of experts by devices."""
    return num_experts * num_devices * (8 * windows * (ranks // num_devices) + 9)


def start_state(
    costs: SearchCosts,
    tokens: SearchTokens,
    holds_ED: NDArray[np.bool_],
    slots_D: NDArray[np.int64],
    device_ED: NDArray[np.int32],
) -> SearchState:
    """The state of a placement with the given tables, everything counted anew."""
    num_experts, num_devices = holds_ED.shape
    windows, ranks = tokens.window_weight_W.size, costs.num_ranks
    tokens_WS = np.zeros((windows, ranks))
    np.add.at(tokens_WS, (tokens.window_T, tokens.source_T), tokens.weight_T)
    state = SearchState(
        holds_ED=holds_ED.copy(),
        fill_D=holds_ED.sum(axis=0).astype(np.int64),
        slots_D=slots_D.astype(np.int64),
        copies_E=holds_ED.sum(axis=1).astype(np.int64),
        device_ED=device_ED.astype(np.int32),
        uses_ED=np.zeros((num_experts, num_devices), dtype=np.int32),
        rows_EDV=np.zeros((num_experts, num_devices, windows * (ranks // num_devices))),
        read_s_WS=np.zeros((windows, ranks)),
        rows_s_WS=np.zeros((windows, ranks)),
        other_s_WS=np.zeros((windows, ranks)),
        active_WS=np.zeros((windows, ranks), dtype=np.int64),
        fixed_s_WS=_shared_s(costs, tokens_WS),
        load_WR=np.zeros((windows, costs.seconds_R.size)),
        compute_sum_W=np.zeros(windows),
        network_sum_WO=np.zeros((windows, 2)),
        away_WSA=np.zeros((windows, ranks, 5)),
    )
    np.add.at(state.uses_ED, (np.arange(num_experts)[:, None], device_ED), 1)
    count(costs, tokens, state)
    return state


def source_split(state: SearchState, placement_experts_P: NDArray[np.int32], device_P: NDArray[np.int32]) -> Floats:
    """The tables as shares of slots, [D, P] of 0 and 1: what source device d sends to slot p of its expert."""
    used_DP: NDArray[np.bool_] = state.device_ED[placement_experts_P].T == device_P
    return used_DP.astype(np.float64)


def slots_filled(holds_ED: NDArray[np.bool_], slots_D: NDArray[np.int64]) -> NDArray[np.int32]:
    """The expert of each slot, device by device; slots left free get copies of the experts with fewest.

    A device repeats an expert only when it has more slots than there are experts.
    """
    rows, copies_E = [], holds_ED.sum(axis=1)
    for device, slots in enumerate(slots_D):
        held = np.flatnonzero(holds_ED[:, device])
        fewest = np.lexsort((np.arange(copies_E.size), copies_E, holds_ED[:, device]))
        spare = np.resize(fewest, max(int(slots) - held.size, 0))
        np.add.at(copies_E, spare, 1)
        rows.append(np.concatenate([held, spare]))
    return np.concatenate(rows).astype(np.int32)


def copies_of(placement: ExpertPlacement) -> NDArray[np.bool_]:
    """Which experts each device holds [E, D]; repeats on a device count once."""
    holds_ED = np.zeros((placement.num_experts, placement.num_devices), dtype=np.bool_)
    holds_ED[placement.expert_of_slot_P, placement.device_of_slot_P] = True
    return holds_ED


def _shared_s(costs: SearchCosts, tokens_WS: Floats) -> Floats:
    """Seconds of the shared expert on each rank, which no placement changes."""
    if not costs.shared_params:
        return np.zeros_like(tokens_WS)
    flops_s = costs.shared_params * tokens_WS * costs.shared_flop_s_S
    read_s = costs.shared_bytes * costs.shared_byte_s_S
    return np.where(tokens_WS > 0, costs.shared_launch_s + np.maximum(flops_s, read_s), 0.0)


@njit(cache=True, nogil=True)
def power(x):  # type: ignore[no-untyped-def]  # types are numba's
    """x to the power POWER."""
    x = x * x
    x = x * x
    x = x * x
    return x * x


@njit(cache=True, nogil=True)
def root(x):  # type: ignore[no-untyped-def]
    """The POWER-th root, of what rounding may have left below zero too."""
    return max(x, 0.0) ** (1.0 / POWER)


@njit(cache=True, nogil=True)
def compute_s(costs, state, window, rank):  # type: ignore[no-untyped-def]
    """Seconds of all experts on one rank: launch + max(weight reads, arithmetic) + activations, and the shared expert."""
    if state.active_WS[window, rank] == 0:
        return state.fixed_s_WS[window, rank]
    longer = max(state.read_s_WS[window, rank], state.rows_s_WS[window, rank])
    return costs.launch_s + longer + state.other_s_WS[window, rank] + state.fixed_s_WS[window, rank]


@njit(cache=True, nogil=True)
def _tiled(rows, tile):  # type: ignore[no-untyped-def]
    """Rows of arithmetic for so many tokens: at least one tile, half a tile more than the tokens on average."""
    return max(float(tile), rows + 0.5 * (tile - 1)) if rows > 0.0 else 0.0


@njit(cache=True, nogil=True)
def add_rows(costs, state, expert, device, window, group, more):  # type: ignore[no-untyped-def]
    """Give the copy of `expert` on `device` of `group` so many tokens more."""
    ranks = state.read_s_WS.shape[1]
    groups = ranks // state.fill_D.size
    rank = group * state.fill_D.size + device
    before_s = compute_s(costs, state, window, rank)
    rows = state.rows_EDV[expert, device, window * groups + group]
    now = rows + more
    if now < 1e-9:
        now = 0.0
    state.rows_EDV[expert, device, window * groups + group] = now
    change = int(now > 0.0) - int(rows > 0.0)
    state.active_WS[window, rank] += change
    state.read_s_WS[window, rank] += change * costs.weight_bytes_E[expert] * costs.byte_s_S[rank]
    tiles = _tiled(now, costs.tile) - _tiled(rows, costs.tile)
    state.rows_s_WS[window, rank] += tiles * costs.params_E[expert] * costs.flop_s_S[rank]
    state.other_s_WS[window, rank] += (now - rows) * costs.activation_bytes_E[expert] * costs.moved_s_S[rank]
    state.compute_sum_W[window] += power(compute_s(costs, state, window, rank)) - power(before_s)


@njit(cache=True, nogil=True)
def add_copies(costs, state, channel, window, more):  # type: ignore[no-untyped-def]
    """Send so many copies more on a channel (-1: none is sent)."""
    if channel < 0 or more == 0.0:
        return
    for x in range(costs.offsets_C1[channel], costs.offsets_C1[channel + 1]):
        resource = costs.resource_X[x]
        seconds, latency = costs.seconds_R[resource], costs.latency_R[resource]
        load = state.load_WR[window, resource]
        now = load + more * costs.share_X[x]
        state.load_WR[window, resource] = now
        change = power(now * seconds + latency) - power(load * seconds + latency)
        state.network_sum_WO[window, costs.op_R[resource]] += change


@njit(cache=True, nogil=True)
def count(costs, tokens, state):  # type: ignore[no-untyped-def]
    """Count all rows and copies of the tables anew, and all sums."""
    state.rows_EDV[:] = 0.0
    state.read_s_WS[:] = 0.0
    state.rows_s_WS[:] = 0.0
    state.other_s_WS[:] = 0.0
    state.active_WS[:] = 0
    state.load_WR[:] = 0.0
    num_devices, per_node = state.fill_D.size, costs.devices_per_node
    groups = costs.channel_SD.shape[0] // num_devices
    device_K = np.empty(tokens.experts_TK.shape[1], dtype=np.int64)
    for token in range(tokens.source_T.size):
        source, window, weight = tokens.source_T[token], tokens.window_T[token], tokens.weight_T[token]
        group, row = source // num_devices, source % num_devices
        found = 0
        for k in range(device_K.size):
            expert = tokens.experts_TK[token, k]
            if expert < 0:
                continue
            device = state.device_ED[expert, row]
            state.rows_EDV[expert, device, window * groups + group] += weight * tokens.pair_scale_E[expert]
            new_device = new_node = True
            for earlier in range(found):
                new_device = new_device and device_K[earlier] != device
                new_node = new_node and device_K[earlier] // per_node != device // per_node
            device_K[found] = device
            found += 1
            if new_device or not costs.distinct:
                _load(costs, state, costs.channel_SD[source, device], window, weight)
            if costs.node_copies and new_node:
                _load(costs, state, costs.channel_SN[source, device // per_node], window, weight)
    _add_compute(costs, state)
    add_sums(costs, state)


@njit(cache=True, nogil=True)
def _load(costs, state, channel, window, more):  # type: ignore[no-untyped-def]
    if channel < 0:
        return
    for x in range(costs.offsets_C1[channel], costs.offsets_C1[channel + 1]):
        state.load_WR[window, costs.resource_X[x]] += more * costs.share_X[x]


@njit(cache=True, nogil=True)
def _add_compute(costs, state):  # type: ignore[no-untyped-def]
    num_experts, num_devices, columns = state.rows_EDV.shape
    groups = columns // state.read_s_WS.shape[0]
    for expert in range(num_experts):
        for device in range(num_devices):
            if not state.holds_ED[expert, device]:
                continue
            for column in range(columns):
                rows = state.rows_EDV[expert, device, column]
                if rows > 0.0:
                    window, rank = column // groups, column % groups * num_devices + device
                    state.active_WS[window, rank] += 1
                    state.read_s_WS[window, rank] += costs.weight_bytes_E[expert] * costs.byte_s_S[rank]
                    flop_s = costs.params_E[expert] * costs.flop_s_S[rank]
                    state.rows_s_WS[window, rank] += _tiled(rows, costs.tile) * flop_s
                    state.other_s_WS[window, rank] += rows * costs.activation_bytes_E[expert] * costs.moved_s_S[rank]


@njit(cache=True, nogil=True)
def add_sums(costs, state):  # type: ignore[no-untyped-def]
    """Add the sums of powers anew: rounding gathers in them while they are kept up to date."""
    for window in range(state.compute_sum_W.size):
        state.compute_sum_W[window] = 0.0
        state.network_sum_WO[window] = 0.0
        for rank in range(state.read_s_WS.shape[1]):
            state.compute_sum_W[window] += power(compute_s(costs, state, window, rank))
        for resource in range(costs.seconds_R.size):
            busy = state.load_WR[window, resource] * costs.seconds_R[resource] + costs.latency_R[resource]
            state.network_sum_WO[window, costs.op_R[resource]] += power(busy)


@njit(cache=True, nogil=True)
def value(tokens, state):  # type: ignore[no-untyped-def]
    """Seconds of a step's experts, dispatch and combine, by power means, over the windows; fixed costs left out."""
    total = 0.0
    for window in range(state.compute_sum_W.size):
        phases = root(state.compute_sum_W[window])
        phases += root(state.network_sum_WO[window, 0]) + root(state.network_sum_WO[window, 1])
        total += tokens.window_weight_W[window] * phases
    return total


@njit(cache=True, nogil=True)
def worst_value(costs, tokens, state):  # type: ignore[no-untyped-def]
    """As `value`, by true maxima."""
    total = 0.0
    for window in range(state.compute_sum_W.size):
        slowest = 0.0
        for rank in range(state.read_s_WS.shape[1]):
            slowest = max(slowest, compute_s(costs, state, window, rank))
        longest = np.zeros(2)
        for resource in range(costs.seconds_R.size):
            busy = state.load_WR[window, resource] * costs.seconds_R[resource] + costs.latency_R[resource]
            operation = costs.op_R[resource]
            longest[operation] = max(longest[operation], busy)
        total += tokens.window_weight_W[window] * (slowest + longest[0] + longest[1])
    return total


@njit(cache=True, nogil=True)
def set_table(costs, tokens, state, expert, table_D):  # type: ignore[no-untyped-def]
    """Let source device d use the copy of `expert` on device `table_D[d]`, for all d.

    The only change there is: every move is made of it, and the old table undoes it. Returns the work it took, in units
    of some 10 ns: that of the expert's tokens, and of the (window, source) pairs whose copies travel elsewhere.
    """
    num_devices, per_node = state.fill_D.size, costs.devices_per_node
    away_WSA = state.away_WSA
    work = 2.0 * (tokens.offsets_E1[expert + 1] - tokens.offsets_E1[expert]) + 10.0
    for x in range(tokens.offsets_E1[expert], tokens.offsets_E1[expert + 1]):
        token = tokens.token_X[x]
        source = tokens.source_T[token]
        row = source % num_devices
        old, new = state.device_ED[expert, row], table_D[row]
        if old == new:
            continue
        window, weight = tokens.window_T[token], tokens.weight_T[token]
        away_WSA[window, source, 4] += weight * tokens.pair_scale_E[expert]
        keeps_old = keeps_old_node = has_new = has_new_node = False
        if costs.distinct:
            old_node, new_node = old // per_node, new // per_node
            for k in range(tokens.experts_TK.shape[1]):
                other = tokens.experts_TK[token, k]
                if other < 0 or other == expert:
                    continue
                device = state.device_ED[other, row]
                node = device // per_node
                keeps_old |= device == old
                has_new |= device == new
                keeps_old_node |= node == old_node
                has_new_node |= node == new_node
            if costs.node_copies and old_node != new_node:
                if not keeps_old_node:
                    away_WSA[window, source, 2] += weight
                if not has_new_node:
                    away_WSA[window, source, 3] += weight
        if not keeps_old:
            away_WSA[window, source, 0] += weight
        if not has_new:
            away_WSA[window, source, 1] += weight
    for source in range(away_WSA.shape[1]):
        old, new = state.device_ED[expert, source % num_devices], table_D[source % num_devices]
        if old != new:
            work += 15.0 * _travel(costs, state, expert, source, old, new)
    for row in range(num_devices):
        state.uses_ED[expert, state.device_ED[expert, row]] -= 1
        state.uses_ED[expert, table_D[row]] += 1
        state.device_ED[expert, row] = table_D[row]
    return work


@njit(cache=True, nogil=True)
def _travel(costs, state, expert, source, old, new):  # type: ignore[no-untyped-def]
    """Take what was gathered for one source off its old device and node, put it on the new; empty the scratch.

    Returns in how many windows there was something.
    """
    windows = 0
    num_devices, per_node = state.fill_D.size, costs.devices_per_node
    group = source // num_devices
    away_WA = state.away_WSA[:, source]
    for window in range(away_WA.shape[0]):
        if away_WA[window, 4] <= 0.0:
            continue
        windows += 1
        for side in range(2):  # each call stands once: it is inlined where it stands, and that takes time to compile
            add_rows(costs, state, expert, new if side else old, window, group, (2.0 * side - 1.0) * away_WA[window, 4])
        for kind in range(
            4 if costs.node_copies else 2
        ):  # off the old device, onto the new; off the old node, onto the new
            end = new if kind % 2 else old
            channel = costs.channel_SD[source, end] if kind < 2 else costs.channel_SN[source, end // per_node]
            add_copies(costs, state, channel, window, (2.0 * (kind % 2) - 1.0) * away_WA[window, kind])
        away_WA[window] = 0.0
    return windows
