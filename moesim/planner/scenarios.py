"""Planning for several cases at once: plans made for different mixtures of them, the best one chosen layer by layer.

A case is a workload of its own (a trace of the scenario) or one window of the only workload. Least mean needs one plan, on
the cases' mixture. For the worst case, or the mean of the worst, mixtures shift towards the cases that are slow (a zero-sum
game between planner and mixture, some rounds of it), every case alone is planned for where there are few, and CP-SAT
chooses a plan for each layer (moesim.planner.choosing). Array letters: L MoE ordinal, E expert, W window, K case.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.placement import ExpertPlacement
from moesim.planner.choosing import choose, risk
from moesim.planner.objective import make_state, window_times
from moesim.planner.problem import PlacementAnswer, PlacementProblem, TokenSketch

_ROUNDS = 2  # mixtures shifted towards slow cases
_FEW = 3  # cases that are each planned for alone
_LEAN = 8.0  # how fast mixtures shift: a case 10 % slower than the mean weighs e^0.8 times as much
Place = Callable[[PlacementProblem], PlacementAnswer]


@dataclass(frozen=True, slots=True)
class Cases:
    """Which case each window of the sketch belongs to [W], the cases' weights [K], and the share of cases left out."""

    case_W: NDArray[np.int64]
    weight_K: NDArray[np.float64]
    level: float


def robust_answer(problem: PlacementProblem, cases: Cases, place: Place, policy: str) -> PlacementAnswer:
    """The answer of a strategy with the least risk over the cases; the problem must have a sketch and costs.

    The work limit is shared among the plans that are made.
    """
    if cases.level <= 0.0 or cases.weight_K.size == 1:
        return place(problem)
    alone = cases.weight_K.size if 1 < cases.weight_K.size <= _FEW else 0
    limited = dataclasses.replace(problem, work_limit=problem.work_limit / (1 + _ROUNDS + alone))
    mixture_K = cases.weight_K / cases.weight_K.sum()
    answers, seconds = [place(limited)], []
    seconds.append(_seconds_LK(problem, cases, answers[0], policy))
    for _ in range(_ROUNDS):
        slow_K = np.min([times.sum(axis=0) for times in seconds], axis=0)
        mixture_K = mixture_K * np.exp(_LEAN * (slow_K / slow_K.mean() - 1.0))
        mixture_K /= mixture_K.sum()
        answers.append(place(_mixed(limited, cases, mixture_K)))
        seconds.append(_seconds_LK(problem, cases, answers[-1], policy))
    for case in range(alone):
        answers.append(place(_mixed(limited, cases, np.eye(alone)[case])))
        seconds.append(_seconds_LK(problem, cases, answers[-1], policy))
    chosen = choose(np.stack(seconds, axis=1), cases.weight_K, cases.level, work_limit=problem.work_limit)
    placements = tuple(answers[option].placements[layer] for layer, option in enumerate(chosen.option_L.tolist()))
    best_K = np.stack(seconds, axis=1)[np.arange(problem.num_layers), chosen.option_L].sum(axis=0)
    gain = risk(seconds[0].sum(axis=0), cases.weight_K, cases.level) / max(
        risk(best_K, cases.weight_K, cases.level), 1e-30
    )
    note = (
        f"of {len(answers)} plans for different mixtures of cases, the best for each layer: {gain - 1.0:+.1%} quicker than "
        "the plan for their mean"
    )
    out_of_time = any(answer.out_of_time for answer in answers) or chosen.status == "out of time"
    return PlacementAnswer(placements, (*answers[0].notes, note), out_of_time=out_of_time)


def _seconds_LK(problem: PlacementProblem, cases: Cases, answer: PlacementAnswer, policy: str) -> NDArray[np.float64]:
    """Seconds of each layer in each case, mean over the case's windows."""
    return np.stack(
        [case_seconds(problem, cases, layer, placement, policy) for layer, placement in enumerate(answer.placements)]
    )


def case_seconds(
    problem: PlacementProblem, cases: Cases, layer: int, placement: ExpertPlacement, policy: str
) -> NDArray[np.float64]:
    """Seconds of one layer in each case [K]."""
    assert problem.sketch is not None and problem.costs is not None
    used = "even" if policy == "split" and placement.split_NP is None else policy
    state = make_state(problem.costs, problem.sketch, layer, placement, used, problem.seed)
    weight_W = problem.sketch.window_weight_W
    seconds_K = np.bincount(cases.case_W, weights=window_times(problem.costs, state, 0.0) * weight_W)
    mean_K: NDArray[np.float64] = seconds_K / np.bincount(cases.case_W, weights=weight_W)
    return mean_K


def _mixed(problem: PlacementProblem, cases: Cases, mixture_K: NDArray[np.float64]) -> PlacementProblem:
    """The problem with its cases in other proportions; windows of cases that have none are left out."""
    assert problem.sketch is not None
    old_K = np.bincount(cases.case_W, weights=problem.sketch.window_weight_W)
    weight_W = problem.sketch.window_weight_W * (mixture_K / old_K)[cases.case_W]
    sketch = _kept(dataclasses.replace(problem.sketch, window_weight_W=weight_W), weight_W > 1e-6)
    return dataclasses.replace(problem, sketch=sketch, load_LE=sketched_loads(sketch, problem.num_experts))


def _kept(sketch: TokenSketch, keep_W: NDArray[np.bool_]) -> TokenSketch:
    """Some windows of a sketch, renumbered."""
    number_W = (np.cumsum(keep_W) - 1).astype(np.int32)
    mine = np.flatnonzero(keep_W[sketch.window_T])
    weight_W = sketch.window_weight_W[keep_W]
    return dataclasses.replace(
        sketch,
        experts_LTK=sketch.experts_LTK[:, mine],
        source_T=sketch.source_T[mine],
        weight_T=sketch.weight_T[mine],
        window_T=number_W[sketch.window_T[mine]],
        token_T=sketch.token_T[mine],
        window_weight_W=weight_W / weight_W.sum(),
    )


def sketched_loads(sketch: TokenSketch, num_experts: int) -> NDArray[np.float64]:
    """Tokens of each expert in a step, mean over windows [L, E]."""
    weight_T = sketch.weight_T * sketch.window_weight_W[sketch.window_T]
    rows = [
        np.bincount(
            experts_TK[experts_TK >= 0],
            weights=np.broadcast_to(weight_T[:, None], experts_TK.shape)[experts_TK >= 0],
            minlength=num_experts,
        )
        for experts_TK in sketch.experts_LTK
    ]
    return np.stack(rows)
