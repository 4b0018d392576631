"""Bounding: the time that no plan of a setting's slots can beat on its steps.

Array letters: S rank, E expert, N node (or device) of a group.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.planner.bounds import ReceiveBounds, group_loads, inbound_seconds, receive_bounds, source_pairs
from moesim.planner.bounds_aggregate import MOST_CELLS, fewest_far
from moesim.planner.bounds_fitted import ExpertFloor, expert_floor
from moesim.planner.objective_tables import CostTables
from moesim.planner.problem import PlacementProblem
from moesim.routing import DealtStep
from moesim.setting import Setting
from moesim.step_work import StepWork, WorkPlan
from moesim.study.posing import attention_cost

TERMS = ("dispatch", "experts", "combine")
AGGREGATE = "linear relaxation of experts on nodes"
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class _Ranks:
    """Weights of the ranks (sum 1), and what follows from them."""

    weight_S: Floats
    inbound: dict[tuple[int, str], float]
    floor: ExpertFloor | None


def lower_bound(
    setting: Setting, problem: PlacementProblem, work: WorkPlan, costs: CostTables, steps: list[DealtStep]
) -> tuple[float, dict[str, str]]:
    """Seconds of a step, mean over `steps`, that no placement of the problem's slots can beat; the argument of each term.

    A rank's step takes its own attention, receives, experts and dense layers one after the other (or side by side as the
    overlap allows), whatever others do. The slowest rank takes at least the mean over ranks, weighted evenly or by
    speed; the better of the two weightings counts.
    """
    capacity_S = 1.0 / costs.flop_s_S
    weights = [np.full(costs.num_ranks, 1.0 / costs.num_ranks), capacity_S / capacity_S.sum()]
    far_copies_L = [_far_copies(problem, costs, steps, ordinal) for ordinal in range(problem.num_layers)]
    best, best_names = 0.0, dict[str, str]()
    for weight_S in weights if not np.allclose(weights[0], weights[1]) else weights[:1]:
        floor = _floor(problem, costs, steps, weight_S)
        ranks = _Ranks(weight_S, inbound_seconds(costs, weight_S), floor)
        layers = [
            _layer(problem, costs, steps, ordinal, ranks, far_copies_L[ordinal]) for ordinal in range(len(far_copies_L))
        ]
        seconds = float(np.mean([_step(setting, work, step, weight_S) for step in steps]))
        seconds = _combined(work.overlap, seconds, layers)
        if seconds > best:
            best, best_names = seconds, dict(zip(TERMS, layers[-1].names, strict=True))
    return best, best_names


def layer_bounds(problem: PlacementProblem, costs: CostTables, steps: list[DealtStep]) -> list[ReceiveBounds]:
    """What dispatch, experts and combine of each layer take at least, mean over steps and (evenly) over ranks."""
    weight_S = np.full(costs.num_ranks, 1.0 / costs.num_ranks)
    ranks = _Ranks(weight_S, inbound_seconds(costs, weight_S), _floor(problem, costs, steps, weight_S))
    return [
        _layer(problem, costs, steps, ordinal, ranks, _far_copies(problem, costs, steps, ordinal))
        for ordinal in range(problem.num_layers)
    ]


def _floor(
    problem: PlacementProblem, costs: CostTables, steps: list[DealtStep], weight_S: Floats
) -> ExpertFloor | None:
    most_tokens = max(
        int(np.bincount(experts_TK[experts_TK >= 0]).max(initial=0))
        for step in steps
        for experts_TK in step.experts_LTK
    )
    middle = steps[len(steps) // 2]
    typical_GE = group_loads(costs, *source_pairs(middle.experts_LTK[problem.num_layers // 2], middle.rank_T))
    return expert_floor(costs, weight_S, problem.slots_of_devices, typical_GE, most_tokens)


def _step(setting: Setting, work: WorkPlan, step: DealtStep, weight_S: Floats) -> float:
    """Seconds of what no placement changes: attention, router, dense layers and output head; weighted mean over ranks."""
    model, one = setting.model, StepWork(plan=work, dealt=step)
    moe = set(model.moe_layer_indices)
    parts = [
        attention_cost(one, index) if index in moe else one.dense_layer(index).time_s
        for index in range(model.num_layers)
    ]
    return float((weight_S * (sum(parts) + one.head().time_s)).sum())


def _layer(
    problem: PlacementProblem,
    costs: CostTables,
    steps: list[DealtStep],
    ordinal: int,
    ranks: _Ranks,
    far: tuple[str, float],
) -> ReceiveBounds:
    """One layer's bounds, mean over steps; dispatch and combine are at least what the aggregate's far copies take."""
    slots_D = problem.slots_of_devices
    bounds = [
        receive_bounds(
            costs, slots_D, step.experts_LTK[ordinal], step.rank_T, ranks.weight_S, ranks.inbound, ranks.floor
        )
        for step in steps
    ]
    means = {
        name: float(np.mean([getattr(bound, name) for bound in bounds]))
        for name in ("dispatch_s", "experts_s", "combine_s", "shared_s")
    }
    names = list(bounds[-1].names)
    for op, name in enumerate(("dispatch_s", "combine_s")):
        kind, copies = far
        aggregate_s = float(costs.extra_O[op]) + copies * ranks.inbound[op, kind]
        if aggregate_s > means[name]:
            means[name], names[2 * op] = aggregate_s, AGGREGATE
    return ReceiveBounds(**means, names=(names[0], names[1], names[2]))


def _combined(overlap: str, other_s: float, layers: list[ReceiveBounds]) -> float:
    """The step, mean over steps: `other_s` and all layers, less what the overlap can hide."""
    compute_s = other_s + sum(layer.experts_s for layer in layers)
    network_s = sum(layer.dispatch_s + layer.combine_s for layer in layers)
    if overlap == "none":
        return compute_s + network_s
    if overlap == "shared_expert":
        return compute_s + network_s - sum(min(layer.shared_s, layer.dispatch_s) for layer in layers)
    return max(compute_s, network_s)


def _far_copies(
    problem: PlacementProblem, costs: CostTables, steps: list[DealtStep], ordinal: int
) -> tuple[str, float]:
    """Kind and number of copies a step, mean over steps, that must come from another node (or device): one placement
    serves all steps and groups, so that their pairs count together."""
    slots_D = problem.slots_of_devices
    per_node = costs.devices_per_node if costs.node_copies else 1
    first_N = np.arange(0, costs.group_size, per_node)
    slots_N = np.add.reduceat(slots_D, first_N)
    kind = "node" if costs.node_copies else "device"
    if first_N.size * problem.num_experts > MOST_CELLS:  # `fewest_far` would say 0
        return kind, 0.0
    pairs_NE = np.zeros((first_N.size, problem.num_experts))
    most_k = 1
    for step in steps:
        token, k = np.nonzero(step.experts_LTK[ordinal] >= 0)
        node = step.rank_T[token] % costs.group_size // per_node
        np.add.at(pairs_NE, (node, step.experts_LTK[ordinal][token, k]), 1.0)
        most_k = max(most_k, int((step.experts_LTK[ordinal] >= 0).sum(axis=1).max(initial=0)))
    together = max(min(most_k, int(slots_N.max())), 1) if costs.distinct else 1
    copies = fewest_far(pairs_NE, np.minimum(slots_N, problem.num_experts)) / len(steps) / together
    return kind, copies
