"""Cases: the workloads one plan is made for and judged on, each with its weight."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim.errors import InputError
from moesim.planner import PlacementProblem
from moesim.planner.objective_tables import CostTables
from moesim.planner.problem import TokenSketch
from moesim.planner.scenarios import Cases
from moesim.planner.sketch import join_sketches
from moesim.routing import DealtStep
from moesim.scenario import Scenario, parse_objective
from moesim.setting import Setting, load_setting
from moesim.study.posing import pose

Window = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Case:
    """One workload: a trace of the scenario with the steps that are planned on or judged."""

    name: str
    weight: float
    setting: Setting
    steps: list[DealtStep]


def load_cases(scenario: Scenario, window: Window | None) -> tuple[Case, ...]:
    """A case for every trace of the scenario, its steps in `window` (default the trace's own)."""
    if scenario.mode.kind == "train" and scenario.other_traces:
        raise InputError("a training step takes one trace; give one mapping under trace")
    cases: list[Case] = []
    for alone in scenario.of_traces():
        setting, origin = load_setting(alone), alone.trace.path or alone.trace.router or ""
        name = origin if all(origin != case.name for case in cases) else f"{origin} ({len(cases) + 1})"
        cases.append(Case(name, alone.trace.weight, setting, list(setting.steps(window))))
    return tuple(cases)


def judged_cases(cases: Sequence[Case], level: float) -> tuple[Case, ...]:
    """What risk is taken over: the traces; of a single trace its steps, where the objective is not the mean."""
    if len(cases) > 1 or level <= 0.0:
        return tuple(cases)
    only = cases[0]
    return tuple(dataclasses.replace(only, name=f"step {step.step}", steps=[step]) for step in only.steps)


def level_of(scenario: Scenario) -> float:
    """The share of better cases that the scenario's objective leaves out."""
    return parse_objective(scenario.plan.objective)


def pose_cases(
    cases: Sequence[Case], *, tokens: bool, level: float, work_limit: float = 1.0, around_faults: bool = False
) -> tuple[PlacementProblem, Cases]:
    """One problem for all cases, loads and windows in proportion to their weights; which windows are whose."""
    posed = [
        pose(case.setting, case.steps, tokens=tokens, work_limit=work_limit, around_faults=around_faults)
        for case in cases
    ]
    weights = np.array([case.weight for case in cases])
    if len(posed) == 1:
        windows = 1 if posed[0].sketch is None else posed[0].sketch.num_windows
        alone = np.arange(windows) if level > 0.0 else np.zeros(windows, dtype=np.int64)
        return posed[0], Cases(alone, np.ones(int(alone.max()) + 1), level)
    sketch = _joined([problem.sketch for problem in posed], weights)
    load_LE = sum(weight * problem.load_LE for weight, problem in zip(weights, posed, strict=True))
    # The case whose devices have least room says how many slots each has.
    slots_D = next((problem.slots_D for problem in posed if problem.slots_D is not None), None)
    costs: CostTables | None = posed[0].costs
    problem = dataclasses.replace(posed[0], load_LE=load_LE, sketch=sketch, costs=costs, slots_D=slots_D)
    windows_of = [0 if one.sketch is None else one.sketch.num_windows for one in posed]
    return problem, Cases(np.repeat(np.arange(len(posed)), windows_of), weights, level)


def _joined(sketches: Sequence[TokenSketch | None], weights: np.ndarray) -> TokenSketch | None:
    known = [sketch for sketch in sketches if sketch is not None]
    return join_sketches(known, weights.tolist()) if len(known) == len(sketches) else None
