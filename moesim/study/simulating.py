"""Simulate: a scenario's steps under its placement, and beside them the same steps without faults."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

from moesim.compute import expert_sentences
from moesim.memory import check_fit
from moesim.overlap import overlap_sentences
from moesim.plan_file import Plan
from moesim.result import FaultResult, SimulationResult
from moesim.routing import DealtStep
from moesim.scenario import Scenario
from moesim.setting import Setting, load_setting
from moesim.simulation.replay import replay
from moesim.step_work import StepWork, WorkPlan
from moesim.study.measured_range import StepSizes, beyond_measured
from moesim.study.placing import placed, work_of
from moesim.study.work_plan import make_work_plan, sms_of
from moesim.training import train
from moesim.units import format_bytes, format_rate, format_time

OnProgress = Callable[[str, int], None]


def simulate(scenario: Scenario, *, on_progress: OnProgress | None = None) -> SimulationResult:
    """Replay the scenario's steps under its placement, and say how long a step takes and what limits it."""
    setting = load_setting(scenario)
    strategy, work, notes = placed(setting, window=None)
    result = replayed(setting, work, strategy, setting.steps(), notes, on_progress)
    return _beside_healthy(setting, work, result, on_progress) if scenario.faults else result


def simulate_plan(plan: Plan, scenario: Scenario) -> SimulationResult:
    """Replay the scenario's steps under a plan, whatever placement the scenario names."""
    setting = load_setting(scenario)
    return replayed(setting, work_of(plan, setting), plan.strategy, setting.steps(), plan.notes, None)


def replayed(
    setting: Setting,
    work: WorkPlan,
    strategy: str,
    steps: Iterable[DealtStep],
    notes: tuple[str, ...],
    on_progress: OnProgress | None,
) -> SimulationResult:
    """The result of these steps under a work plan; a training step goes through its pipeline."""
    network, sizes = setting.scenario.network, StepSizes()
    steps = sizes.watch(steps, work.num_devices, setting.num_slots)
    if setting.training:
        result = train(
            setting,
            functools.partial(make_work_plan, setting, work.placements, work.replica_policy),
            steps,
            strategy=strategy,
            assumptions=_assumptions(setting, work) + notes,
            on_stage=None if on_progress is None else lambda done: on_progress(strategy, done),
        )
    else:
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
    beyond = beyond_measured(setting, work, sizes)
    return result.model_copy(update={"assumptions": (*result.assumptions, *beyond)}) if beyond else result


def _beside_healthy(
    setting: Setting, work: WorkPlan, result: SimulationResult, on_progress: OnProgress | None
) -> SimulationResult:
    """The result with what its faults cost: the same placement replayed without them."""
    healthy = dataclasses.replace(setting, scenario=setting.scenario.without_faults())
    whole = make_work_plan(healthy, work.placements, work.replica_policy)
    without = replayed(healthy, whole, result.strategy, healthy.steps(), (), on_progress)
    cost = FaultResult(
        step_time_without_s=without.step_time_s,
        cost=result.step_time_s / without.step_time_s - 1.0 if without.step_time_s > 0.0 else 0.0,
        phases_without_s=without.phase_seconds(),
    )
    words = f"the faults cost {cost.cost:+.1%}: a step takes {format_time(without.step_time_s)} without them"
    if result.lost_pairs:
        words += f"; {result.lost_tokens} tokens and {result.lost_pairs} (token, expert) pairs are lost to dead devices"
    return result.model_copy(update={"faults": cost, "assumptions": (*result.assumptions, words)})


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
    sentences += expert_sentences(work.rates, setting.model, work.weight_dtype)
    sentences += [fault.sentence(setting.cluster) for fault in setting.faults]
    if not setting.decode and not setting.training:
        sentences.append("prefill attention: a rank's tokens are one causal chunk, each seeing half of it on average")
    sentences.append(f"replica policy: {work.replica_policy}")
    if work.cache is not None:
        sentences.append(
            f"experts live in a slower tier ({format_rate(work.cache.tier_bytes_per_s)} to each device), the hottest "
            f"{format_bytes(work.cache.cache_bytes)} a device stay: {work.cache.kept_share:.1%} of (token, expert) pairs of "
            "the planning window find them there, the others wait for their expert's weights before it computes"
        )
    sentences += overlap_sentences(
        setting.scenario.mode.overlap, setting.model, sms_of(setting), setting.cluster.devices
    )
    if not work.capacity.is_dropless:
        sentences.append(work.capacity.sentence(has_weights=setting.workload.has_weights))
        if work.capacity_factors:
            low, high = min(work.capacity_factors), max(work.capacity_factors)
            sentences.append(f"capacity factors by layer, {low:g} to {high:g}, are the plan's")
    elif work.capacity.factor is not None:
        sentences.append(f"capacity.factor {work.capacity.factor:g} is not used: policy dropless accepts every token")
    return tuple(sentences) + setting.workload.assumptions
