"""Keep what a comparison found: the placement of its fastest strategy as a plan, without placing anew."""

import dataclasses
from pathlib import Path

from moesim.errors import InputError
from moesim.plan_file import Plan
from moesim.planner import PlacementAnswer
from moesim.result import Comparison
from moesim.scenario import make_scenario
from moesim.study.cases import level_of, load_cases, pose_cases
from moesim.study.placing import placement_notes, policy_of
from moesim.study.planning import judged
from moesim.study.work_plan import make_work_plan


def fastest_plan(comparison: Comparison, folder: Path) -> Plan:
    """The plan of the fastest strategy, its time, bound and gap over the steps it was planned on.

    Relative paths of the comparison's scenario start in `folder`. Raises InputError where every strategy declined.
    """
    name = comparison.fastest
    if name is None:
        raise InputError("no plan to keep: every strategy declined; compare others, such as contiguous,eplb_global")
    scenario = make_scenario(comparison.scenario, folder=folder)
    window = scenario.compare.plan_steps
    cases, level = load_cases(scenario, window), level_of(scenario)
    setting = cases[0].setting
    answer = PlacementAnswer(comparison.placements[name])
    answer = dataclasses.replace(answer, notes=placement_notes(setting, answer, window))
    problem, _ = pose_cases(cases, tokens=False, level=level)
    work = make_work_plan(setting, answer.placements, policy_of(setting, name))
    return judged(cases, level, name, problem, work, answer)
