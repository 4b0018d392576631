"""Plan: a placement of every layer, with what the closed form says of it.

Array letters: L MoE ordinal, E expert, P slot, D device.
"""

from collections.abc import Sequence

import numpy as np

from moesim.placement import ExpertPlacement
from moesim.plan_file import Plan
from moesim.routing import DealtStep
from moesim.scenario import Scenario, parse_window
from moesim.setting import Setting, load_setting
from moesim.step_bound import step_phases
from moesim.step_work import StepWork, WorkPlan
from moesim.study.placing import Window, placed
from moesim.study.simulating import replayed


def plan(scenario: Scenario, strategy: str | None = None, *, plan_steps: Window | str | None = None) -> Plan:
    """Place the experts of every MoE layer by `strategy` (default the scenario's), judged by the closed form."""
    if strategy is not None:
        scenario = scenario.changed(placement={"strategy": strategy, "plan": None})
    setting = load_setting(scenario)
    window = None if plan_steps is None else parse_window(plan_steps)
    name, work, notes = placed(setting, window)
    steps = list(setting.steps(window))
    load_LE = setting.loads(window)
    return Plan(
        model=setting.model.name,
        topology=setting.cluster.name,
        strategy=name,
        replica_policy=work.replica_policy,
        num_experts=setting.model.num_experts,
        num_devices=setting.dims.ep,
        layers=setting.model.moe_layer_indices,
        expert_of_slot=tuple(tuple(placement.expert_of_slot_P.tolist()) for placement in work.placements),
        predicted_step_time_s=_predicted_s(setting, name, work, steps),
        balancedness=_planned_balancedness(work.placements, load_LE),
        notes=notes,
        provenance=setting.provenance(),
    )


def _predicted_s(setting: Setting, strategy: str, work: WorkPlan, steps: Sequence[DealtStep]) -> float:
    """The closed form of a step, mean over `steps`; a training step has none and is simulated."""
    if setting.training:
        return replayed(setting, work, strategy, steps, (), None).step_time_s
    return float(np.mean([step_phases(StepWork(plan=work, dealt=step)).step_s for step in steps]))


def _planned_balancedness(placements: Sequence[ExpertPlacement], load_LE: np.ndarray) -> float:
    """Mean / max device load with even splits, mean over layers."""
    ratios = []
    for placement, load_E in zip(placements, load_LE, strict=True):
        share_P = (load_E / placement.replicas_E)[placement.expert_of_slot_P]
        load_D = np.bincount(placement.device_of_slot_P, weights=share_P, minlength=placement.num_devices)
        ratios.append(load_D.mean() / load_D.max() if load_D.max() > 0 else 1.0)
    return float(np.mean(ratios))
