"""Kernels of the planner's objective: what moves when a copy moves, and the time that follows; see objective.py.

`costs` is a CostTables, `state` a LayerState; letters as there. All kernels change the state's arrays in place.
"""

import numpy as np
from numba import njit

from moesim.planner.expert_curve import balanced_group_s, with_speed
from moesim.replica import POLICIES, drawn_slot, fill_nearest_row, mix

EVEN, NEAREST = POLICIES.index("even"), POLICIES.index("nearest")


@njit(cache=True, nogil=True)
def fill_row(costs, state, expert):  # type: ignore[no-untyped-def]  # types are numba's
    """The slot that each device of a group uses for `expert` under the nearest policy, as the simulator chooses it."""
    row_D = state.near_ED[expert]
    slots = state.slots_EC[expert, : state.copies_E[expert]]
    if slots.size == 1:
        row_D[:] = slots[0]
        return
    row_D[:] = -1
    fill_nearest_row(row_D, expert, slots, state.device_P, costs.devices_per_node, state.key)


@njit(cache=True, nogil=True)
def choose_again(costs, state, expert):  # type: ignore[no-untyped-def]
    """Send every token of `expert` to the copy its policy chooses now; moved copies wait in `delta_WC` for `settle`."""
    if state.policy == NEAREST:
        fill_row(costs, state, expert)
    pairs = slice(state.offsets_E1[expert], state.offsets_E1[expert + 1])
    slots = state.slots_EC[expert, : state.copies_E[expert]]
    token_X, slot_X = state.token_X[pairs], state.slot_X[pairs]
    new_X = np.empty_like(slot_X)
    if slots.size == 1:
        new_X[:] = slots[0]
    elif state.policy == NEAREST:
        _nearest(new_X, token_X, state.source_T, state.near_ED[expert])
    elif state.policy == EVEN:
        _even(new_X, token_X, state.token_key_T, expert, slots)
    else:
        per_node = costs.devices_per_node if state.share_NP.shape[0] > 1 else costs.group_size
        if state.share_NP.shape[0] == costs.group_size:
            per_node = 1  # a row for every source device
        node_of = (costs.group_size, per_node)
        _split(new_X, token_X, state.token_key_T, expert, slots, state.share_NP, state.source_T, node_of)
    _move(
        token_X,
        slot_X,
        new_X,
        (state.source_T, state.window_T, state.weight_T),
        state.device_P,
        state.load_WGP,
        (state.count_TD, state.count_TN),
        (costs.channel_SD, costs.channel_SN),
        (costs.group_size, costs.devices_per_node, costs.distinct, costs.node_copies),
        state.delta_WC,
        state.touched_WC,
        state.waiting,
        state.stale_D,
    )


# The kernels below take arrays, not the whole state: passing a tuple of thirty arrays for each token costs more than
# all that is done with them.


@njit(cache=True, nogil=True)
def _nearest(new_X, token_X, source_T, near_D):  # type: ignore[no-untyped-def]
    """The slot that the token's device uses."""
    for pair in range(token_X.size):
        new_X[pair] = near_D[source_T[token_X[pair]] % near_D.size]


@njit(cache=True, nogil=True)
def _even(new_X, token_X, token_key_T, expert, slots):  # type: ignore[no-untyped-def]
    """Copy number hash(seed, token, expert) mod copies."""
    for pair in range(token_X.size):
        draw = mix(token_key_T[token_X[pair]] ^ np.uint64(expert))
        new_X[pair] = slots[np.int64(draw % np.uint64(slots.size))]


@njit(cache=True, nogil=True)
def _split(new_X, token_X, token_key_T, expert, slots, share_NP, source_T, node_of):  # type: ignore[no-untyped-def]
    """The slot whose stretch of shares holds the token's draw."""
    group_size, per_node = node_of
    for pair in range(token_X.size):
        token = token_X[pair]
        share_P = share_NP[source_T[token] % group_size // per_node]
        new_X[pair] = drawn_slot(token_key_T[token], expert, slots, share_P)


@njit(cache=True, nogil=True)
def _move(  # type: ignore[no-untyped-def]
    token_X, slot_X, new_X, tokens, device_P, load_WGP, counts, channels, rules, delta_WC, touched_WC, waiting, stale_D
):
    """Take every pair that changes its slot from the old one and give it to the new; slot -1 is nowhere yet."""
    source_T, window_T, weight_T = tokens
    count_TD, count_TN = counts
    channel_SD, channel_SN = channels
    group_size, per_node, distinct, node_copies = rules
    for pair in range(token_X.size):
        old, new = slot_X[pair], new_X[pair]
        if old == new:
            continue
        slot_X[pair] = new
        token = token_X[pair]
        window, weight, source = window_T[token], weight_T[token], source_T[token]
        target = device_P[new]
        load_WGP[window, source // group_size, new] += weight
        stale_D[target] = True
        device = -1
        if old >= 0:
            device = device_P[old]
            load_WGP[window, source // group_size, old] -= weight
            stale_D[device] = True
        if device == target:
            continue
        if old >= 0:
            count_TD[token, device] -= 1
            if not distinct or count_TD[token, device] == 0:
                _book(window, channel_SD[source, device], -weight, delta_WC, touched_WC, waiting)
            if node_copies:
                node = device // per_node
                count_TN[token, node] -= 1
                if count_TN[token, node] == 0:
                    _book(window, channel_SN[source, node], -weight, delta_WC, touched_WC, waiting)
        if not distinct or count_TD[token, target] == 0:
            _book(window, channel_SD[source, target], weight, delta_WC, touched_WC, waiting)
        count_TD[token, target] += 1
        if node_copies:
            node = target // per_node
            if count_TN[token, node] == 0:
                _book(window, channel_SN[source, node], weight, delta_WC, touched_WC, waiting)
            count_TN[token, node] += 1


@njit(cache=True, nogil=True)
def _book(window, channel, weight, delta_WC, touched_WC, waiting):  # type: ignore[no-untyped-def]
    """Remember copies that a channel gains or loses; channel -1 is inside a node."""
    if channel < 0:
        return
    if not touched_WC[window, channel]:
        touched_WC[window, channel] = True
        waiting[0] += 1
        waiting[waiting[0]] = window * touched_WC.shape[1] + channel
    delta_WC[window, channel] += weight


@njit(cache=True, nogil=True)
def settle(costs, state):  # type: ignore[no-untyped-def]
    """Bring the waiting copies to the resources they use, and the times of devices whose tokens changed up to date."""
    channels = (costs.offsets_C1, costs.resource_X, costs.share_X)
    _flush(state.waiting, state.delta_WC, state.touched_WC, state.load_WR, *channels)
    for device in range(state.stale_D.size):
        if state.stale_D[device]:
            state.stale_D[device] = False
            refresh_costs(costs, state, device)


@njit(cache=True, nogil=True)
def _flush(waiting, delta_WC, touched_WC, load_WR, offsets_C1, resource_X, share_X):  # type: ignore[no-untyped-def]
    """Add what waits on each channel to its resources."""
    for i in range(1, 1 + waiting[0]):
        window, channel = divmod(waiting[i], touched_WC.shape[1])
        copies = delta_WC[window, channel]
        delta_WC[window, channel] = 0.0
        touched_WC[window, channel] = False
        if copies != 0.0:
            for x in range(offsets_C1[channel], offsets_C1[channel + 1]):
                load_WR[window, resource_X[x]] += copies * share_X[x]
    waiting[0] = 0


@njit(cache=True, nogil=True)
def refresh_costs(costs, state, device):  # type: ignore[no-untyped-def]
    """Seconds of the routed experts on `device` of every group, in every window (moesim.compute.expert_cost)."""
    if costs.curve.fitted:
        _refresh_fitted(costs, state, device)
        return
    first, end = state.offsets_D1[device], state.offsets_D1[device + 1]
    expert_P, load_WGP, compute_WS, tiles_M = state.expert_P, state.load_WGP, state.compute_WS, state.tiles_M
    tile, weight_bytes_E, params_E, moved_E = costs.tile, costs.weight_bytes_E, costs.params_E, costs.activation_bytes_E
    for window in range(load_WGP.shape[0]):
        for group in range(load_WGP.shape[1]):
            rank = group * costs.group_size + device
            weight_bytes, rows, tokens, moved = 0.0, 0.0, 0.0, 0.0
            for slot in range(first, end):
                load = load_WGP[window, group, slot]
                if load <= NO_TOKENS:
                    continue
                expert = expert_P[slot]
                active, tiles = 1.0, np.ceil(load / tile - NO_TOKENS) * tile
                if tiles_M.size:
                    active, tiles = -np.expm1(-load), expected_tiles(load, tile, tiles_M)
                weight_bytes += active * weight_bytes_E[expert]
                rows += tiles * params_E[expert]
                moved += load * moved_E[expert]
                tokens += load
            time = 0.0
            if tokens > 0.0:
                roof = max(weight_bytes * costs.byte_s_S[rank], rows * costs.flop_s_S[rank])
                time = costs.launch_s + roof + moved * costs.moved_s_S[rank]
            compute_WS[window, rank] = time


@njit(cache=True, nogil=True)
def _refresh_fitted(costs, state, device):  # type: ignore[no-untyped-def]
    """As `refresh_costs` by the profile's curve: the mean over active experts of balanced groups of their tokens."""
    first, end = state.offsets_D1[device], state.offsets_D1[device + 1]
    for window in range(state.load_WGP.shape[0]):
        for group in range(state.load_WGP.shape[1]):
            rank = group * costs.group_size + device
            active = 0.0
            for slot in range(first, end):
                load = state.load_WGP[window, group, slot]
                if load > NO_TOKENS:
                    active += -np.expm1(-load) if state.tiles_M.size else 1.0
            total = 0.0
            for slot in range(first, end):
                load = state.load_WGP[window, group, slot]
                if load <= NO_TOKENS:
                    continue
                likely, rows = 1.0, np.ceil(load / costs.tile - NO_TOKENS) * costs.tile
                if state.tiles_M.size:
                    likely = -np.expm1(-load)
                    rows = expected_tiles(load, costs.tile, state.tiles_M) / likely
                expert = state.expert_P[slot]
                total += likely * balanced_group_s(costs, expert, rank, load / likely, rows, max(active, 1.0))
            state.compute_WS[window, rank] = with_speed(costs, rank, total / max(active, 1.0)) if active > 0.0 else 0.0


NO_TOKENS = 1e-9  # what is left of a load after as much was added and taken away again


@njit(cache=True, nogil=True)
def expected_tiles(mean, tile, tiles_M):  # type: ignore[no-untyped-def]
    """Expected rows, whole tiles, of a Poisson number of tokens; `tiles_M` tables it in steps, then it is mean + tile/2."""
    place = mean * STEPS_PER_TILE / tile
    if place >= tiles_M.size - 1:
        return mean + 0.5 * (tile - 1)
    left = int(place)
    return tiles_M[left] + (place - left) * (tiles_M[left + 1] - tiles_M[left])


STEPS_PER_TILE = 16


@njit(cache=True, nogil=True)
def window_phases(costs, state, window, soft):  # type: ignore[no-untyped-def]
    """Dispatch, experts and combine of one window, seconds; `soft` mixes in the 8-norm over devices and links.

    dispatch, combine = extra + max over resources of (copies x seconds + latency), at least the longest latency
    experts = max over devices of routed + shared
    """
    phases = np.zeros(3)
    links = (costs.seconds_R, costs.latency_R, costs.op_R)
    most, power = _fullest(state.load_WR[window], *links, soft)
    for op in range(2):
        time = (1.0 - soft) * most[op] + soft * power[op]
        if most[op] > 0.0:
            time = max(time, costs.floor_O[op])
        phases[2 * op] = max(costs.least_O[op], costs.extra_O[op] + costs.constant_O[op] + time)
    phases[1] = _slowest(state.compute_WS[window], state.shared_WS[window], soft)
    return phases


@njit(cache=True, nogil=True)
def _fullest(load_R, seconds_R, latency_R, op_R, soft):  # type: ignore[no-untyped-def]
    """Per operation the largest time of a resource, and with `soft` the 8-norm of all over their number."""
    most, power, count = np.zeros(2), np.zeros(2), np.zeros(2)
    for resource in range(load_R.size):
        if load_R[resource] > NO_TOKENS:
            busy = load_R[resource] * seconds_R[resource] + latency_R[resource]
            most[op_R[resource]] = max(most[op_R[resource]], busy)
    if soft > 0.0:
        for resource in range(load_R.size):
            op = op_R[resource]
            count[op] += 1.0
            if most[op] > 0.0:
                power[op] += _eighth(load_R[resource] * seconds_R[resource] / most[op])
        for op in range(2):
            power[op] = most[op] * (power[op] / max(count[op], 1.0)) ** 0.125
    return most, power


@njit(cache=True, nogil=True)
def _slowest(compute_S, shared_S, soft):  # type: ignore[no-untyped-def]
    """The largest time of a device, mixed with the 8-norm of all over their number."""
    most, power = 0.0, 0.0
    for rank in range(compute_S.size):
        most = max(most, compute_S[rank] + shared_S[rank])
    if soft <= 0.0 or most <= 0.0:
        return most
    for rank in range(compute_S.size):
        power += _eighth((compute_S[rank] + shared_S[rank]) / most)
    return most * (1.0 - soft + soft * (power / compute_S.size) ** 0.125)


@njit(cache=True, nogil=True)
def _eighth(value):  # type: ignore[no-untyped-def]
    """The eighth power."""
    value *= value
    value *= value
    return value * value


@njit(cache=True, nogil=True)
def combined(costs, state, window, phases):  # type: ignore[no-untyped-def]
    """The layer's time under the overlap: the sum of phases, less what can lie beside each other."""
    dispatch, experts, combine = phases[0], phases[1], phases[2]
    hidden = 0.0
    if costs.overlap == 1:
        hidden = min(state.shared_WS[window].max(), dispatch)
    elif costs.overlap >= 2:
        hidden = min(costs.attention_s + experts, costs.slowed * (dispatch + combine))
    return dispatch + experts + combine - hidden


@njit(cache=True, nogil=True)
def forget_slot(state, expert, slot):  # type: ignore[no-untyped-def]
    """Take `slot` out of the expert's ascending list of copies."""
    slots = state.slots_EC[expert]
    last = state.copies_E[expert] - 1
    place = 0
    while slots[place] != slot:
        place += 1
    for i in range(place, last):
        slots[i] = slots[i + 1]
    slots[last] = -1
    state.copies_E[expert] = last


@njit(cache=True, nogil=True)
def learn_slot(state, expert, slot):  # type: ignore[no-untyped-def]
    """Put `slot` into the expert's ascending list of copies."""
    slots = state.slots_EC[expert]
    place = state.copies_E[expert]
    while place > 0 and slots[place - 1] > slot:
        slots[place] = slots[place - 1]
        place -= 1
    slots[place] = slot
    state.copies_E[expert] += 1
