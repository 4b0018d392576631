"""Study: plan, simulate, compare; the only module that knows both the planner and the simulation.

Array letters: L MoE ordinal, E expert, D device.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import TorusLayout
from moesim.collective.link_table import build_link_table
from moesim.collective.schedule import CollectiveBuilder
from moesim.compute import DeviceRates
from moesim.errors import Declined, InputError
from moesim.faults import Health, weakened
from moesim.memory import check_fit
from moesim.overlap import communication_sms, overlap_sentences
from moesim.placement import ExpertPlacement
from moesim.plan_file import Plan, load_plan
from moesim.planner import PlacementAnswer, PlacementProblem, place, replica_policy
from moesim.result import ComparedRun, Comparison, FaultResult, Headroom, SimulationResult
from moesim.routing import DealtStep
from moesim.scenario import Scenario, parse_window
from moesim.setting import Setting, load_setting
from moesim.simulation.replay import replay
from moesim.step_bound import balanced_phases, step_phases
from moesim.step_work import Era, StepWork, WorkPlan
from moesim.traffic import copy_bytes
from moesim.training import train
from moesim.units import format_time

Window = tuple[int, int]
Ranks = NDArray[np.int64]
OnProgress = Callable[[str, int], None]
BASELINE = "contiguous"


def simulate(scenario: Scenario, *, on_progress: OnProgress | None = None) -> SimulationResult:
    """Replay the scenario's steps under its placement, and say how long a step takes and what limits it."""
    setting = load_setting(scenario)
    strategy, work, notes = _placed(setting, window=None)
    result = _replayed(setting, work, strategy, setting.steps(), notes, on_progress)
    return _beside_healthy(setting, work, result, on_progress) if scenario.faults else result


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
        headroom=Headroom() if setting.training else _headroom(results, work_of, dealt),
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
        devices_per_node=min(max(setting.cluster.devices_per_node // setting.dims.etp, 1), setting.dims.ep),
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


def _sms(setting: Setting) -> int | None:
    """SMs the communication kernel works with, as far as scenario or profile say."""
    return setting.kernel.sms if setting.scenario.dispatch.sms is None else setting.scenario.dispatch.sms


def _algorithm(setting: Setting) -> str:
    """The dispatch algorithm asked for, else the kernel's; `torus` needs a torus."""
    algorithm = setting.scenario.dispatch.algorithm or setting.kernel.algorithm
    if algorithm == "torus" and not isinstance(setting.cluster.layout, TorusLayout):
        raise InputError(
            f"dispatch.algorithm torus needs a torus, and {setting.cluster.name} is none; take direct, which sends the "
            "same copies"
        )
    return algorithm


def _work(
    setting: Setting, placements: tuple[ExpertPlacement, ...], policy: str, ranks: Ranks | None = None
) -> WorkPlan:
    """What all steps share; `ranks`: the devices of one replica of a training stage, by default of the first."""
    scenario, (start, *later) = setting.scenario, setting.healths
    if ranks is None and setting.training:
        ranks = setting.dims.stage_ranks(0, 0)
    builder = _builder(setting, start, ranks)
    # A captured graph launches once for the whole step; prefill steps are not captured.
    launches = not (setting.decode and scenario.mode.cuda_graph)
    work = WorkPlan(
        model=setting.model,
        rates=DeviceRates.of(builder.devices, setting.profile.compute, launches=launches),
        builder=builder,
        placements=placements,
        replica_policy=policy,
        weight_dtype=setting.weight_dtype,
        decode=setting.decode,
        context_length=scenario.mode.context_length,
        seed=scenario.seed,
        capacity=setting.capacity,
        overlap=scenario.mode.overlap,
        communication_sms=communication_sms(scenario.mode.overlap, _sms(setting), setting.cluster.devices),
        tp=setting.dims.tp,
        etp=setting.dims.etp,
    )
    eras = [
        Era(
            since_s=health.since_s,
            plan=dataclasses.replace(work, builder=_builder(setting, health)),
            speed_D=health.speed_D / start.speed_D,
        )
        for health in later
    ]
    return dataclasses.replace(work, later=tuple(eras))


def _builder(setting: Setting, health: Health, ranks: Ranks | None = None) -> CollectiveBuilder:
    """How collectives are built on what is left of the cluster."""
    scenario, kernel, cluster = setting.scenario, setting.kernel, weakened(setting.cluster, health)
    width = setting.model.payload_width
    return CollectiveBuilder(
        cluster=cluster,
        links=build_link_table(cluster, setting.profile.links, kernel, scenario.dispatch.sms),
        kernel=kernel,
        algorithm=_algorithm(setting),
        path_policy=setting.path_policy,
        group_size=setting.dims.ep,
        bytes_per_copy={
            "dispatch": copy_bytes(width, scenario.dispatch.dtype),
            "combine": copy_bytes(width, scenario.combine.dtype),
        },
        detours=setting.detours(health),
        dead_devices=health.dead_devices,
        device_of_rank=ranks,
        stride=setting.dims.etp,
    )


def _beside_healthy(
    setting: Setting, work: WorkPlan, result: SimulationResult, on_progress: OnProgress | None
) -> SimulationResult:
    """The result with what its faults cost: the same placement replayed without them."""
    healthy = dataclasses.replace(setting, scenario=setting.scenario.without_faults())
    whole = _work(healthy, work.placements, work.replica_policy)
    without = _replayed(healthy, whole, result.strategy, healthy.steps(), (), on_progress)
    cost = FaultResult(
        step_time_without_s=without.step_time_s,
        cost=result.step_time_s / without.step_time_s - 1.0 if without.step_time_s > 0.0 else 0.0,
        phases_without_s=without.phase_seconds(),
    )
    words = f"the faults cost {cost.cost:+.1%}: a step takes {format_time(without.step_time_s)} without them"
    if result.lost_pairs:
        words += f"; {result.lost_tokens} tokens and {result.lost_pairs} (token, expert) pairs are lost to dead devices"
    return result.model_copy(update={"faults": cost, "assumptions": (*result.assumptions, words)})


def _replayed(
    setting: Setting,
    work: WorkPlan,
    strategy: str,
    steps: Iterable[DealtStep],
    notes: tuple[str, ...],
    on_progress: OnProgress | None,
) -> SimulationResult:
    network = setting.scenario.network
    if setting.training:
        return train(
            setting,
            functools.partial(_work, setting, work.placements, work.replica_policy),
            steps,
            strategy=strategy,
            assumptions=_assumptions(setting, work) + notes,
            on_stage=None if on_progress is None else lambda done: on_progress(strategy, done),
        )
    result = replay(
        work,
        _fitting(setting, work, steps),
        strategy=strategy,
        fidelity=network.fidelity,
        tolerance=network.tolerance,
        assumptions=_assumptions(setting, work) + notes,
        provenance=setting.provenance(),
        on_step=None if on_progress is None else lambda done: on_progress(strategy, done),
    )
    return result


def _fitting(setting: Setting, work: WorkPlan, steps: Iterable[DealtStep]) -> Iterator[DealtStep]:
    """The steps as they come; the first one that a device cannot hold is refused before it runs, unless warned only."""
    device = setting.cluster.devices[work.memory_device()[0]]
    for dealt in steps:
        if setting.scenario.memory.check == "refuse":
            parts = StepWork(plan=work, dealt=dealt).memory_parts()
            check_fit(parts, device.memory_bytes, f"step {dealt.step} on {device.name}")
        yield dealt


def _assumptions(setting: Setting, work: WorkPlan) -> tuple[str, ...]:
    """What every run under this setting takes for granted, in sentences."""
    sentences = [f"compute and links: {setting.profile.basis} (profile {setting.profile.name!r})"]
    sentences += work.builder.extrapolated()
    sentences += [fault.sentence(setting.cluster) for fault in setting.faults]
    if not setting.decode and not setting.training:
        sentences.append("prefill attention: a rank's tokens are one causal chunk, each seeing half of it on average")
    sentences.append(f"replica policy: {work.replica_policy}")
    sentences += overlap_sentences(setting.scenario.mode.overlap, setting.model, _sms(setting), setting.cluster.devices)
    if not work.capacity.is_dropless:
        sentences.append(work.capacity.sentence(has_weights=setting.workload.has_weights))
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
