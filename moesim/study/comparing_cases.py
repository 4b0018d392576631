"""Comparing over several traces: each strategy places once, every trace judges it, the objective makes one time of them.

Array letters: K case.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim.errors import Declined
from moesim.placement import ExpertPlacement
from moesim.planner import PlacementAnswer, PlacementProblem, reads_tokens
from moesim.planner.choosing import risk
from moesim.planner.scenarios import Cases, robust_answer
from moesim.result import ComparedRun, Headroom, SimulationResult
from moesim.scenario import Scenario
from moesim.setting import Setting
from moesim.step_bound import balanced_phases
from moesim.step_work import StepWork
from moesim.study.cases import Case, level_of, load_cases, pose_cases
from moesim.study.placing import Window, compile_strategy, judging, place_experts, placement_notes, policy_of
from moesim.study.simulating import OnProgress, replayed
from moesim.study.work_plan import make_work_plan


@dataclass(frozen=True, slots=True)
class Judged:
    """Rows by strategy, placements and the slowest trace's result of each that has one, and the headroom."""

    rows: dict[str, ComparedRun]
    results: dict[str, SimulationResult]
    placements: dict[str, tuple[ExpertPlacement, ...]]
    headroom: Headroom


def compare_cases(
    scenario: Scenario, strategies: Sequence[str], window: Window | None, oracle: str, on_progress: OnProgress | None
) -> Judged:
    """Judge strategies on all traces of the scenario; they plan on `window` of every trace (default: the judged steps)."""
    level, judged = level_of(scenario), load_cases(scenario, None)
    seen = judged if window is None else load_cases(scenario, window)
    problem, members = _posed(seen, strategies, level)
    rows: dict[str, ComparedRun] = {}
    results: dict[str, SimulationResult] = {}
    placements: dict[str, tuple[ExpertPlacement, ...]] = {}
    best: tuple[float, PlacementAnswer, str] | None = None
    for name in strategies:
        compile_strategy(name, problem)
        began = time.perf_counter()
        try:
            answer = _placed(seen[0].setting, name, problem, members)
        except Declined as error:
            rows[name] = ComparedRun(strategy=name, declined=str(error))
            continue
        plan_s, placements[name] = time.perf_counter() - began, answer.placements
        runs = [_replayed(case, name, answer, window, on_progress) for case in judged]
        step_s = _risk(judged, [run.step_time_s for run in runs], level)
        rows[name] = ComparedRun(
            strategy=name,
            step_time_s=step_s,
            balancedness=_mean(judged, [run.balancedness for run in runs]),
            fanout_nodes=_mean(judged, [run.fanout_nodes for run in runs]),
            plan_s=plan_s,
            case_times_s={case.name: run.step_time_s for case, run in zip(judged, runs, strict=True)},
        )
        results[name] = max(runs, key=lambda run: run.step_time_s)
        best = min(best, (step_s, answer, name), key=lambda one: one[0]) if best else (step_s, answer, name)
    oracle_s = _oracle_s(judged, window, level, oracle, rows)
    perfect_s = None if best is None else _perfect_s(judged, best[1], best[2], level)
    return Judged(rows, results, placements, Headroom(perfect_balance_s=perfect_s, oracle_s=oracle_s))


def _posed(cases: Sequence[Case], strategies: Sequence[str], level: float) -> tuple[PlacementProblem, Cases]:
    with judging():
        return pose_cases(cases, tokens=any(reads_tokens(name) for name in strategies), level=level)


def _placed(setting: Setting, name: str, problem: PlacementProblem, members: Cases) -> PlacementAnswer:
    """Strategies that optimise plan for all cases by the objective, the others for the sum of their loads."""
    place = functools.partial(place_experts, setting, name)
    if reads_tokens(name) and problem.sketch is not None and problem.costs is not None:
        return robust_answer(problem, members, place, policy_of(setting, name))
    return place(problem)


def _replayed(
    case: Case, name: str, answer: PlacementAnswer, window: Window | None, on_progress: OnProgress | None
) -> SimulationResult:
    work = make_work_plan(case.setting, answer.placements, policy_of(case.setting, name))
    notes = (*placement_notes(case.setting, answer, window), f"shown is the slowest of the traces, {case.name}")
    return replayed(case.setting, work, name, case.steps, notes, on_progress)


def _oracle_s(
    judged: Sequence[Case], window: Window | None, level: float, oracle: str, rows: dict[str, ComparedRun]
) -> float | None:
    """The oracle's time, planned on the judged steps; only where it was asked for, since it takes as long again."""
    if oracle not in rows or rows[oracle].step_time_s is None:
        return None
    if window is None:
        return rows[oracle].step_time_s
    problem, members = _posed(judged, [oracle], level)
    answer = _placed(judged[0].setting, oracle, problem, members)
    times = [_replayed(case, oracle, answer, None, None).step_time_s for case in judged]
    return _risk(judged, times, level)


def _perfect_s(judged: Sequence[Case], answer: PlacementAnswer, name: str, level: float) -> float:
    """Perfect balance of the fastest strategy's own bytes."""
    times = []
    for case in judged:
        work = make_work_plan(case.setting, answer.placements, policy_of(case.setting, name))
        times.append(float(np.mean([balanced_phases(StepWork(plan=work, dealt=step)).step_s for step in case.steps])))
    return _risk(judged, times, level)


def _risk(cases: Sequence[Case], seconds: Sequence[float], level: float) -> float:
    return risk(np.array(seconds), np.array([case.weight for case in cases]), level)


def _mean(cases: Sequence[Case], values: Sequence[float]) -> float:
    return float(np.average(values, weights=[case.weight for case in cases]))
