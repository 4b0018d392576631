"""Large neighbourhoods by CP-SAT: the copies of a few devices, hottest and coldest, dealt anew.

    data        c[i, w]  seconds that copy i adds to its device in window w (tables as they are; in whole nanoseconds)
                e(i)     the expert of copy i;  B[g, w] what device g costs without its copies;  p_w window weights
    variables   x[i, g] in {0, 1}: copy i lies on device g;   T[w] >= 0: the longest device of window w
    constraints one place      sum over g of x[i, g] = 1                         for every copy i
                slots          sum over i of x[i, g] = copies g has now          for every device g
                no repeat      sum over i of one expert of x[i, g] <= 1          for every expert and device
                longest        B[g, w] + sum over i of c[i, w] x[i, g] <= T[w]   for every device g and window w
    objective   min sum over w of p_w T[w]
    solve       complete hint (the places now; symmetry_level = 0, else the hint is silently lost), one worker, fixed seed,
                deterministic time
    read back   the copies change places with their sources, kept only where the value of the whole layer falls

The network is left out of the model and judged afterwards. Array letters: E expert, D device, W window, I copy, G chosen
device, S rank.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.planner.local_search import busiest_devices, swap_into
from moesim.planner.search_costs import SearchCosts
from moesim.planner.search_state import SearchState, SearchTokens, value

MOST_COPIES = 48
MOST_WINDOWS = 6
DETERMINISTIC_TIME = 0.01  # of CP-SAT, a round


def improve_neighbourhoods(
    costs: SearchCosts, tokens: SearchTokens, state: SearchState, work_limit: float, rounds: int = 2
) -> float:
    """Deal the copies of 2 to 6 devices anew, round after round, while it helps; returns the value reached.

    The state changes in place and never gets worse. One expert-parallel group only: with several, nothing is done.
    """
    best = float(value(tokens, state))
    num_devices = state.fill_D.size
    if state.read_s_WS.shape[1] != num_devices or num_devices < 2 or work_limit < 0.2:
        return best
    seconds_D = busiest_devices(costs, tokens, state)
    order = np.argsort(-seconds_D, kind="stable")
    for number in range(rounds):
        hot = order[number : number + 1]
        cold = order[::-1][number * 2 : number * 2 + 3]
        devices = np.unique(np.concatenate([hot, cold]))
        if devices.size < 2 or state.fill_D[devices].sum() > MOST_COPIES:
            continue
        best = _deal(costs, tokens, state, devices, best, DETERMINISTIC_TIME * min(work_limit, 10.0))
    return best


def _deal(
    costs: SearchCosts, tokens: SearchTokens, state: SearchState, devices: NDArray[np.int64], best: float, limit: float
) -> float:
    """Solve one neighbourhood and keep its answer where the layer's value falls."""
    expert_I, place_I = np.nonzero(state.holds_ED[:, devices])
    windows = np.argsort(-tokens.window_weight_W * state.compute_sum_W, kind="stable")[:MOST_WINDOWS]
    cost_IW = _copy_costs(costs, state, expert_I, devices[place_I])[:, windows]
    weight_W = tokens.window_weight_W[windows]
    answer_I = _solve(cost_IW, expert_I, place_I, devices.size, weight_W, limit)
    if answer_I is None or np.array_equal(answer_I, place_I):
        return best
    before_D = [state.device_ED[expert].copy() for expert in expert_I]
    held_ED = state.holds_ED.copy()
    _place(costs, tokens, state, expert_I, devices[place_I], devices[answer_I])
    now = float(value(tokens, state))
    if now < best * (1.0 - 1e-9):
        return now
    for expert, table_D in zip(expert_I, before_D, strict=True):
        swap_into(costs, tokens, state, int(expert), table_D)
    state.holds_ED[:] = held_ED
    return float(value(tokens, state))


def _copy_costs(
    costs: SearchCosts, state: SearchState, expert_I: NDArray[np.int64], device_I: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Nanoseconds each copy adds in each window: the larger of weight reads and arithmetic, and activations."""
    rows_IW = state.rows_EDV[expert_I, device_I]
    byte_s, flop_s = costs.byte_s_S[device_I][:, None], costs.flop_s_S[device_I][:, None]
    tiled_IW = np.where(rows_IW > 0, np.maximum(costs.tile, rows_IW + 0.5 * (costs.tile - 1)), 0.0)
    read_IW = (rows_IW > 0) * costs.weight_bytes_E[expert_I][:, None] * byte_s
    work_IW = np.maximum(read_IW, tiled_IW * costs.params_E[expert_I][:, None] * flop_s)
    moved_IW = rows_IW * costs.activation_bytes_E[expert_I][:, None] * costs.moved_s_S[device_I][:, None]
    nanoseconds_IW: NDArray[np.int64] = np.rint(1e9 * (work_IW + moved_IW)).astype(np.int64)
    return nanoseconds_IW


def _solve(
    cost_IW: NDArray[np.int64],
    expert_I: NDArray[np.int64],
    place_I: NDArray[np.int64],
    num_places: int,
    weight_W: NDArray[np.float64],
    limit: float,
) -> NDArray[np.int64] | None:
    """The place of each copy, or None without a better answer in the time."""
    from ortools.sat.python import cp_model  # slow to import, and most strategies do without it

    model = cp_model.CpModel()
    copies, windows = cost_IW.shape
    x: list[list[Any]] = [[model.new_bool_var("") for _ in range(num_places)] for _ in range(copies)]
    most = int(cost_IW.sum(axis=0).max(initial=0))
    longest = [model.new_int_var(0, most, "") for _ in range(windows)]
    for row in x:
        model.add_exactly_one(row)
    for place in range(num_places):
        model.add(sum(row[place] for row in x) == int(np.count_nonzero(place_I == place)))
        for expert in np.unique(expert_I):
            same = [x[i][place] for i in np.flatnonzero(expert_I == expert)]
            if len(same) > 1:
                model.add_at_most_one(same)
        for w in range(windows):
            model.add(sum(int(cost_IW[i, w]) * x[i][place] for i in range(copies)) <= longest[w])
    weights = np.maximum(np.rint(1000 * weight_W / weight_W.sum()), 1).astype(int)
    model.minimize(sum(int(weight) * variable for weight, variable in zip(weights, longest, strict=True)))
    for i, row in enumerate(x):
        for place, variable in enumerate(row):
            model.add_hint(variable, int(place_I[i] == place))
    now_WG = np.stack([np.bincount(place_I, weights=cost_IW[:, w], minlength=num_places) for w in range(windows)])
    for w, variable in enumerate(longest):
        model.add_hint(variable, int(now_WG[w].max()))
    solver = cp_model.CpSolver()
    solver.parameters.max_deterministic_time = limit
    solver.parameters.symmetry_level = 0
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return np.array([next(p for p in range(num_places) if solver.value(row[p])) for row in x])


def _place(
    costs: SearchCosts,
    tokens: SearchTokens,
    state: SearchState,
    expert_I: NDArray[np.int64],
    old_I: NDArray[np.int64],
    new_I: NDArray[np.int64],
) -> None:
    """Put every copy on its new device, with the sources that use it."""
    for expert in np.unique(expert_I):
        mine = expert_I == expert
        device_D = np.arange(state.fill_D.size)
        device_D[old_I[mine]] = new_I[mine]
        swap_into(costs, tokens, state, int(expert), device_D[state.device_ED[expert]].astype(np.int32))
        state.holds_ED[expert, old_I[mine]] = False
        state.holds_ED[expert, new_I[mine]] = True
