"""Bounding: the time that no plan of a setting's slots can beat on its steps.

Array letters: S rank.
"""

import numpy as np

from moesim.planner.bounds import inbound_seconds, receive_bounds
from moesim.planner.objective_tables import CostTables
from moesim.planner.problem import PlacementProblem
from moesim.routing import DealtStep
from moesim.setting import Setting
from moesim.step_work import StepWork, WorkPlan
from moesim.study.posing import attention_cost

TERMS = ("dispatch", "experts", "combine")


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
    best, best_names = 0.0, dict[str, str]()
    for weight_S in weights if not np.allclose(weights[0], weights[1]) else weights[:1]:
        inbound = inbound_seconds(costs, weight_S)
        bounds = [_step_bound(setting, problem, work, costs, step, weight_S, inbound) for step in steps]
        mean_s = float(np.mean([seconds for seconds, _ in bounds]))
        if mean_s > best:
            best, best_names = mean_s, bounds[-1][1]
    return best, best_names


def _step_bound(
    setting: Setting,
    problem: PlacementProblem,
    work: WorkPlan,
    costs: CostTables,
    step: DealtStep,
    weight_S: np.ndarray,
    inbound: dict[tuple[int, str], float],
) -> tuple[float, dict[str, str]]:
    """One step's bound, and the arguments behind the terms of its last layer."""
    model, one = setting.model, StepWork(plan=work, dealt=step)
    moe = model.moe_layer_indices
    compute_s = sum(
        float((weight_S * one.dense_layer(index).time_s).sum()) for index in range(model.num_layers) if index not in moe
    ) + float((weight_S * one.head().time_s).sum())
    network_s, hidden_s, names = 0.0, 0.0, dict[str, str]()
    for ordinal, index in enumerate(moe):
        layer = receive_bounds(
            costs, problem.slots_of_devices, step.experts_LTK[ordinal], step.rank_T, weight_S, inbound
        )
        compute_s += float((weight_S * attention_cost(one, index)).sum()) + layer.experts_s
        network_s += layer.dispatch_s + layer.combine_s
        hidden_s += min(layer.shared_s, layer.dispatch_s)
        names = dict(zip(TERMS, layer.names, strict=True))
    if work.overlap == "shared_expert":
        return compute_s + network_s - hidden_s, names
    if work.overlap != "none":
        return max(compute_s, network_s), names
    return compute_s + network_s, names
