"""Placing: the experts of every MoE layer in slots, by strategy or from a plan file."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from moesim.errors import Declined, InputError, NoFeasiblePlan
from moesim.plan_file import Plan, load_plan
from moesim.planner import PlacementAnswer, PlacementProblem, place, reads_tokens, replica_policy
from moesim.planner.problem import TokenSketch
from moesim.planner.survival import fewest_domains
from moesim.setting import Setting
from moesim.step_work import WorkPlan
from moesim.study.posing import pose
from moesim.study.work_plan import make_work_plan

Window = tuple[int, int]
BASELINE = "contiguous"


def placed(setting: Setting, window: Window | None) -> tuple[str, WorkPlan, tuple[str, ...]]:
    """The scenario's own placement: its strategy's name, the work plan, and notes."""
    section = setting.scenario.placement
    if section.plan is not None:
        stored = load_plan(setting.scenario.resolve_path(section.plan))
        return stored.strategy, work_of(stored, setting), stored.notes
    name = section.strategy or BASELINE
    answer = place_experts(setting, name, problem_for([name], setting, window))
    return (
        name,
        make_work_plan(setting, answer.placements, policy_of(setting, name)),
        placement_notes(setting, answer, window),
    )


def work_of(stored: Plan, setting: Setting) -> WorkPlan:
    """The work plan of a plan; raises InputError where it is for another model or number of devices."""
    check_plan(stored, setting)
    policy = setting.scenario.dispatch.replica or stored.replica_policy
    return with_factors(make_work_plan(setting, stored.placements, policy), stored.capacity_factors)


def with_factors(work: WorkPlan, factors: tuple[float, ...]) -> WorkPlan:
    """The work plan with a capacity factor for each MoE layer, before and after whatever breaks."""
    if not factors:
        return work
    later = tuple(
        dataclasses.replace(era, plan=dataclasses.replace(era.plan, capacity_factors=factors)) for era in work.later
    )
    return dataclasses.replace(work, capacity_factors=factors, later=later)


def problem_for(strategies: Sequence[str], setting: Setting, window: Window | None) -> PlacementProblem:
    """The problem of a window, with tokens and costs where one of the strategies reads them."""
    with judging():
        return pose(setting, list(setting.steps(window)), tokens=any(reads_tokens(name) for name in strategies))


@contextlib.contextmanager
def judging() -> Iterator[None]:
    """Slots that do not fit are a problem without a solution where a plan is asked for, and wrong input where it is judged."""
    try:
        yield
    except NoFeasiblePlan as error:
        raise InputError(str(error)) from None


def place_experts(setting: Setting, strategy: str, problem: PlacementProblem) -> PlacementAnswer:
    """One strategy's placements of all layers; raises Declined where it does not fit the problem."""
    answer = place(strategy, problem)
    if problem.survive:
        check_survival(strategy, problem, answer)
    return answer


def check_survival(strategy: str, problem: PlacementProblem, answer: PlacementAnswer) -> None:
    """Decline an answer that keeps an expert in too few failure domains: nodes, or devices where there is one node."""
    for layer, placement in enumerate(answer.placements):
        expert, domains = fewest_domains(problem, placement.expert_of_slot_P)
        if domains <= problem.survive:
            raise Declined(
                f"{strategy} keeps expert {expert} of MoE ordinal {layer} in {domains} failure domains; "
                f"survive={problem.survive} needs {problem.survive + 1}; take topology or balanced"
            )


def compile_strategy(strategy: str, problem: PlacementProblem) -> None:
    """Place a small problem of the same kind, so that the time to plan is without the compilation of kernels."""
    toy = PlacementProblem(load_LE=np.ones((1, 4)), num_devices=2, devices_per_node=1, num_slots=6)
    if reads_tokens(strategy) and problem.sketch is not None and problem.costs is not None:
        toy = _few_tokens(problem, problem.sketch)
    with contextlib.suppress(Declined):
        place(strategy, toy)


def _few_tokens(problem: PlacementProblem, sketch: TokenSketch) -> PlacementProblem:
    """One layer of a problem, a few of its tokens, and hardly any work."""
    few = dataclasses.replace(
        sketch,
        experts_LTK=np.ascontiguousarray(sketch.experts_LTK[:1, :64]),
        source_T=sketch.source_T[:64],
        weight_T=sketch.weight_T[:64],
        window_T=sketch.window_T[:64],
        token_T=sketch.token_T[:64],
        whole=False,
    )
    return dataclasses.replace(problem, load_LE=problem.load_LE[:1], sketch=few, old=None, survive=0, work_limit=0.001)


def check_plan(stored: Plan, setting: Setting) -> None:
    """Refuse a plan for another model, other layers or another number of devices with InputError."""
    model, ep = setting.model, setting.dims.ep
    if (stored.num_experts, stored.layers) != (model.num_experts, model.moe_layer_indices):
        raise InputError(
            f"the plan is for {stored.model} ({stored.num_experts} experts, {len(stored.layers)} layers), not for "
            f"{model.name} ({model.num_experts} experts, {model.num_moe_layers} MoE layers); plan again for this model"
        )
    if stored.num_devices != ep:
        raise InputError(
            f"the plan places experts on {stored.num_devices} devices, but ep={ep}; plan again for ep={ep}"
        )


def policy_of(setting: Setting, strategy: str) -> str:
    """The replica policy asked for, else the one the strategy plans for."""
    return setting.scenario.dispatch.replica or replica_policy(strategy)


def placement_notes(setting: Setting, answer: PlacementAnswer, window: Window | None) -> tuple[str, ...]:
    """What the strategy said, and what it planned on."""
    planned_on = "the judged steps themselves" if window is None else f"steps {window[0]}:{window[1]}"
    return (*answer.notes, f"load-aware strategies planned on {planned_on}")
