"""The whole pipeline: tokens to nodes, copies where they save time, then search on what the step costs.

Per layer: a start by load, one by node (hypergraph partition, node-aware copies) and the published balancer's; local
search with source tables; Large-Neighbourhood Search by CP-SAT. What it searches on is chosen on windows it has not seen.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.errors import Declined
from moesim.placement import ExpertPlacement
from moesim.planner.held_out import Trial, half_shuffled, time_of, try_variants
from moesim.planner.layer_search import search_layer
from moesim.planner.many_experts import place_many
from moesim.planner.objective_tables import CostTables
from moesim.planner.partition import has_mtkahypar
from moesim.planner.problem import PlacementAnswer, PlacementProblem, TokenSketch, first_alike
from moesim.planner.search_state import copies_of, slots_filled, state_bytes
from moesim.planner.side_by_side import side_by_side
from moesim.planner.sketch import every_so_manyth
from moesim.planner.splits import best_split
from moesim.planner.starts import by_eplb, by_load, by_node, by_one_copy
from moesim.planner.survival import fewest_domains, surviving_slots, survivors
from moesim.planner.tiny_layers import climb, is_tiny

REPLICA_POLICY = "split"
WORK = 6e6  # a layer, in units of moesim.planner.search_state.set_table: a quarter of a second
QUICK = 0.2  # of the usual work; no layer is searched with less
FEW_TOKENS = 4096  # of the sketch, by which plans are told apart where work is less than that
MOST_CELLS = 1 << 25  # experts x devices x windows of one layer's state: a quarter of a gigabyte
MOST_PAIRS = 1 << 22  # experts x devices: beyond it, and with hundreds of ids a token, a search takes many minutes
LARGE = 1 << 19  # layers x experts x devices, above which one neighbourhood a layer and no linear program of splits
WORSE = 0.01  # on unseen windows, from which on the published plan is taken; half a window plans worse than a whole
LEAST = 0.01  # on unseen windows, that keeps a plan which gains little on seen ones
WORTH_IT = 0.03  # gains below this are within what profiles and drift leave uncertain


def place(problem: PlacementProblem) -> PlacementAnswer:
    """Search every layer on the planning window's tokens; on loads alone, copies by load with an even split.

    Never slower on the objective, on the planning window, than the published balancer's plans, unless experts must survive
    failures: then what was found is changed until they do.
    """
    windows = 1 if problem.sketch is None else problem.sketch.num_windows
    pairs = problem.num_experts * problem.num_devices
    if pairs > MOST_PAIRS or pairs * windows > MOST_CELLS:
        return _placed_many(problem)
    answer = _placed(problem)
    if not problem.survive:
        return answer
    placements = tuple(_surviving(problem, layer, placement) for layer, placement in enumerate(answer.placements))
    note = f"every expert in {problem.survive + 1} failure domains: copies were added or moved after the search"
    return dataclasses.replace(answer, placements=placements, notes=(*answer.notes, note))


def _placed(problem: PlacementProblem) -> PlacementAnswer:
    """The answer, whatever may fail."""
    if problem.sketch is None or problem.costs is None:
        return PlacementAnswer(
            tuple(_even(problem, by_load(problem, layer)) for layer in range(problem.num_layers)),
            ("topology knows only loads here, no tokens and no costs: copies by load, split evenly",),
        )
    first_L = first_alike(problem, problem.sketch)
    different = sorted(set(first_L))
    # Below QUICK the search ends before it has tried what it knows: what is returned is the best found by then.
    cut_short = problem.work_limit < QUICK
    judged = problem
    if cut_short:  # telling plans apart would take longer than finding them
        judged = dataclasses.replace(problem, sketch=every_so_manyth(problem.sketch, FEW_TOKENS))
    trial = try_variants(problem, problem.sketch, functools.partial(_searched, share=0.5), _published)
    if trial is not None and trial.gain < -WORSE and not is_tiny(problem):
        return _published_answer(judged, first_L, trial, cut_short)
    variant = half_shuffled if trial is None else trial.chosen
    sketch = variant(problem.sketch, problem.costs.num_ranks)
    bytes_each = state_bytes(problem.num_experts, problem.num_devices, sketch.num_windows, problem.costs.num_ranks)
    found = side_by_side(functools.partial(_best, judged, sketch), different, bytes_each)
    best = dict(zip(different, found, strict=True))
    layers = [best[layer] for layer in first_L]
    gain = _gain(problem.costs, layers)
    if trial is not None and trial.gain < LEAST and gain < WORTH_IT and not is_tiny(problem):
        return _published_answer(judged, first_L, trial, cut_short)
    placements = tuple(layer.placement for layer in layers)
    return PlacementAnswer(placements, _notes(gain, trial), out_of_time=cut_short)


def _published_answer(
    problem: PlacementProblem, first_L: Sequence[int], trial: Trial, cut_short: bool
) -> PlacementAnswer:
    """EPLB's plan by the mode that is quicker over all layers, since searching does not help on steps it has not seen."""
    modes = zip(*(_published(problem, layer) for layer in first_L), strict=True)
    plans = [[_on_all_slots(problem, plan) for plan in mode] for mode in modes]
    seconds = [sum(_seconds(problem, layer, plan) for layer, plan in enumerate(mode)) for mode in plans]
    note = f"not worth it: half the window's plan is {trial.gain:+.1%} quicker than EPLB's on the other half; this is EPLB's"
    return PlacementAnswer(tuple(plans[int(np.argmin(seconds))]), (note,), out_of_time=cut_short)


def _placed_many(problem: PlacementProblem) -> PlacementAnswer:
    """The answer where a table of experts by devices would be too large: few nodes a token, level loads."""
    if problem.survive:
        raise Declined(
            f"topology keeps one copy of most of {problem.num_experts} experts on {problem.num_devices} devices, not "
            f"{problem.survive + 1} (survive={problem.survive}, slots={problem.num_slots}); take balanced"
        )
    placements = tuple(place_many(problem, problem.sketch, layer) for layer in range(problem.num_layers))
    note = "experts by devices are too many to search one by one: placed for few nodes a token at level loads"
    return PlacementAnswer(placements, (note,))


def _surviving(problem: PlacementProblem, layer: int, searched: ExpertPlacement) -> ExpertPlacement:
    """The quicker of the searched copies, changed until every expert survives, and surviving copies by load."""
    load_E = problem.load_LE[layer]
    found = [survivors(problem, searched.expert_of_slot_P, load_E), surviving_slots(problem, load_E)]
    kept = [slots_P for slots_P in found if fewest_domains(problem, slots_P)[1] > problem.survive]
    if problem.costs is None or problem.sketch is None:
        return problem.placement(surviving_slots(problem, load_E), np.ones((1, problem.num_slots)))
    answers = [best_split(problem, layer, problem.placement(slots_P)) for slots_P in kept or found]
    return min(answers, key=lambda answer: answer.time_s).placement


def _searched(problem: PlacementProblem, sketch: TokenSketch, layer: int, share: float = 1.0) -> ExpertPlacement:
    """The layer searched with a share of the usual work."""
    assert problem.costs is not None
    work = WORK * share * max(problem.work_limit, QUICK) * min(1.0, 58 / problem.num_layers)
    starts = _starts(problem, sketch, layer, thorough=share == 1.0)
    return search_layer(problem, problem.costs, sketch, layer, starts, work, rounds=1 if _large(problem) else 2)


def _large(problem: PlacementProblem) -> bool:
    """Whether all that is tried on a layer would take minutes on all layers."""
    return problem.num_layers * problem.num_experts * problem.num_devices > LARGE


def _starts(problem: PlacementProblem, sketch: TokenSketch, layer: int, *, thorough: bool) -> list[NDArray[np.bool_]]:
    starts = [by_load(problem, layer)]
    if problem.num_nodes > 1:
        starts.append(by_node(problem, sketch, layer, thorough=thorough and problem.work_limit >= 0.5))
    starts += [copies_of(plan) for plan in _published(problem, layer)[:1]]
    if problem.num_slots > problem.num_experts and _reads_bind(problem, sketch):
        starts.append(by_one_copy(problem, layer))
    if problem.old is not None:
        starts.append(copies_of(problem.old[layer]))
    return starts


def _reads_bind(problem: PlacementProblem, sketch: TokenSketch) -> bool:
    """Whether reading the weights of an expert takes twice as long as the arithmetic of its tokens in a step."""
    assert problem.costs is not None
    costs = problem.costs
    rows = sketch.weight_T.sum() * sketch.experts_LTK.shape[2] / sketch.num_windows / problem.num_experts
    read_s, rows_s = costs.weight_bytes_E.mean() * costs.byte_s_S[0], rows * costs.params_E.mean() * costs.flop_s_S[0]
    return bool(read_s > 2 * rows_s)


def _published(problem: PlacementProblem, layer: int) -> list[ExpertPlacement]:
    """EPLB's plans of a layer, global first, as far as it has any."""
    plans = []
    for hierarchical in (False, True):
        try:
            plans.append(by_eplb(problem, layer, hierarchical=hierarchical))
        except Declined:
            continue
    return plans


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer's placement, its seconds on the planning window, and those of the quicker published plan (inf: none)."""

    placement: ExpertPlacement
    seconds: float
    published_s: float


def _best(problem: PlacementProblem, sketch: TokenSketch, layer: int) -> _Layer:
    """The searched placement, with the split of a linear program where that is quicker; or a published plan if that is."""
    plans = [_searched(problem, sketch, layer)]
    if problem.work_limit >= 0.5 and not _large(problem):
        plans.append(best_split(problem, layer, plans[0]).placement)
    published, published_s = _published_best(problem, layer)
    times = [_seconds(problem, layer, plan) for plan in plans]
    if published is not None:
        plans, times = [*plans, published], [*times, published_s]
    number = int(np.argmin(times))
    best, seconds = plans[number], times[number]
    if is_tiny(problem):
        best = climb(problem, layer, best)
        seconds = _seconds(problem, layer, best)
    return _Layer(best, seconds, published_s)


def _published_best(problem: PlacementProblem, layer: int) -> tuple[ExpertPlacement | None, float]:
    """The quicker of EPLB's plans on the planning window, if it has any, and its seconds."""
    plans = [_on_all_slots(problem, plan) for plan in _published(problem, layer)]
    times = [_seconds(problem, layer, plan) for plan in plans]
    best = int(np.argmin(times)) if times else -1
    return (plans[best], times[best]) if times else (None, np.inf)


def _seconds(problem: PlacementProblem, layer: int, plan: ExpertPlacement) -> float:
    """Seconds of a layer on the planning window."""
    assert problem.sketch is not None
    return time_of(problem, problem.sketch, layer, plan)


def _on_all_slots(problem: PlacementProblem, plan: ExpertPlacement) -> ExpertPlacement:
    """A plan that may use fewer slots than there are, even split; what is left holds idle copies."""
    holds_ED, slots_D = copies_of(plan), problem.slots_of_devices
    if plan.num_slots == problem.num_slots and problem.slots_D is None:
        return problem.placement(plan.expert_of_slot_P, np.ones((1, plan.num_slots)))
    expert_P = slots_filled(holds_ED, slots_D)
    device_P = np.repeat(np.arange(problem.num_devices), slots_D)
    return problem.placement(expert_P, holds_ED[expert_P, device_P][None, :].astype(np.float64))


def _even(problem: PlacementProblem, holds_ED: NDArray[np.bool_]) -> ExpertPlacement:
    """The copies in slots, spare slots filled, every expert split evenly over its copies."""
    expert_P = slots_filled(holds_ED, problem.slots_of_devices)
    return problem.placement(expert_P, np.ones((1, expert_P.size)))


def _gain(costs: CostTables, layers: Sequence[_Layer]) -> float:
    """EPLB's time / ours - 1 on the planning window, MoE layers with their attention; inf where EPLB has no plan."""
    attention_s = len(layers) * costs.attention_s
    published_s = attention_s + sum(layer.published_s for layer in layers)
    return published_s / (attention_s + sum(layer.seconds for layer in layers)) - 1.0


def _notes(gain: float, trial: Trial | None) -> tuple[str, ...]:
    """Which partitioner was there, and whether the plan is worth it: against EPLB on the window both were planned on."""
    notes = [] if has_mtkahypar() else ["Mt-KaHyPar is not installed: experts went to nodes by moves and swaps instead"]
    if not np.isfinite(gain):
        return tuple(notes)
    notes.append(f"topology: {gain:+.1%} quicker than EPLB in MoE layers, attention included, on the planning window")
    if trial is not None:
        notes.append(f"planned on half of that window it was {trial.gain:+.1%} quicker on the other half")
    if gain < WORTH_IT:
        notes.append(f"not worth it: a gain of {gain:.1%} is below {WORTH_IT:.0%}, EPLB's plan will do")
    return tuple(notes)
