"""Capacity factors: per layer, the smallest predicted step under a budget of dropped pairs.

Each layer has a handful of factors to choose from, taken from its own load distribution: those that drop nothing, parts of
the budget, the budget and some times it. What each costs is the closed form of the layer with that factor; what each drops
is counted with the rule of the scenario (megatron, deepspeed, gshard). CP-SAT chooses (moesim.planner.choosing).

Array letters: L MoE ordinal, C factor, K case, U scope unit, E expert.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moesim.errors import NoFeasiblePlan
from moesim.planner.choosing import choose
from moesim.routing import DealtStep
from moesim.step_bound import collective_time
from moesim.step_work import StepWork, WorkPlan
from moesim.study.cases import Case

PARTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # of the budget, that a layer's factor drops
_TIMED = 3  # steps of a case whose time is predicted
_COUNTED = 16  # steps of a case whose drops are counted
_SMALLEST = 1e-3


def choose_factors(
    work: WorkPlan, cases: Sequence[Case], budget: float, level: float
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """The factor of each MoE layer, and what was found in words; `budget` is a share of all (token, expert) pairs.

    Raises NoFeasiblePlan where even the largest factors drop more (a scope that starves some ranks, say).
    """
    layers = work.model.num_moe_layers
    factor_LC = np.stack([_candidates(work, cases, ordinal, budget) for ordinal in range(layers)])
    seconds_LCK, dropped_LC = np.empty((*factor_LC.shape, len(cases))), np.zeros(factor_LC.shape, dtype=np.int64)
    routed = 0
    for ordinal, row in enumerate(factor_LC):
        for number, factor in enumerate(row):
            with_factor = dataclasses.replace(work, capacity_factors=(float(factor),) * layers)
            for place, case in enumerate(cases):
                seconds_LCK[ordinal, number, place] = _seconds(with_factor, case.steps, ordinal)
                dropped, all_pairs = _dropped(with_factor, case.steps, ordinal)
                dropped_LC[ordinal, number] += dropped
                routed += all_pairs if number == 0 else 0
    allowed = int(budget * routed)
    if dropped_LC.min(axis=1).sum() > allowed:
        raise NoFeasiblePlan(
            f"plan.drop_budget={budget:g} allows {allowed} dropped pairs, and the largest factors drop "
            f"{dropped_LC.min(axis=1).sum()} of {routed}; raise it"
        )
    weight_K = np.array([case.weight for case in cases])
    chosen = choose(seconds_LCK, weight_K, level, amount_LC=dropped_LC, budget=allowed)
    rows = np.arange(layers)
    factors = factor_LC[rows, chosen.option_L]
    drop = int(dropped_LC[rows, chosen.option_L].sum()) / max(routed, 1)
    note = (
        f"capacity factors {factors.min():g} to {factors.max():g} drop {drop:.2%} of pairs on the planning window "
        f"(budget {budget:.2%}), {chosen.status}"
    )
    return tuple(float(factor) for factor in factors), (note,)


def _candidates(work: WorkPlan, cases: Sequence[Case], ordinal: int, budget: float) -> NDArray[np.float64]:
    """Factors, largest first, that cut the layer's loads by the parts of the budget."""
    ratios = np.concatenate([_ratios(work, step, ordinal) for case in cases for step in _some(case.steps, _COUNTED)])
    top = max(float(ratios.max(initial=1.0)), _SMALLEST)
    factors = []
    for part in PARTS:
        low, high = _SMALLEST, top
        for _ in range(40 if part * budget > 0.0 else 0):
            middle = 0.5 * (low + high)
            over = float(np.maximum(ratios - middle, 0.0).sum() / max(ratios.sum(), 1e-30))
            low, high = (middle, high) if over > part * budget else (low, middle)
        factors.append(np.ceil(high * 1e3) / 1e3)
    return np.array(factors)


def _ratios(work: WorkPlan, step: DealtStep, ordinal: int) -> NDArray[np.float64]:
    """Pairs of each expert from each scope unit, over the unit's mean [U x E]; units are ranks or groups."""
    size = 1 if work.capacity.scope == "rank" else work.builder.group_size
    experts_TK, experts = step.experts_LTK[ordinal], work.model.num_experts
    unit_TK = np.broadcast_to((step.rank_T // size)[:, None], experts_TK.shape)
    there = experts_TK >= 0
    load_UE = np.bincount(
        unit_TK[there] * experts + experts_TK[there], minlength=-(-work.num_devices // size) * experts
    )
    tokens_U = np.bincount(step.rank_T // size, minlength=-(-work.num_devices // size))
    mean_U = tokens_U * experts_TK.shape[1] / experts
    ratio_UE: NDArray[np.float64] = load_UE.reshape(-1, experts)[mean_U > 0] / mean_U[mean_U > 0, None]
    return np.ravel(ratio_UE)


def _seconds(work: WorkPlan, steps: Sequence[DealtStep], ordinal: int) -> float:
    """Dispatch, experts and combine of one layer by the closed form, mean over some of the steps."""
    times = []
    for step in _some(steps, _TIMED):
        layer = StepWork(plan=work, dealt=step).layer(ordinal)
        network_s = collective_time(layer.dispatch, work.builder.links) + collective_time(
            layer.combine, work.builder.links
        )
        times.append(network_s + float(layer.experts.time_s.max()))
    return float(np.mean(times))


def _dropped(work: WorkPlan, steps: Sequence[DealtStep], ordinal: int) -> tuple[int, int]:
    """Pairs of one layer that do not fit, and all pairs, over some of the steps."""
    dropped = routed = 0
    size, capacity = work.builder.group_size, work.capacity_of(ordinal)
    for step in _some(steps, _COUNTED):
        for first in range(0, work.num_devices, size):
            mine = (step.rank_T >= first) & (step.rank_T < first + size)
            weights_TK = None if step.weights_LTK is None else step.weights_LTK[ordinal][mine]
            rows = np.ascontiguousarray(step.experts_LTK[ordinal][mine])
            counts = capacity.cap(
                rows, weights_TK, (step.rank_T[mine] - first).astype(np.int32), size, work.model.num_experts
            ).counts
            dropped, routed = dropped + counts.routed - counts.kept, routed + counts.routed
    return dropped, routed


def _some(steps: Sequence[DealtStep], most: int) -> list[DealtStep]:
    """At most so many of the steps, evenly spaced."""
    return [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, min(len(steps), most)).round().astype(int))]
