"""Plan: a placement of every layer, with what the closed form says of it and how far it is from the best.

Array letters: L MoE ordinal, E expert, P slot, D device.
"""

import time
from collections.abc import Sequence

import numpy as np

from moesim.errors import Declined, NoFeasiblePlan
from moesim.placement import ExpertPlacement
from moesim.plan_file import LayerSplit, Plan
from moesim.planner import PlacementAnswer, PlacementProblem, reads_tokens
from moesim.routing import DealtStep
from moesim.scenario import Scenario, parse_window
from moesim.setting import Setting, load_setting
from moesim.step_bound import step_phases
from moesim.step_work import StepWork, WorkPlan
from moesim.study.bounding import lower_bound
from moesim.study.placing import (
    BASELINE,
    Window,
    compile_strategy,
    place_experts,
    placed,
    placement_notes,
    policy_of,
)
from moesim.study.posing import layer_costs, pose
from moesim.study.simulating import replayed
from moesim.study.work_plan import make_work_plan

DEFAULT_WORK_S = 30.0  # seconds on a core of 2024 that a work limit of 1 stands for
PROVEN = 1e-6  # a gap below this is rounding


def plan(
    scenario: Scenario,
    strategy: str | None = None,
    *,
    slots: int | None = None,
    plan_steps: Window | str | None = None,
    time_limit_s: float | None = None,
) -> Plan:
    """Place the experts of every MoE layer by `strategy` (default the scenario's), judged by the closed form.

    `slots` per layer and `plan_steps` default to the scenario's; `time_limit_s` becomes a deterministic amount of solver
    work. Raises NoFeasiblePlan for a valid problem without a solution, and where the strategy declines it.
    """
    return timed_plan(scenario, strategy, slots=slots, plan_steps=plan_steps, time_limit_s=time_limit_s)[0]


def timed_plan(
    scenario: Scenario,
    strategy: str | None = None,
    *,
    slots: int | None = None,
    plan_steps: Window | str | None = None,
    time_limit_s: float | None = None,
) -> tuple[Plan, float]:
    """The plan, and the seconds the strategy took without compilation."""
    changes: dict[str, object] = {}
    if strategy is not None:
        changes |= {"strategy": strategy, "plan": None}
    if slots is not None:
        changes |= {"slots": slots, "extra_slots_per_device": None, "plan": None}
    if changes:
        scenario = scenario.changed(placement=changes)
    setting = load_setting(scenario)
    window = None if plan_steps is None else parse_window(plan_steps)
    steps = list(setting.steps(window))
    if scenario.placement.plan is not None:
        name, work, notes = placed(setting, window)
        problem = pose(setting, steps, tokens=False)
        return _judged(setting, name, problem, work, PlacementAnswer(work.placements, notes), steps), 0.0
    name = scenario.placement.strategy or BASELINE
    work_limit = 1.0 if time_limit_s is None else time_limit_s / DEFAULT_WORK_S
    problem = pose(setting, steps, tokens=reads_tokens(name), work_limit=work_limit)
    _check_survivable(problem)
    compile_strategy(name)
    began = time.perf_counter()
    try:
        answer = place_experts(setting, name, problem)
    except Declined as declined:
        raise NoFeasiblePlan(f"strategy {name} has no plan: {declined}") from None
    seconds = time.perf_counter() - began
    notes = placement_notes(setting, answer, window)
    work = make_work_plan(setting, answer.placements, policy_of(setting, name))
    return _judged(setting, name, problem, work, answer, steps, notes), seconds


def _check_survivable(problem: PlacementProblem) -> None:
    """Refuse a number of failures that slots or failure domains cannot cover."""
    copies, domains = problem.survive + 1, problem.num_nodes if problem.num_nodes > 1 else problem.num_devices
    if problem.survive and (copies * problem.num_experts > problem.num_slots or copies > domains):
        raise NoFeasiblePlan(
            f"survive={problem.survive} needs {copies} copies of each of {problem.num_experts} experts in {copies} failure "
            f"domains; there are slots={problem.num_slots} in {domains} domains"
        )


def _judged(
    setting: Setting,
    name: str,
    problem: PlacementProblem,
    work: WorkPlan,
    answer: PlacementAnswer,
    steps: list[DealtStep],
    notes: tuple[str, ...] = (),
) -> Plan:
    """The plan of an answer, with its predicted time, bound and gap."""
    predicted_s = _predicted_s(setting, name, work, steps)
    costs = problem.costs or layer_costs(setting, work, steps)
    bound_s, names = (None, dict[str, str]()) if costs is None else lower_bound(setting, problem, work, costs, steps)
    gap = None if not bound_s else max(predicted_s / bound_s - 1.0, 0.0)
    splits = work.replica_policy == "split"
    return Plan(
        model=setting.model.name,
        topology=setting.cluster.name,
        strategy=name,
        replica_policy=work.replica_policy,
        num_experts=setting.model.num_experts,
        num_devices=setting.dims.ep,
        layers=setting.model.moe_layer_indices,
        expert_of_slot=tuple(tuple(placement.expert_of_slot_P.tolist()) for placement in work.placements),
        slots_per_device=work.placements[0].slots_D,
        splits=tuple(LayerSplit.of(placement) for placement in work.placements) if splits else None,
        predicted_step_time_s=predicted_s,
        lower_bound_s=bound_s,
        gap=gap,
        bound_names=names,
        balancedness=_planned_balancedness(work.placements, problem.load_LE),
        fanout_nodes=_fanout_nodes(setting, work, steps),
        capacity_factors=_capacity_factors(setting),
        status=_status(answer, gap),
        notes=notes or answer.notes,
        provenance=setting.provenance(),
    )


def _status(answer: PlacementAnswer, gap: float | None) -> str:
    """A word a person knows: optimal, feasible (gap g), out of time."""
    if gap is not None and gap <= PROVEN:
        return "optimal"
    known = "no bound" if gap is None else f"gap {gap:.1%}"
    return f"out of time (best found, {known})" if answer.out_of_time else f"feasible ({known})"


def _capacity_factors(setting: Setting) -> tuple[float, ...]:
    """The scenario's capacity factor for every MoE layer; none where nothing is dropped or padded."""
    factor = setting.scenario.capacity.factor
    dropless = factor is None or setting.scenario.capacity.policy == "dropless"
    return () if dropless else (float(factor or 0.0),) * setting.model.num_moe_layers


def _fanout_nodes(setting: Setting, work: WorkPlan, steps: Sequence[DealtStep]) -> float | None:
    """Mean distinct nodes of a token's experts over tokens, layers and steps; None for a training step."""
    if setting.training:
        return None
    layers = range(setting.model.num_moe_layers)
    return float(
        np.mean([StepWork(plan=work, dealt=s).layer(layer).mean_fanout()[0] for s in steps for layer in layers])
    )


def _predicted_s(setting: Setting, strategy: str, work: WorkPlan, steps: Sequence[DealtStep]) -> float:
    """The closed form of a step, mean over `steps`; a training step has none and is simulated."""
    if setting.training:
        return replayed(setting, work, strategy, steps, (), None).step_time_s
    return float(np.mean([step_phases(StepWork(plan=work, dealt=step)).step_s for step in steps]))


def _planned_balancedness(placements: Sequence[ExpertPlacement], load_LE: np.ndarray) -> float:
    """Mean / max device load, each expert's tokens split by the plan's shares (mean over sources), mean over layers."""
    ratios = []
    for placement, load_E in zip(placements, load_LE, strict=True):
        expert_P = placement.expert_of_slot_P
        share_P = (
            1.0 / placement.replicas_E[expert_P] if placement.split_NP is None else placement.split_NP.mean(axis=0)
        )
        load_D = np.bincount(
            placement.device_of_slot_P, weights=load_E[expert_P] * share_P, minlength=placement.num_devices
        )
        ratios.append(load_D.mean() / load_D.max() if load_D.max() > 0 else 1.0)
    return float(np.mean(ratios))
