"""The planner's objective: the simulator's `bound` model of one MoE layer, kept up to date while copies move.

T = dispatch + experts + combine - hidden, with
    dispatch, combine = fixed + max over links of (copies x bytes / bandwidth + latency), copies de-duplicated as the
                        dispatch algorithm does (per device, per node and rail) on the paths and engines of the simulator
    experts           = max over devices of launch + max(weight bytes of active slots / HBM rate, tiles x FLOP / rate)
                        + activation bytes / HBM rate, and the shared expert
    hidden            = what the overlap can put beside each other (moesim.step_bound)
on the tokens of a sketch, each sent to the copy that the replica policy of the simulator chooses. With every token in
the sketch (`whole`) it equals moesim.step_bound, but for the latency of links that few flows use: here it is the
smallest of the flows that could. With a sample, loads are estimates, tiles and active experts their expectations.

A swap costs time in proportion to the tokens of the two experts. A rejected swap is undone by the opposite swap; counts
are sums of the same weights, so that what is undone is undone to rounding.

Letters: W window, S rank, D device of a group, N node, G group, P slot, R resource, E expert.
"""

import numpy as np
from numba import njit

from moesim.planner.objective_kernels import choose_again, combined, forget_slot, learn_slot, settle, window_phases
from moesim.planner.objective_state import LayerState, make_state
from moesim.planner.objective_tables import CostTables, cost_tables

__all__ = [
    "CostTables",
    "LayerState",
    "cost_tables",
    "layer_time",
    "make_state",
    "phase_times",
    "replace",
    "swap",
    "try_replace",
    "try_swap",
    "window_times",
]


@njit(cache=True, nogil=True)
def swap(costs, state, first, second):  # type: ignore[no-untyped-def]  # types are numba's
    """Exchange the experts of two slots; tokens of both choose their copies again."""
    one, other = state.expert_P[first], state.expert_P[second]
    if one == other:
        return
    forget_slot(state, one, first)
    forget_slot(state, other, second)
    learn_slot(state, one, second)
    learn_slot(state, other, first)
    state.expert_P[first], state.expert_P[second] = other, one
    choose_again(costs, state, one)
    choose_again(costs, state, other)
    settle(costs, state)


@njit(cache=True, nogil=True)
def replace(costs, state, slot, expert):  # type: ignore[no-untyped-def]
    """Give the slot to a copy of `expert`; the expert it held must have another copy."""
    before = state.expert_P[slot]
    if before == expert:
        return
    forget_slot(state, before, slot)
    learn_slot(state, expert, slot)
    state.expert_P[slot] = expert
    choose_again(costs, state, before)
    choose_again(costs, state, expert)
    settle(costs, state)


@njit(cache=True, nogil=True)
def try_swap(costs, state, first, second, soft):  # type: ignore[no-untyped-def]
    """`layer_time` after the swap; the state stays as it is."""
    swap(costs, state, first, second)
    time = layer_time(costs, state, soft)
    swap(costs, state, first, second)
    return time


@njit(cache=True, nogil=True)
def try_replace(costs, state, slot, expert, soft):  # type: ignore[no-untyped-def]
    """`layer_time` after the replacement; the state stays as it is."""
    before = state.expert_P[slot]
    replace(costs, state, slot, expert)
    time = layer_time(costs, state, soft)
    replace(costs, state, slot, before)
    return time


@njit(cache=True, nogil=True)
def layer_time(costs, state, soft):  # type: ignore[no-untyped-def]
    """Seconds of the layer, mean over windows; `soft` (0..1) mixes in the 8-norm over devices and links, 0 = the model.

    The 8-norm tells placements apart whose fullest link is the same, so that a search can leave a plateau.
    """
    total = 0.0
    for window in range(state.weight_W.size):
        total += state.weight_W[window] * combined(costs, state, window, window_phases(costs, state, window, soft))
    return total


@njit(cache=True, nogil=True)
def window_times(costs, state, soft):  # type: ignore[no-untyped-def]
    """Seconds of the layer in each window [W]."""
    times_W = np.empty(state.weight_W.size)
    for window in range(times_W.size):
        times_W[window] = combined(costs, state, window, window_phases(costs, state, window, soft))
    return times_W


@njit(cache=True, nogil=True)
def phase_times(costs, state):  # type: ignore[no-untyped-def]
    """Seconds of dispatch, experts (shared included) and combine in each window [W, 3], nothing hidden."""
    phases_W3 = np.empty((state.weight_W.size, 3))
    for window in range(phases_W3.shape[0]):
        phases_W3[window] = window_phases(costs, state, window, 0.0)
    return phases_W3
