"""Compare: several strategies judged on the same steps."""

import time
from collections.abc import Sequence

import numpy as np

from moesim.errors import Declined, InputError
from moesim.planner import replica_policy
from moesim.result import ComparedRun, Comparison, Headroom, SimulationResult
from moesim.routing import DealtStep
from moesim.scenario import Scenario
from moesim.setting import Setting, load_setting
from moesim.step_bound import balanced_phases
from moesim.step_work import StepWork, WorkPlan
from moesim.study.comparing_cases import compare_cases
from moesim.study.placing import (
    BASELINE,
    Window,
    compile_strategy,
    place_experts,
    placement_notes,
    policy_of,
    problem_for,
)
from moesim.study.simulating import OnProgress, replayed
from moesim.study.work_plan import make_work_plan

ORACLE = "topology"


def compare(
    scenario: Scenario,
    strategies: Sequence[str] = (),
    *,
    slots: int | None = None,
    plan_steps: Window | str | None = None,
    steps: Window | str | None = None,
    on_progress: OnProgress | None = None,
) -> Comparison:
    """Judge several strategies on the same steps; load-aware ones plan on `plan_steps` (default: the judged steps).

    With several traces every strategy places once for all of them, and `step_time_s` is the scenario's objective over
    their step times. What is not given here is the scenario's own. A strategy that declines keeps its row, with the
    reason. Speed-up is over `contiguous`, run even when not asked for.
    """
    scenario = _compared_scenario(scenario, strategies, slots, plan_steps, steps)
    asked, window = list(scenario.compare.strategies), scenario.compare.plan_steps
    if not asked:
        raise InputError("no strategies to compare; name at least one, such as contiguous,eplb_global")
    for name in asked:
        replica_policy(name)  # refuses an unknown name before anything runs
    if scenario.other_traces:
        return _over_traces(scenario, asked, window, on_progress)
    setting = load_setting(scenario)
    dealt = list(setting.steps())
    problem = problem_for(asked, setting, window)
    rows: dict[str, ComparedRun] = {}
    results: dict[str, SimulationResult] = {}
    work_of: dict[str, WorkPlan] = {}
    for name in asked if BASELINE in asked else [BASELINE, *asked]:
        compile_strategy(name, problem)
        began = time.perf_counter()
        try:
            answer = place_experts(setting, name, problem)
        except Declined as error:
            rows[name] = ComparedRun(strategy=name, declined=str(error))
            continue
        plan_s = time.perf_counter() - began
        work_of[name] = make_work_plan(setting, answer.placements, policy_of(setting, name))
        results[name] = replayed(
            setting, work_of[name], name, dealt, placement_notes(setting, answer, window), on_progress
        )
        rows[name] = _row(results[name], plan_s)
    baseline_s = results[BASELINE].step_time_s
    oracle_s = None if setting.training else _oracle_s(setting, results, dealt, window)
    runs = [_with_speedup(rows[name], baseline_s) for name in asked]
    results = {name: results[name] for name in asked if name in results}
    return Comparison(
        runs=tuple(runs),
        headroom=Headroom() if setting.training else _headroom(results, work_of, dealt, oracle_s),
        results=results,
        scenario=setting.scenario.record(),
        assumptions=_common(results),
        placements={name: work_of[name].placements for name in results},
    )


def _over_traces(
    scenario: Scenario, asked: list[str], window: Window | None, on_progress: OnProgress | None
) -> Comparison:
    """The comparison of a scenario with several traces."""
    names = asked if BASELINE in asked else [BASELINE, *asked]
    judged = compare_cases(scenario, names, window, ORACLE, on_progress)
    baseline_s = judged.rows[BASELINE].step_time_s or 0.0
    results = {name: judged.results[name] for name in asked if name in judged.results}
    return Comparison(
        runs=tuple(_with_speedup(judged.rows[name], baseline_s) for name in asked),
        headroom=judged.headroom,
        results=results,
        scenario=scenario.record(),
        assumptions=_common(results),
        placements={name: judged.placements[name] for name in results},
    )


def _row(result: SimulationResult, plan_s: float) -> ComparedRun:
    return ComparedRun(
        strategy=result.strategy,
        step_time_s=result.step_time_s,
        balancedness=result.balancedness,
        fanout_nodes=result.fanout_nodes,
        plan_s=plan_s,
    )


def _with_speedup(row: ComparedRun, baseline_s: float) -> ComparedRun:
    if row.step_time_s is None:
        return row
    speedup = baseline_s / row.step_time_s if row.step_time_s > 0 else 1.0
    return row.model_copy(update={"speedup": speedup})


def _oracle_s(
    setting: Setting, results: dict[str, SimulationResult], dealt: Sequence[DealtStep], window: Window | None
) -> float | None:
    """The step under ORACLE planned on the judged steps themselves; None where it was not asked for or declines.

    It takes as long as that strategy does, so only a comparison that runs the strategy anyway pays for it.
    """
    if ORACLE not in results:
        return None
    if window is None or window == setting.scenario.trace.steps:
        return results[ORACLE].step_time_s
    try:
        answer = place_experts(setting, ORACLE, problem_for([ORACLE], setting, None))
    except Declined:
        return None
    work = make_work_plan(setting, answer.placements, policy_of(setting, ORACLE))
    return replayed(setting, work, ORACLE, dealt, (), None).step_time_s


def _headroom(
    results: dict[str, SimulationResult],
    work_of: dict[str, WorkPlan],
    dealt: Sequence[DealtStep],
    oracle_s: float | None,
) -> Headroom:
    """Perfect balance from the fastest run's own bytes; the oracle knew the judged steps."""
    if not results:
        return Headroom()
    fastest = min(results, key=lambda name: results[name].step_time_s)
    phases = [balanced_phases(StepWork(plan=work_of[fastest], dealt=step)).step_s for step in dealt]
    return Headroom(perfect_balance_s=float(np.mean(phases)), oracle_s=oracle_s)


def _compared_scenario(
    scenario: Scenario,
    strategies: Sequence[str],
    slots: int | None,
    plan_steps: Window | str | None,
    steps: Window | str | None,
) -> Scenario:
    """The scenario with what was asked for written into it, so that its record alone repeats the comparison."""
    changes: dict[str, dict[str, object]] = {"compare": {}, "trace": {}, "placement": {}}
    if strategies:
        changes["compare"]["strategies"] = list(dict.fromkeys(strategies))
    if plan_steps is not None:
        changes["compare"]["plan_steps"] = plan_steps
    if steps is not None:
        changes["trace"]["steps"] = steps
    if slots is not None:
        changes["placement"] = {"slots": slots, "extra_slots_per_device": None, "plan": None}
    return scenario.changed(**changes)


def _common(results: dict[str, SimulationResult]) -> tuple[str, ...]:
    """Assumptions of any run, each once, in order."""
    return tuple(dict.fromkeys(sentence for result in results.values() for sentence in result.assumptions))
