"""The least loaded placement of a small problem, proven by CP-SAT; larger problems are declined.

Data        load[e] tokens, integers; slots[d]; speed[d]
Variables   y[e,d] in {0,1} a copy of e on d; x[e,d] >= 0 tokens of e on d; T >= 0
Constraints placed:   sum over d of y[e,d] >= 1                 for every e
            slots:    sum over e of y[e,d] <= slots[d]          for every d
            served:   sum over d of x[e,d] = load[e]            for every e
            copies:   x[e,d] <= load[e] y[e,d]                  for every e, d
            capacity: sum over e of x[e,d] <= T speed[d]        for every d
            bound:    T >= what moesim.planner.bounds_load proves
Objective   min T
Solve       CP-SAT, one worker, fixed seed and deterministic time, from the answer of water-filling and swaps as a
            complete hint (symmetry_level=0, or presolve loses it)
Read back   y gives the copies, x the split; slots left over repeat the most loaded experts that the device lacks
"""

import numpy as np
from numpy.typing import NDArray

from moesim.errors import Declined
from moesim.placement import ExpertPlacement
from moesim.planner.bounds_load import load_bounds
from moesim.planner.packing import pack_longest_first
from moesim.planner.problem import PlacementAnswer, PlacementProblem
from moesim.planner.solver import CpAnswer, solve_least_loaded
from moesim.planner.swapping import level_by_swaps
from moesim.planner.water_fill import water_fill

REPLICA_POLICY = "split"
MOST_CELLS = 64  # experts x devices of a layer; beyond it CP-SAT does not beat swaps in minutes
_SHARES = 1 << 16  # the load of a layer is scaled to about this many whole tokens


def place(problem: PlacementProblem) -> PlacementAnswer:
    """Minimise the largest load / speed of a device, tokens of an expert split as suits; proven unless work ends."""
    cells = problem.num_experts * problem.num_devices
    if cells > MOST_CELLS:
        raise Declined(
            f"exact proves problems of up to {MOST_CELLS} experts x devices; this one has {problem.num_experts} x "
            f"{problem.num_devices} (slots={problem.num_slots}); take balanced or topology"
        )
    answers = [_solved(problem, load_E) for load_E in problem.load_LE]
    placements = tuple(_read_back(problem, answer) for answer in answers)
    proven = all(answer.status == "optimal" for answer in answers)
    notes = () if proven else ("exact ran out of work before its answer was proven: the best found",)
    return PlacementAnswer(placements, notes, proven=proven, out_of_time=not proven)


def _solved(problem: PlacementProblem, load_E: NDArray[np.float64]) -> CpAnswer:
    """One layer: whole loads, a hint, a bound, the solver."""
    slots_D, speed_D = problem.slots_of_devices, problem.speeds
    total = float(load_E.sum())
    # A solver of integers: loads as shares of 65,536 tokens, speeds in thousandths.
    whole_E = np.rint(load_E * (_SHARES / total)).astype(np.int64) if total > 0 else np.zeros(load_E.size, np.int64)
    permille_D = np.maximum(np.rint(1000 * speed_D / speed_D.max()), 1).astype(np.int64)
    copies_E = water_fill(whole_E.astype(np.float64), problem.num_slots, max(int((slots_D > 0).sum()), 1))
    packed_P = pack_longest_first(whole_E.astype(np.float64), copies_E, problem.num_devices, slots_D, speed_D)
    hint_P = level_by_swaps(packed_P, whole_E / copies_E, slots_D, speed_D)
    device_P = np.repeat(np.arange(problem.num_devices), slots_D)
    held_ED = np.zeros((load_E.size, problem.num_devices), dtype=np.bool_)
    held_ED[hint_P, device_P] = True
    bound = max(load_bounds(whole_E.astype(np.float64), slots_D, permille_D.astype(np.float64)).values())
    return solve_least_loaded(whole_E, slots_D, permille_D, held_ED, bound, problem.work_limit, problem.seed)


def _read_back(problem: PlacementProblem, answer: CpAnswer) -> ExpertPlacement:
    """Slots device by device and the shares of the copies, the same from every source."""
    held_ED, tokens_ED = answer.held_ED.copy(), answer.tokens_ED
    load_E = tokens_ED.sum(axis=1)
    experts, shares = [], []
    for device, slots in enumerate(problem.slots_of_devices):
        mine = np.flatnonzero(held_ED[:, device])
        # What is left over repeats the most loaded experts that the device lacks, then any.
        spare = np.lexsort((-load_E, held_ED[:, device]))
        filled = np.concatenate([mine, np.resize(spare, max(int(slots) - mine.size, 0))])
        experts.append(filled)
        shares.append(np.concatenate([tokens_ED[mine, device], np.zeros(filled.size - mine.size)]))
    expert_P, tokens_P = np.concatenate(experts), np.concatenate(shares).astype(np.float64)
    idle_P = load_E[expert_P] == 0  # without tokens every share will do
    return problem.placement(expert_P, np.where(idle_P, 1.0, tokens_P)[None, :])
