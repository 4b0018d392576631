"""Making fit: plan again under the rules of a target that cannot express a plan."""

import tempfile
from pathlib import Path

from moesim.errors import InputError
from moesim.exporters import ExportRequest, TargetRefuses
from moesim.exporters.group_order import whole_groups
from moesim.plan_file import Plan
from moesim.scenario import Scenario
from moesim.study.planning import plan as make_plan
from moesim.units import format_time

_CHANGED = "changed"


def fitted_plan(request: ExportRequest, refused: TargetRefuses, scenario: Scenario | None) -> Plan:
    """The nearest plan that the target can express, on the same window; raises the refusal where there is none."""
    if refused.slots is None:
        raise refused
    if scenario is None:
        raise InputError(
            f"--make-fit plans again, and the plan does not say for which scenario; give --scenario ({refused})"
        )
    plan, groups = request.plan, 1 if request.model is None else request.model.num_groups
    if {len(row) for row in plan.expert_of_slot} == {refused.slots} and refused.slots == plan.num_experts:
        made = plan
    else:
        made = make_plan(scenario, plan.strategy, slots=refused.slots, plan_steps=scenario.compare.plan_steps)
    if refused.slots == plan.num_experts and groups > 1:
        made = _judged_again(whole_groups(made, groups), scenario)
    return made


def fitted_words(plan: Plan, fitted: Plan) -> str:
    """What was planned again, and what that costs."""
    words = f"planned again with slots={len(fitted.expert_of_slot[0])} by {fitted.strategy}, as the target needs"
    if _CHANGED in fitted.provenance:
        words += f"; {fitted.provenance[_CHANGED]}"
    if plan.predicted_step_time_s is not None and fitted.predicted_step_time_s is not None:
        before, after = format_time(plan.predicted_step_time_s), format_time(fitted.predicted_step_time_s)
        words += f"; predicted step {after}, it was {before}"
    return words


def plan_bytes(plan: Plan) -> bytes:
    """The plan as its file."""
    with tempfile.TemporaryDirectory() as folder:
        return plan.write(Path(folder) / "plan.json").read_bytes()


def _judged_again(plan: Plan, scenario: Scenario) -> Plan:
    """The plan with times, bound and balance of the scenario."""
    with tempfile.TemporaryDirectory() as folder:
        path = plan.write(Path(folder) / "plan.json")
        changes = {"plan": str(path), "strategy": None, "slots": None, "extra_slots_per_device": None}
        judged = make_plan(scenario.changed(placement=changes), plan_steps=scenario.compare.plan_steps)
    provenance = {**plan.provenance, _CHANGED: "experts moved so that routing groups stay whole"}
    return judged.model_copy(update={"provenance": provenance, "strategy": plan.strategy})
