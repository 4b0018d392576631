"""Balance first, then the shortest ways: integer programs for loads and for routing (the idea of MoETuner).

Source      Go and Mahajan, "MoETuner: Optimized Mixture of Expert Serving with Balanced Expert Placement and Token
            Routing", 2025 (arXiv:2502.06643)
Data        load[e]; c[e] copies, water-filled; slots[d], speed[d]; q[h,e] tokens from device h to e; way[h,d] seconds of
            a copy on the slowest link from h to d
Balance     y[e,g] copies of e in bundle g; T >= 0
            copies:   sum over g of y[e,g] = c[e]                              for every e
            slots:    sum over e of y[e,g] = slots[g]                          for every g
            capacity: sum over e of (load[e] / c[e]) y[e,g] <= T speed[g]      for every g
            min T     CP-SAT, one worker, fixed seed and deterministic time, from longest-first and swaps as a hint
Routing     cost[g,d] = sum over h, e of q[h,e] (y[e,g] / c[e]) way[h,d]; bundles to devices of the same slots and speed
            at the least cost: an assignment problem, solved exactly
MoETuner's second program also joins the layers, since its tokens stay where their last expert was. Here they go home
after every layer, so that layers do not depend on each other.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from moesim.errors import Declined
from moesim.planner.even_program import solve_even_copies
from moesim.planner.objective_tables import CostTables
from moesim.planner.packing import pack_longest_first
from moesim.planner.problem import PlacementAnswer, PlacementProblem
from moesim.planner.swapping import level_by_swaps
from moesim.planner.water_fill import water_fill
from moesim.planner.windows import tokens_by_home

REPLICA_POLICY = "even"
READS_TOKENS = True
MOST_CELLS = 2048  # experts x devices of a layer; beyond it CP-SAT does not beat swaps in minutes
_SHARES = 1 << 16  # the load of a layer is scaled to about this many whole tokens

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def place(problem: PlacementProblem) -> PlacementAnswer:
    """Least largest load / speed with even copies, then the least routing cost; declines what CP-SAT does not finish."""
    cells = problem.num_experts * problem.num_devices
    if cells > MOST_CELLS:
        raise Declined(
            f"routing_ilp solves integer programs of up to {MOST_CELLS} experts x devices; this one has "
            f"{problem.num_experts} x {problem.num_devices} (slots={problem.num_slots}); take balanced or topology"
        )
    placements, statuses = [], []
    for layer in range(problem.num_layers):
        copies_EG, status = _balanced(problem, layer)
        placements.append(problem.placement(_slots(_routed(problem, layer, copies_EG))))
        statuses.append(status)
    notes = []
    unproven = sum(status != "optimal" for status in statuses)
    if unproven:
        notes.append(f"routing_ilp ran out of work in {unproven} of {len(statuses)} layers: the best balance found")
    if problem.sketch is None:
        notes.append("routing_ilp knows only loads here, no tokens: balance without routing")
    return PlacementAnswer(tuple(placements), tuple(notes), out_of_time=bool(unproven))


def _balanced(problem: PlacementProblem, layer: int) -> tuple[Ints, str]:
    """Copies of each expert in each bundle, bundles like the devices [E, G]; the solver's status."""
    slots_D, speed_D, load_E = problem.slots_of_devices, problem.speeds, problem.load_LE[layer]
    copies_E = water_fill(load_E, problem.num_slots, max(int((slots_D > 0).sum()), 1))
    total = float(load_E.sum())
    share_E = load_E / copies_E * (_SHARES / total if total > 0 else 0.0)
    packed_P = pack_longest_first(load_E, copies_E, problem.num_devices, slots_D, speed_D)
    hint_P = level_by_swaps(packed_P, load_E / copies_E, slots_D, speed_D)
    hint_ED = np.zeros((problem.num_experts, problem.num_devices), dtype=np.int64)
    np.add.at(hint_ED, (hint_P, np.repeat(np.arange(problem.num_devices), slots_D)), 1)
    # A solver of integers: loads as shares of 65,536 tokens, speeds in thousandths.
    whole_E = np.rint(share_E).astype(np.int64)
    permille_D = np.maximum(np.rint(1000 * speed_D / speed_D.max()), 1).astype(np.int64)
    answer = solve_even_copies(whole_E, copies_E, slots_D, permille_D, hint_ED, problem.work_limit, problem.seed)
    if ((share_E @ answer.copies_ED) / speed_D).max() > ((share_E @ hint_ED) / speed_D).max():
        return hint_ED, answer.status  # better in whole tokens only
    return answer.copies_ED, answer.status


def _routed(problem: PlacementProblem, layer: int, copies_EG: Ints) -> Ints:
    """The bundles on the devices they cost least on [E, D]."""
    if problem.costs is None or problem.sketch is None:
        return copies_EG
    share_EG = copies_EG / copies_EG.sum(axis=1, keepdims=True)
    cost_GD = share_EG.T @ tokens_by_home(problem, layer).T @ way_seconds(problem.costs)
    kind_D = np.unique(np.stack([problem.slots_of_devices, problem.speeds]), axis=1, return_inverse=True)[1].ravel()
    never = 1.0 + 2.0 * float(cost_GD.max(initial=0.0)) * problem.num_devices
    bundle, device = linear_sum_assignment(cost_GD + never * (kind_D[:, None] != kind_D[None, :]))
    placed_ED = np.empty_like(copies_EG)
    placed_ED[:, device] = copies_EG[:, bundle]
    return placed_ED


def way_seconds(costs: CostTables) -> Floats:
    """Seconds that a dispatched copy keeps the slowest link of its way busy, [home D, target D] of the first group."""
    on_X = (costs.op_R[costs.resource_X] == 0) * costs.share_X * costs.seconds_R[costs.resource_X]
    channel_X = np.repeat(np.arange(costs.offsets_C1.size - 1), np.diff(costs.offsets_C1))
    slowest_C = np.zeros(costs.offsets_C1.size)  # the last one is that of no channel
    np.maximum.at(slowest_C, channel_X, on_X)
    home = np.arange(costs.group_size)
    way_DD = slowest_C[costs.channel_SD[: costs.group_size]]
    if costs.node_copies:
        rail_DN = slowest_C[costs.channel_SN[: costs.group_size]]
        way_DD = np.maximum(way_DD, rail_DN[:, home // costs.devices_per_node])
    way_DD[home, home] = 0.0
    return way_DD


def _slots(copies_ED: Ints) -> Ints:
    """The experts of the slots [P], device by device."""
    device, expert = np.nonzero(copies_ED.T)
    return np.repeat(expert, copies_ED[expert, device])
