"""Study: plan, simulate, compare; the only module that knows both the planner and the simulation.

Array letters: L MoE ordinal, E expert, D device.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from moesim.collective.link_table import build_link_table
from moesim.collective.schedule import CollectiveBuilder
from moesim.compute import DeviceRates
from moesim.errors import Declined, InputError
from moesim.placement import ExpertPlacement
from moesim.plan_file import Plan, load_plan
from moesim.planner import PlacementAnswer, PlacementProblem, place, replica_policy
from moesim.result import ComparedRun, Comparison, Headroom, SimulationResult
from moesim.routing import DealtStep
from moesim.scenario import Scenario, parse_window
from moesim.setting import Setting, load_setting
from moesim.simulation.replay import replay
from moesim.step_bound import balanced_phases, step_phases
from moesim.step_work import StepWork, WorkPlan
from moesim.traffic import copy_bytes

Window = tuple[int, int]
OnProgress = Callable[[str, int], None]
BASELINE = "contiguous"


def simulate(scenario: Scenario, *, on_progress: OnProgress | None = None) -> SimulationResult:
    """Replay the scenario's steps under its placement, and say how long a step takes and what limits it."""
    setting = load_setting(scenario)
    strategy, work, notes = _placed(setting, window=None)
    return _replayed(setting, work, strategy, setting.steps(), notes, on_progress)


def plan(scenario: Scenario, strategy: str | None = None, *, plan_steps: Window | str | None = None) -> Plan:
    """Place the experts of every MoE layer by `strategy` (default the scenario's), judged by the closed form."""
    if strategy is not None:
        scenario = scenario.changed(placement={"strategy": strategy, "plan": None})
    setting = load_setting(scenario)
    window = None if plan_steps is None else parse_window(plan_steps)
    name, work, notes = _placed(setting, window)
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
        predicted_step_time_s=float(np.mean([step_phases(StepWork(plan=work, dealt=step)).step_s for step in steps])),
        balancedness=_planned_balancedness(work.placements, load_LE),
        notes=notes,
        provenance=setting.provenance(),
    )


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

    What is not given here is the scenario's own. A strategy that declines keeps its row, with the reason. Speed-up is
    over `contiguous`, run even when not asked for.
    """
    scenario = _compared_scenario(scenario, strategies, slots, plan_steps, steps)
    asked, window = list(scenario.compare.strategies), scenario.compare.plan_steps
    if not asked:
        raise InputError("no strategies to compare; name at least one, such as contiguous,eplb_global")
    setting = load_setting(scenario)
    for name in asked:
        replica_policy(name)  # refuses an unknown name before anything runs
    dealt = list(setting.steps())
    load_LE = setting.loads(window)
    rows: dict[str, ComparedRun] = {}
    results: dict[str, SimulationResult] = {}
    work_of: dict[str, WorkPlan] = {}
    for name in asked if BASELINE in asked else [BASELINE, *asked]:
        _compile(name)
        began = time.perf_counter()
        try:
            answer = _place(setting, name, load_LE)
        except Declined as error:
            rows[name] = ComparedRun(strategy=name, declined=str(error))
            continue
        plan_s = time.perf_counter() - began
        work_of[name] = _work(setting, answer.placements, _policy(setting, name))
        results[name] = _replayed(setting, work_of[name], name, dealt, _notes(setting, answer, window), on_progress)
        rows[name] = _row(results[name], plan_s)
    baseline_s = results[BASELINE].step_time_s
    runs = [_with_speedup(rows[name], baseline_s) for name in asked]
    results = {name: results[name] for name in asked if name in results}
    return Comparison(
        runs=tuple(runs),
        headroom=_headroom(results, work_of, dealt),
        results=results,
        scenario=setting.scenario.record(),
        assumptions=_common(results),
    )


def _placed(setting: Setting, window: Window | None) -> tuple[str, WorkPlan, tuple[str, ...]]:
    """The scenario's own placement: its strategy's name, the work plan, and notes."""
    section = setting.scenario.placement
    if section.plan is not None:
        stored = load_plan(setting.scenario.resolve_path(section.plan))
        _check_plan(stored, setting)
        policy = setting.scenario.dispatch.replica or stored.replica_policy
        return stored.strategy, _work(setting, stored.placements, policy), stored.notes
    name = section.strategy or BASELINE
    answer = _place(setting, name, setting.loads(window))
    return name, _work(setting, answer.placements, _policy(setting, name)), _notes(setting, answer, window)


def _place(setting: Setting, strategy: str, load_LE: np.ndarray) -> PlacementAnswer:
    problem = PlacementProblem(
        load_LE=load_LE,
        num_devices=setting.dims.ep,
        devices_per_node=min(setting.cluster.devices_per_node, setting.dims.ep),
        num_slots=setting.num_slots,
        num_groups=setting.scenario.placement.groups or setting.model.num_groups,
        seed=setting.scenario.seed,
    )
    return place(strategy, problem)


def _compile(strategy: str) -> None:
    """Place a toy problem, so that the time to plan is without the compilation of kernels."""
    toy = PlacementProblem(load_LE=np.ones((1, 4)), num_devices=2, devices_per_node=1, num_slots=6)
    with contextlib.suppress(Declined):
        place(strategy, toy)


def _check_plan(stored: Plan, setting: Setting) -> None:
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


def _policy(setting: Setting, strategy: str) -> str:
    return setting.scenario.dispatch.replica or replica_policy(strategy)


def _work(setting: Setting, placements: tuple[ExpertPlacement, ...], policy: str) -> WorkPlan:
    scenario, kernel = setting.scenario, setting.kernel
    width = setting.model.payload_width
    builder = CollectiveBuilder(
        cluster=setting.cluster,
        links=build_link_table(setting.cluster, setting.profile.links, kernel, scenario.dispatch.sms),
        kernel=kernel,
        algorithm=scenario.dispatch.algorithm or kernel.algorithm,
        path_policy=scenario.dispatch.paths or setting.cluster.default_path_policy,
        group_size=setting.dims.ep,
        bytes_per_copy={
            "dispatch": copy_bytes(width, scenario.dispatch.dtype),
            "combine": copy_bytes(width, scenario.combine.dtype),
        },
    )
    # A captured graph launches once for the whole step; prefill steps are not captured.
    launches = not (setting.decode and scenario.mode.cuda_graph)
    return WorkPlan(
        model=setting.model,
        rates=DeviceRates.of(setting.cluster.devices, setting.profile.compute, launches=launches),
        builder=builder,
        placements=placements,
        replica_policy=policy,
        weight_dtype=setting.weight_dtype,
        decode=setting.decode,
        context_length=scenario.mode.context_length,
        seed=scenario.seed,
    )


def _replayed(
    setting: Setting,
    work: WorkPlan,
    strategy: str,
    steps: Iterable[DealtStep],
    notes: tuple[str, ...],
    on_progress: OnProgress | None,
) -> SimulationResult:
    network = setting.scenario.network
    result = replay(
        work,
        steps,
        strategy=strategy,
        fidelity=network.fidelity,
        tolerance=network.tolerance,
        assumptions=_assumptions(setting, work) + notes,
        provenance=setting.provenance(),
        on_step=None if on_progress is None else lambda done: on_progress(strategy, done),
    )
    return result


def _assumptions(setting: Setting, work: WorkPlan) -> tuple[str, ...]:
    """What every run under this setting takes for granted, in sentences."""
    sentences = [f"compute and links: {setting.profile.basis} (profile {setting.profile.name!r})"]
    sentences += work.builder.extrapolated()
    if not setting.decode:
        sentences.append("prefill attention: a rank's tokens are one causal chunk, each seeing half of it on average")
    sentences.append(f"replica policy: {work.replica_policy}")
    return tuple(sentences) + setting.workload.assumptions


def _notes(setting: Setting, answer: PlacementAnswer, window: Window | None) -> tuple[str, ...]:
    planned_on = "the judged steps themselves" if window is None else f"steps {window[0]}:{window[1]}"
    return (*answer.notes, f"load-aware strategies planned on {planned_on}")


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


def _headroom(
    results: dict[str, SimulationResult], work_of: dict[str, WorkPlan], dealt: Sequence[DealtStep]
) -> Headroom:
    """Perfect balance from the fastest run's own bytes; the oracle needs a strategy that optimises the step."""
    if not results:
        return Headroom()
    fastest = min(results, key=lambda name: results[name].step_time_s)
    phases = [balanced_phases(StepWork(plan=work_of[fastest], dealt=step)).step_s for step in dealt]
    return Headroom(perfect_balance_s=float(np.mean(phases)))


def _planned_balancedness(placements: Sequence[ExpertPlacement], load_LE: np.ndarray) -> float:
    """Mean / max device load with even splits, mean over layers."""
    ratios = []
    for placement, load_E in zip(placements, load_LE, strict=True):
        share_P = (load_E / placement.replicas_E)[placement.expert_of_slot_P]
        load_D = np.bincount(placement.device_of_slot_P, weights=share_P, minlength=placement.num_devices)
        ratios.append(load_D.mean() / load_D.max() if load_D.max() > 0 else 1.0)
    return float(np.mean(ratios))


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
