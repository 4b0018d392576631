"""Training: a scenario of kind train as one training step, run on the clock and summed up.

Array letters: R pipeline, S stage, L MoE ordinal.
"""

import functools
import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.collective.reduction_flows import reduction_time, send_time
from moesim.collective.symmetry import classes
from moesim.errors import InputError
from moesim.memory import check_fit
from moesim.model import dtype_bytes
from moesim.parallelism import deal_layers
from moesim.result import MemoryResult, SimulationResult
from moesim.routing import DealtStep
from moesim.setting import Setting
from moesim.simulation.passes import Order, most_in_flight
from moesim.simulation.schedules import num_parts, schedule_order
from moesim.simulation.training import TrainingStep, run_training
from moesim.simulation.training_outcome import Fixed, training_result
from moesim.step_work import StepWork, WorkPlan
from moesim.training_activations import KeptTensors
from moesim.training_after import Reductions, copies_of_stage, held_by_stage, optimizer_s
from moesim.training_memory import HeldWeights, held_weights, kept_bytes, model_copies, optimizer_types, state_parts
from moesim.training_work import TrainingRules

WorkOf = Callable[[NDArray[np.int64]], WorkPlan]
_ACTIVATION = "bf16"  # type of what stages and tensor-parallel ranks send each other
_SPREAD_BYTES = (1e6, 1e9)  # two sizes that tell the fixed and the proportional part of a collective's time


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """A training step's schedule on this cluster: parts, which stage holds which, weights of a device of each stage."""

    order: Order
    parts: tuple[range, ...]
    parts_of_stage: tuple[tuple[int, ...], ...]
    partner_S: tuple[int, ...]
    held_of_part: tuple[HeldWeights, ...]
    held_S: tuple[HeldWeights, ...]


def train(
    setting: Setting,
    work_of: WorkOf,
    steps: Iterable[DealtStep],
    *,
    strategy: str,
    assumptions: tuple[str, ...],
    on_stage: Callable[[int], None] | None = None,
) -> SimulationResult:
    """Run one training step; `work_of` says what a stage's devices of one pipeline are, `steps` route the micro-batches.

    Raises InputError where degrees, schedule, faults or memory do not allow it.
    """
    began = time.perf_counter()
    _check(setting)
    section, dims, network = setting.scenario.train, setting.dims, setting.scenario.network
    plan_of = functools.cache(lambda pipeline, stage: work_of(dims.stage_ranks(stage, pipeline)))
    plan: WorkPlan = plan_of(0, 0)
    shape = _shape(setting, plan)
    routings = tuple(itertools.islice(steps, section.micro_batches))
    tokens = max(int(StepWork(plan=plan, dealt=dealt).tokens_D.max(initial=0.0)) for dealt in routings)
    memory = _memory(setting, plan, shape, StepWork(plan=plan, dealt=routings[0]), tokens)
    reductions = _reductions(setting, plan)
    pipelines = [[plan_of(r, s).builder for s in range(dims.pp)] for r in range(dims.num_pipelines)]
    class_of = classes([builder for row in pipelines for builder in row])
    run = run_training(
        TrainingStep(
            order=shape.order,
            parts=shape.parts,
            plan_of=plan_of,
            class_RS=np.array(class_of).reshape(dims.num_pipelines, dims.pp),
            routings=routings,
            sequence_length=section.sequence_length,
            rules=_rules(setting, plan, shape, reductions, tokens),
            send_s=_sends(setting, plan, tokens),
            after_s=_after(setting, plan_of, shape, reductions),
            partner_S=shape.partner_S,
        ),
        fidelity=network.fidelity,
        tolerance=network.tolerance,
        on_stage=on_stage,
    )
    fixed = Fixed(
        strategy=strategy,
        schedule=section.schedule,
        micro_batches=section.micro_batches,
        zero=section.zero,
        recompute=section.recompute,
        num_pipelines=dims.num_pipelines,
        world=dims.world,
        fidelity=network.fidelity,
        tolerance=network.tolerance,
        memory=memory,
        assumptions=assumptions + _sentences(setting, run.step.class_RS, len(routings), tokens),
        provenance=setting.provenance(),
        wall_s=time.perf_counter() - began,
    )
    return training_result(run, plan, fixed)


def _check(setting: Setting) -> None:
    scenario, dims = setting.scenario, setting.dims
    if scenario.mode.overlap == "dualpipe" and scenario.train.schedule != "dualpipe":
        raise InputError(
            f"mode.overlap dualpipe overlaps a forward with a backward pass, which train.schedule "
            f"{scenario.train.schedule} never pairs; take train.schedule dualpipe, or mode.overlap two_batch"
        )
    if any(fault.kind == "device_down" for fault in setting.faults):
        raise InputError(
            "fault device_down: a training step needs all its devices and a job that loses one stops; leave it out, or "
            "train on fewer devices"
        )
    if any(fault.at_s > 0.0 for fault in setting.faults):
        raise InputError("faults in the course of a training step are not modelled; leave out `at`: from the start")
    if dims.etp > 1 and (setting.model.moe.pools or setting.model.expert_d_ff % dims.etp):
        raise InputError(
            f"parallel.etp={dims.etp} does not divide the hidden width {setting.model.expert_d_ff} of one kind of expert of "
            f"{setting.model.name}; take etp=1"
        )


def _shape(setting: Setting, plan: WorkPlan) -> _Shape:
    section, dims, model = setting.scenario.train, setting.dims, setting.model
    order = schedule_order(section.schedule, stages=dims.pp, micro_batches=section.micro_batches, chunks=section.chunks)
    count = num_parts(section.schedule, stages=dims.pp, chunks=section.chunks)
    parts = deal_layers(model.num_layers, count, section.stage_layers)
    parts_of_stage = tuple(tuple(sorted({item.part for slot in slots for item in slot})) for slots in order)
    slots = max(int(placement.slots_of_devices.max()) for placement in plan.placements)
    held = tuple(
        held_weights(model, dims, layers, first=part == 0, last=part == count - 1, expert_slots=slots)
        for part, layers in enumerate(parts)
    )
    twice = model_copies(section.schedule) == 2
    return _Shape(
        order=order,
        parts=parts,
        parts_of_stage=parts_of_stage,
        partner_S=tuple(dims.pp - 1 - stage if twice else stage for stage in range(dims.pp)),
        held_of_part=held,
        held_S=tuple(held_by_stage(held, parts_of_stage)),
    )


def _reductions(setting: Setting, plan: WorkPlan) -> Reductions:
    section, network, builder = setting.scenario.train, setting.scenario.network, plan.builder
    return Reductions(
        cluster=builder.cluster,
        links=builder.links,
        path_policy=builder.path_policy,
        detours=builder.detours,
        algorithm=section.reduction,
        zero=section.zero,
        optimizer=optimizer_types(section.optimizer),
        expert_dtype=plan.weight_dtype,
        dense_dtype=setting.model.dense_dtype,
        fidelity=network.fidelity,
        tolerance=network.tolerance,
    )


def _rules(setting: Setting, plan: WorkPlan, shape: _Shape, reductions: Reductions, tokens: int) -> TrainingRules:
    dims, builder = setting.dims, plan.builder
    stage_of_part = {part: stage for stage, parts in enumerate(shape.parts_of_stage) for part in parts}
    gather = [0.0] * len(shape.parts)
    if reductions.zero == 3:
        for part, held in enumerate(shape.held_of_part):
            stage = stage_of_part[part]
            gather[part] = reductions.gather_s(held, *copies_of_stage(dims, stage, shape.partner_S[stage]))

    def gathered_s(groups: list[NDArray[np.int64]], num_bytes: float) -> float:
        network = setting.scenario.network
        return reduction_time(
            builder.cluster,
            builder.links,
            groups,
            num_bytes,
            "all_gather",
            path_policy=builder.path_policy,
            detours=builder.detours,
            fidelity=network.fidelity,
            tolerance=network.tolerance,
        ).time_s

    pipelines = range(dims.num_pipelines)
    tensor = [group for pipeline in pipelines for group in dims.tensor_groups(0, pipeline)]
    width = setting.model.d_model * dtype_bytes(_ACTIVATION)
    spread = (0.0, 0.0)
    if dims.etp > 1:
        groups = [group for pipeline in pipelines for group in dims.expert_tensor_groups(0, pipeline)]
        (small, small_s), (large, large_s) = ((size, gathered_s(groups, size)) for size in _SPREAD_BYTES)
        per_byte_s = (large_s - small_s) / (large - small)
        spread = (small_s - per_byte_s * small, per_byte_s)
    return TrainingRules(
        recompute=setting.scenario.train.recompute,
        gradient_bytes=reductions.optimizer.gradient_bytes,
        shared_beside=setting.scenario.mode.overlap == "shared_expert",
        tensor_s=gathered_s(tensor, tokens * dims.tp * width) if dims.tp > 1 else 0.0,
        spread_s=spread,
        gather_s=tuple(gather),
    )


def _sends(setting: Setting, plan: WorkPlan, tokens: int) -> NDArray[np.float64]:
    """Seconds of a micro-batch's activations from each stage to its neighbours, all devices of a stage at once."""
    dims, builder = setting.dims, plan.builder
    size, stages = dims.stage_size, dims.pp
    num_bytes = tokens * setting.model.d_model * dtype_bytes(_ACTIVATION)
    send_s = np.zeros((stages, stages))
    for stage in range(stages):
        for other in {(stage + 1) % stages: None, (stage - 1) % stages: None}:
            send_s[stage, other] = send_time(
                builder.cluster,
                builder.links,
                np.arange(stage * size, (stage + 1) * size),
                np.arange(other * size, (other + 1) * size),
                num_bytes if other != stage else 0.0,
                path_policy=builder.path_policy,
                detours=builder.detours,
                fidelity=setting.scenario.network.fidelity,
            )
    return send_s


def _after(
    setting: Setting, plan_of: Callable[[int, int], WorkPlan], shape: _Shape, reductions: Reductions
) -> NDArray[np.float64]:
    """Seconds of gradient reduction and of the optimizer [stage, 2]."""
    dims, copies = setting.dims, model_copies(setting.scenario.train.schedule)
    after_s = np.zeros((dims.pp, 2))
    for stage, held in enumerate(shape.held_S):
        after_s[stage, 0] = reductions.gradient_s(held, *copies_of_stage(dims, stage, shape.partner_S[stage]))
        rates = np.concatenate([plan_of(r, stage).rates.memory_bytes_per_s for r in range(dims.num_pipelines)])
        after_s[stage, 1] = optimizer_s(held, dims, copies, reductions, rates)
    return after_s


def _memory(setting: Setting, plan: WorkPlan, shape: _Shape, work: StepWork, tokens: int) -> MemoryResult:
    """Bytes of a device of the stage with least to spare; refused where they do not fit, unless only warned."""
    section, dims, model = setting.scenario.train, setting.dims, setting.model
    buffers = work.memory_parts()["dispatch_buffers"]
    capacity_S = [
        min(
            setting.cluster.devices[device].memory_bytes
            for device in range(s * dims.stage_size, (s + 1) * dims.stage_size)
        )
        for s in range(dims.pp)
    ]
    parts_S = []
    for slots, held in zip(shape.order, shape.held_S, strict=True):
        state = state_parts(
            held,
            dims,
            zero=section.zero,
            optimizer=optimizer_types(section.optimizer),
            weight_dtype=plan.weight_dtype,
            dense_dtype=model.dense_dtype,
            copies=model_copies(section.schedule),
        )
        kept = sum(
            kept_bytes(
                model,
                shape.parts[part],
                tokens * dims.tp,
                section.sequence_length,
                micro_batches=count,
                recompute=section.recompute,
                tp=dims.tp,
                last=part == len(shape.parts) - 1,
                kept=KeptTensors(dtype=section.activation_dtype),
            )
            for part, count in most_in_flight(slots).items()
        )
        parts_S.append({**state, "activations": kept, "dispatch_buffers": buffers})
    stage = max(range(dims.pp), key=lambda s: sum(parts_S[s].values()) - capacity_S[s])
    if setting.scenario.memory.check == "refuse":
        check_fit(parts_S[stage], capacity_S[stage], f"a device of stage {stage}")
    return MemoryResult(
        max_device_bytes=sum(parts_S[stage].values()), capacity_bytes=capacity_S[stage], breakdown=parts_S[stage]
    )


def _sentences(setting: Setting, class_RS: NDArray[np.int64], num_routings: int, tokens: int) -> tuple[str, ...]:
    """What this training step takes for granted."""
    section, dims = setting.scenario.train, setting.dims
    kinds = len(np.unique(class_RS))
    sentences = [
        f"training: {dims.num_pipelines} pipelines x {dims.pp} stages of {dims.pipeline_width} devices, {kinds} of them timed, "
        "the others are the same but for names; pipelines and stages do not slow each other's collectives",
        f"training: micro-batch b is routed as step b mod {num_routings} of the window, in all pipelines",
        "training: a pass ends with its slowest rank; activations travel between stages beside compute and dispatch",
        "training: gradients are reduced after a stage's last backward pass, not beside it; "
        f"{section.reduction}, gradients in {optimizer_types(section.optimizer).gradient}",
        f"training: a token's attention sees {section.sequence_length // 2} tokens, half a sequence",
    ]
    if tokens * dims.tp % section.sequence_length:
        sentences.append(
            f"training: a micro-batch of {tokens} tokens a rank x tp={dims.tp} is no whole number of sequences of "
            f"{section.sequence_length}; keys and values from other ranks cost nothing"
        )
    if section.zero == 3:
        sentences.append("training: ZeRO 3 gathers a part's weights before each pass, not beside it")
    return tuple(sentences)
