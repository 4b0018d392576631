"""Plan: a placement of every layer, with what the closed form says of it and how far it is from the best.

Array letters: L MoE ordinal, E expert, P slot, D device, K case.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moesim.errors import Declined, InputError, MoesimError, NoFeasiblePlan
from moesim.placement import ExpertPlacement
from moesim.plan_file import CaseTime, LayerSplit, Plan, load_plan
from moesim.planner import PlacementAnswer, PlacementProblem, reads_tokens
from moesim.planner.choosing import risk
from moesim.planner.scenarios import Cases, robust_answer
from moesim.planner.survival import contradiction
from moesim.routing import DealtStep
from moesim.scenario import Scenario, parse_window
from moesim.setting import Setting
from moesim.step_bound import step_phases
from moesim.step_work import StepWork, WorkPlan
from moesim.study.binding import binding_resources
from moesim.study.bounding import lower_bound
from moesim.study.capacity_factors import choose_factors
from moesim.study.cases import Case, judged_cases, level_of, load_cases, pose_cases
from moesim.study.dimension_sharding import sharding_notes
from moesim.study.explaining import explanation, reason_of
from moesim.study.moving import Rounds, moved_bytes
from moesim.study.near_plan import moved_towards, parse_budget
from moesim.study.placing import (
    BASELINE,
    Window,
    check_plan,
    check_survival,
    compile_strategy,
    place_experts,
    placed,
    placement_notes,
    policy_of,
    with_factors,
)
from moesim.study.posing import dead_devices, layer_costs, pose
from moesim.study.replanning import replanned_every
from moesim.study.simulating import replayed
from moesim.study.work_plan import make_work_plan

DEFAULT_WORK_S = 30.0  # seconds on a core of 2024 that a work limit of 1 stands for
LONGEST_S = 86400.0
LESS = 0.34  # of the work, for a plan that only says what a slot would buy
PROVEN = 1e-6  # a gap below this is rounding
OldPlan = Plan | str | Path


def plan(
    scenario: Scenario,
    strategy: str | None = None,
    *,
    slots: int | None = None,
    plan_steps: Window | str | None = None,
    time_limit_s: float | None = None,
    old: OldPlan | None = None,
    move_budget: str | float | None = None,
    explain: bool = False,
    every: int | None = None,
) -> Plan:
    """Place the experts of every MoE layer by `strategy` (default the scenario's), judged by the closed form.

    `slots` per layer and `plan_steps` default to the scenario's; `time_limit_s` becomes a deterministic amount of solver
    work. With an `old` plan (or its file) the new one is near it: at most `move_budget` bytes ("20GiB"; none: no limit)
    move in each expert-parallel group; slots default to the old plan's. `explain` fills the plan's explanation. With
    `every` the window is planned anew every so many steps, each plan near the one before; several traces are run one after
    the other. Raises NoFeasiblePlan for a valid problem without a solution, and where the strategy declines it.
    """
    return timed_plan(
        scenario,
        strategy,
        slots=slots,
        plan_steps=plan_steps,
        time_limit_s=time_limit_s,
        old=old,
        move_budget=move_budget,
        explain=explain,
        every=every,
    )[0]


def timed_plan(
    scenario: Scenario,
    strategy: str | None = None,
    *,
    slots: int | None = None,
    plan_steps: Window | str | None = None,
    time_limit_s: float | None = None,
    old: OldPlan | None = None,
    move_budget: str | float | None = None,
    explain: bool = False,
    every: int | None = None,
) -> tuple[Plan, float]:
    """The plan, and the seconds the strategy took without compilation."""
    window = None if plan_steps is None else _window(plan_steps)
    if time_limit_s is not None and not 0.0 < time_limit_s <= LONGEST_S:
        raise InputError(f"a time limit of {time_limit_s:g} s is outside 0..{LONGEST_S:g} s")
    before = load_plan(old) if isinstance(old, (str, Path)) else old
    if before is None and every is None and move_budget is not None:
        raise InputError("a move budget needs the plan to start from; give --from OLD.json (old=... in Python)")
    scenario = _asked(scenario, strategy, slots, before)
    if window is not None:
        scenario = scenario.changed(compare={"plan_steps": window})
    cases = load_cases(scenario, window)
    if scenario.placement.plan is not None:
        return _stored(cases, explain=explain), 0.0
    request = Request(
        strategy=scenario.placement.strategy or BASELINE,
        level=level_of(scenario),
        work_limit=1.0 if time_limit_s is None else time_limit_s / DEFAULT_WORK_S,
        window=window,
        old=before,
        budget_bytes=parse_budget(move_budget),
        explain=explain,
    )
    return planned(cases, request) if every is None else _replanned(cases, request, every)


def _window(text: Window | str) -> Window:
    try:
        return parse_window(text)
    except ValueError as error:
        raise InputError(f"plan steps: {error}") from None


def _replanned(cases: Sequence[Case], request: "Request", every: int) -> tuple[Plan, float]:
    """The plans along the steps of the cases, one trace after the other, and the seconds all strategies took."""
    if cases[0].setting.training:
        raise InputError("every re-plans along decode or prefill steps; a training step has one plan")
    spent: list[float] = []

    def plan_stretch(case: Case, old: Plan | None) -> Plan:
        made, seconds = planned([case], dataclasses.replace(request, old=old or request.old))
        spent.append(seconds)
        return made

    return replanned_every(cases, every, plan_stretch), sum(spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for beside the scenario; `level` is that of its objective, `budget_bytes` None = no limit."""

    strategy: str
    level: float
    work_limit: float = 1.0
    window: Window | None = None
    old: Plan | None = None
    budget_bytes: float | None = None
    explain: bool = False


def planned(cases: Sequence[Case], request: Request) -> tuple[Plan, float]:
    """The plan for these cases, and the seconds the strategy took without compilation."""
    setting, name = cases[0].setting, request.strategy
    if request.old is not None:
        check_plan(request.old, setting)
    tokens = reads_tokens(name) or request.old is not None
    problem, members = pose_cases(
        cases, tokens=tokens, level=request.level, work_limit=request.work_limit, around_faults=True
    )
    impossible = contradiction(problem, dead_devices(setting))
    if impossible is not None:
        raise NoFeasiblePlan(impossible)
    old = None if request.old is None else request.old.placements
    if old is not None and all(one.num_slots == problem.num_slots for one in old):
        problem = dataclasses.replace(problem, old=old)
    compile_strategy(name, problem)
    began = time.perf_counter()
    answer = _answer(setting, name, problem, members)
    rounds: Rounds = ()
    policy = policy_of(setting, name)
    if old is not None:
        answer, rounds, policy = _near(setting, problem, request, answer, policy)
    seconds = time.perf_counter() - began
    notes = placement_notes(setting, answer, request.window)
    work = make_work_plan(setting, answer.placements, policy)
    made = judged(cases, request.level, name, problem, work, dataclasses.replace(answer, notes=notes))
    binding = binding_resources(problem, answer.placements, policy, work.builder.links)
    changes: dict[str, object] = {"moves": rounds, "moved_bytes": moved_bytes(setting, rounds), "binding": binding}
    if request.explain:
        work = with_factors(work, made.capacity_factors)
        changes["explanation"] = explanation(cases, problem, work, request.old, _one_more_slot(cases, request))
    return made.model_copy(update=changes), seconds


def _one_more_slot(cases: Sequence[Case], request: Request) -> Plan | str:
    """The plan with one slot more on every device, made with less work; or why there is none."""
    setting = cases[0].setting
    changes = {"slots": setting.num_slots + setting.dims.ep, "extra_slots_per_device": None, "plan": None}
    scenario = setting.scenario.changed(placement=changes)
    roomier = [
        dataclasses.replace(case, setting=dataclasses.replace(case.setting, scenario=scenario)) for case in cases
    ]
    less = dataclasses.replace(
        request, old=None, budget_bytes=None, explain=False, work_limit=request.work_limit * LESS
    )
    try:
        return planned(roomier, less)[0]
    except MoesimError as error:
        return reason_of(error)


def _asked(scenario: Scenario, strategy: str | None, slots: int | None, old: Plan | None) -> Scenario:
    """The scenario with what was asked for written into it."""
    changes: dict[str, object] = {}
    section = scenario.placement
    if old is not None and section.plan is not None:
        changes |= {"strategy": old.strategy, "plan": None}
    if strategy is not None:
        changes |= {"strategy": strategy, "plan": None}
    if old is not None and slots is None and section.slots is None and section.extra_slots_per_device is None:
        slots = len(old.expert_of_slot[0])
    if slots is not None:
        changes |= {"slots": slots, "extra_slots_per_device": None, "plan": None}
    return scenario.changed(placement=changes) if changes else scenario


def _answer(setting: Setting, name: str, problem: PlacementProblem, members: Cases) -> PlacementAnswer:
    """The strategy's answer, for several cases at once where it optimises them."""
    place = functools.partial(place_experts, setting, name)
    try:
        if reads_tokens(name) and problem.sketch is not None and problem.costs is not None:
            return robust_answer(problem, members, place, policy_of(setting, name))
        return place(problem)
    except Declined as declined:
        raise NoFeasiblePlan(f"strategy {name} has no plan: {declined}") from None


def _near(
    setting: Setting, problem: PlacementProblem, request: Request, answer: PlacementAnswer, policy: str
) -> tuple[PlacementAnswer, Rounds, str]:
    """The answer near the old plan, its rounds and its policy: the old plan's where nothing moves."""
    assert request.old is not None
    old = request.old.placements
    answer, rounds = moved_towards(setting, problem, old, answer, policy, request.budget_bytes)
    if answer.placements == old and setting.scenario.dispatch.replica is None:
        return answer, rounds, request.old.replica_policy
    if problem.survive:
        try:
            check_survival("the plan near the old one", problem, answer)
        except Declined as declined:
            raise NoFeasiblePlan(f"{declined}, or plan without --from") from None
    return answer, rounds, policy


def _stored(cases: Sequence[Case], *, explain: bool) -> Plan:
    """The scenario's own plan file, judged anew."""
    setting, level = cases[0].setting, level_of(cases[0].setting.scenario)
    name, work, notes = placed(setting, None)
    problem = pose(setting, cases[0].steps, tokens=False)
    made = judged(cases, level, name, problem, work, PlacementAnswer(work.placements, notes))
    changes: dict[str, object] = {"capacity_factors": work.capacity_factors or made.capacity_factors}
    if explain:
        no_search = "a stored plan is judged as it is; name a strategy to see what more slots would buy"
        changes["explanation"] = explanation(cases, problem, work, None, no_search)
    return made.model_copy(update=changes)


def judged(
    cases: Sequence[Case],
    level: float,
    name: str,
    problem: PlacementProblem,
    work: WorkPlan,
    answer: PlacementAnswer,
) -> Plan:
    """The plan of an answer, with its capacity factors, predicted time, bound and gap over the cases."""
    setting, notes = cases[0].setting, answer.notes
    over = judged_cases(cases, level)
    if setting.scenario.plan.drop_budget is not None and not work.capacity_factors:
        factors, more = _chosen_factors(setting, work, cases, level)
        work, notes = with_factors(work, factors), (*notes, *more)
    weight_K = np.array([case.weight for case in over])
    seconds_K = np.array([_predicted_s(setting, name, work, case.steps) for case in over])
    bound_s, names = _bound(over, weight_K, level, problem, work)
    predicted_s = risk(seconds_K, weight_K, level)
    gap = None if not bound_s else max(predicted_s / bound_s - 1.0, 0.0)
    splits = work.replica_policy == "split"
    first = work.placements[0]
    return Plan(
        model=setting.model.name,
        topology=setting.cluster.name,
        strategy=name,
        replica_policy=work.replica_policy,
        num_experts=setting.model.num_experts,
        num_devices=setting.dims.ep,
        layers=setting.model.moe_layer_indices,
        expert_of_slot=tuple(tuple(placement.expert_of_slot_P.tolist()) for placement in work.placements),
        slots_per_device=first.slots_D,
        splits=tuple(LayerSplit.of(placement) for placement in work.placements) if splits else None,
        predicted_step_time_s=predicted_s,
        lower_bound_s=bound_s,
        gap=gap,
        bound_names=names,
        balancedness=_planned_balancedness(work.placements, problem.load_LE),
        fanout_nodes=_fanout_nodes(cases, work),
        capacity_factors=work.capacity_factors or _capacity_factors(setting),
        cases=_case_times(over, seconds_K) if len(cases) > 1 else (),
        status=_status(answer, gap),
        notes=(*notes, *sharding_notes(setting, work, cases[0].steps)),
        provenance=_provenance(cases),
    )


def _provenance(cases: Sequence[Case]) -> dict[str, object]:
    """That of the first case, with what the other cases read."""
    first, *others = (case.setting.provenance() for case in cases)
    if others:
        first["other_traces"] = [
            {key: other[key] for key in ("trace_origin", "trace_sha256", "scenario_sha256")} for other in others
        ]
    return first


def _case_times(cases: Sequence[Case], seconds_K: np.ndarray) -> tuple[CaseTime, ...]:
    return tuple(
        CaseTime(name=case.name, weight=case.weight, step_time_s=float(seconds))
        for case, seconds in zip(cases, seconds_K, strict=True)
    )


def _bound(
    over: Sequence[Case], weight_K: np.ndarray, level: float, problem: PlacementProblem, work: WorkPlan
) -> tuple[float | None, dict[str, str]]:
    """The risk over the cases' own bounds, which the risk of no plan is below; the arguments of the last case.

    Nothing is proven where tokens may be dropped: fewer of them could be quicker than the bound of all.
    """
    if not work.capacity.is_dropless:
        return None, {}
    bounds, names = [], dict[str, str]()
    for case in over:
        setting = case.setting
        known = problem.costs if setting is over[0].setting else None
        costs = known or layer_costs(setting, work, case.steps)
        if costs is None:
            return None, {}
        seconds, names = lower_bound(setting, problem, work, costs, case.steps)
        bounds.append(seconds)
    return risk(np.array(bounds), weight_K, level), names


def _chosen_factors(
    setting: Setting, work: WorkPlan, cases: Sequence[Case], level: float
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    budget = setting.scenario.plan.drop_budget
    if work.capacity.is_dropless:
        raise InputError(
            f"plan.drop_budget={budget:g} needs a policy that drops or pads; set capacity.policy to drop_by_position, "
            "drop_by_probability or pad (with any factor: the plan's are used)"
        )
    if setting.training:
        raise InputError("plan.drop_budget chooses factors for decode and prefill steps, not for training steps")
    assert budget is not None
    return choose_factors(work, cases, budget, level)


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


def _fanout_nodes(cases: Sequence[Case], work: WorkPlan) -> float | None:
    """Mean distinct nodes of a token's experts over tokens, layers, steps and cases; None for a training step."""
    if cases[0].setting.training:
        return None
    layers = range(cases[0].setting.model.num_moe_layers)
    return float(
        np.mean(
            [
                StepWork(plan=work, dealt=step).layer(layer).mean_fanout()[0]
                for case in cases
                for step in case.steps
                for layer in layers
            ]
        )
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
