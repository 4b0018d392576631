"""The whole pipeline: tokens to nodes, copies where they save time, then search on what the step costs.

Per layer: a start by load, one by node (hypergraph partition, node-aware copies) and the published balancer's; local
search with source tables; Large-Neighbourhood Search by CP-SAT. What it searches on is chosen on windows it has not seen.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from moesim.errors import Declined
from moesim.placement import ExpertPlacement
from moesim.planner.held_out import Trial, half_shuffled, time_of, try_variants
from moesim.planner.layer_search import search_layer
from moesim.planner.partition import has_mtkahypar
from moesim.planner.problem import PlacementAnswer, PlacementProblem, TokenSketch
from moesim.planner.search_state import copies_of
from moesim.planner.starts import by_eplb, by_load, by_node

REPLICA_POLICY = "split"
WORK = 1.2e7  # a layer, in units of moesim.planner.search_state.set_table: a third of a second
MOST_CELLS = 1 << 25  # experts x devices x windows of one layer's state: a quarter of a gigabyte
WORTH_IT = 0.03  # gains below this are within what profiles and drift leave uncertain


def place(problem: PlacementProblem) -> PlacementAnswer:
    """Search every layer on the planning window's tokens; on loads alone, copies by load with an even split.

    Never slower on the objective, on the planning window, than the published balancer's plans.
    """
    if problem.sketch is None or problem.costs is None:
        return PlacementAnswer(
            tuple(_even(problem, by_load(problem, layer)) for layer in range(problem.num_layers)),
            ("topology knows only loads here, no tokens and no costs: copies by load, split evenly",),
        )
    cells = problem.num_experts * problem.num_devices * problem.sketch.num_windows
    if cells > MOST_CELLS:
        raise Declined(
            f"topology searches {problem.num_experts} experts x {problem.num_devices} devices x slots={problem.num_slots} "
            f"expert by expert, which takes more than {MOST_CELLS} cells; take key_grid or balanced"
        )
    trial = try_variants(problem, problem.sketch, functools.partial(_searched, share=0.5), _published)
    variant = half_shuffled if trial is None else trial.chosen
    sketch = variant(problem.sketch, problem.costs.num_ranks)
    placements = tuple(_best(problem, sketch, layer) for layer in range(problem.num_layers))
    return PlacementAnswer(placements, _notes(problem, placements, trial))


def _searched(problem: PlacementProblem, sketch: TokenSketch, layer: int, share: float = 1.0) -> ExpertPlacement:
    """The layer searched with a share of the usual work."""
    assert problem.costs is not None
    work = WORK * share * problem.work_limit * min(1.0, 58 / problem.num_layers)
    return search_layer(problem, problem.costs, sketch, layer, _starts(problem, sketch, layer), work)


def _starts(problem: PlacementProblem, sketch: TokenSketch, layer: int) -> list[NDArray[np.bool_]]:
    starts = [by_load(problem, layer)]
    if problem.num_nodes > 1:
        starts.append(by_node(problem, sketch, layer))
    starts += [copies_of(plan) for plan in _published(problem, layer)[:1]]
    return starts


def _published(problem: PlacementProblem, layer: int) -> list[ExpertPlacement]:
    """EPLB's plans of a layer, global first, as far as it has any."""
    plans = []
    for hierarchical in (False, True):
        try:
            plans.append(by_eplb(problem, layer, hierarchical=hierarchical))
        except Declined:
            continue
    return plans


def _best(problem: PlacementProblem, sketch: TokenSketch, layer: int) -> ExpertPlacement:
    """The searched placement, or a published one where that is quicker on the planning window."""
    assert problem.sketch is not None
    searched = _searched(problem, sketch, layer)
    seconds = time_of(problem, problem.sketch, layer, searched)
    for plan in _published(problem, layer):
        if plan.num_slots == problem.num_slots and time_of(problem, problem.sketch, layer, plan) < seconds:
            seconds = time_of(problem, problem.sketch, layer, plan)
            searched = problem.placement(plan.expert_of_slot_P, np.ones((1, plan.num_slots)))
    return searched


def _even(problem: PlacementProblem, holds_ED: NDArray[np.bool_]) -> ExpertPlacement:
    """The copies in slots, spare slots filled, every expert split evenly over its copies."""
    rows, copies_E = [], holds_ED.sum(axis=1)
    for device, slots in enumerate(problem.slots_of_devices):
        held = np.flatnonzero(holds_ED[:, device])
        spare = np.lexsort((np.arange(copies_E.size), copies_E, holds_ED[:, device]))
        spare = np.resize(spare, max(int(slots) - held.size, 0))
        np.add.at(copies_E, spare, 1)
        rows.append(np.concatenate([held, spare]))
    expert_P = np.concatenate(rows).astype(np.int32)
    return problem.placement(expert_P, np.ones((1, expert_P.size)))


def _notes(problem: PlacementProblem, placements: tuple[ExpertPlacement, ...], trial: Trial | None) -> tuple[str, ...]:
    """Which partitioner was there, and whether the plan is worth it."""
    notes = [] if has_mtkahypar() else ["Mt-KaHyPar is not installed: experts went to nodes by moves and swaps instead"]
    where = "on the half of the planning window it had not seen"
    if trial is None:
        trial, where = _seen_trial(problem, placements), "on the planning window"
    if not np.isfinite(trial.published_s):
        return tuple(notes)
    notes.append(f"topology is {trial.gain:+.1%} quicker than EPLB in dispatch, experts and combine {where}")
    if trial.gain < WORTH_IT:
        notes.append(f"not worth it: a gain of {trial.gain:.1%} is below {WORTH_IT:.0%}, EPLB's plan will do")
    return tuple(notes)


def _seen_trial(problem: PlacementProblem, placements: tuple[ExpertPlacement, ...]) -> Trial:
    """The answer against the published plans on the planning window itself, where it has one step only."""
    assert problem.sketch is not None
    searched_s = published_s = 0.0
    for layer, placement in enumerate(placements):
        searched_s += time_of(problem, problem.sketch, layer, placement)
        times = [time_of(problem, problem.sketch, layer, plan) for plan in _published(problem, layer)]
        published_s += min(times, default=np.inf)
    return Trial(half_shuffled, searched_s, published_s)
