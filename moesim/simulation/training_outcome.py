"""From one training step on the clock to a SimulationResult: phases of stages, rows of layers, spans of the pipeline.

Array letters: S stage, L MoE ordinal, D rank of one pipeline, J link.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moesim.capacity import total_counts
from moesim.result import (
    PHASES,
    LayerResult,
    MemoryResult,
    NetworkResult,
    PipelineSpan,
    SimulationResult,
    Spans,
    StageResult,
    StepResult,
    Tables,
    TrainingResult,
)
from moesim.simulation.bottleneck import Charges, worst_charge
from moesim.simulation.outcome import memory_notes, top_links
from moesim.simulation.pipeline import SPAN_KINDS
from moesim.simulation.recorder import join_spans
from moesim.simulation.training import LayerSeen, TrainingRun
from moesim.step_work import WorkPlan

_LETTER: dict[str, Literal["F", "B", "W"]] = {
    "forward": "F",
    "backward": "B",
    "backward_input": "B",
    "backward_weight": "W",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """What a result says that the clock did not find out."""

    strategy: str
    schedule: str
    micro_batches: int
    zero: int
    recompute: str
    num_pipelines: int
    world: int
    fidelity: Literal["bound", "fluid"]
    tolerance: float
    memory: MemoryResult
    assumptions: tuple[str, ...]
    provenance: dict[str, Any]
    wall_s: float


def training_result(run: TrainingRun, plan: WorkPlan, fixed: Fixed) -> SimulationResult:
    """The step as a result; `plan` is that of the first pipeline's first stage."""
    routings = run.step.routings
    sent = [len(routings[batch % len(routings)].rank_T) for batch in range(fixed.micro_batches)]
    tokens = sum(sent) * fixed.num_pipelines
    layers = _layers(run, plan)
    phases_s = sum(layer.attention_s + layer.dispatch_s + layer.experts_s + layer.combine_s for layer in layers)
    seen = [seen for by_routing in run.seen_L.values() for seen in by_routing.values()]
    counts = total_counts([layer.capacity for layer in seen])
    tables = _tables(run, plan)
    fill = float(np.mean([routing.fill for routing in routings]))
    return SimulationResult(
        strategy=fixed.strategy,
        step_time_s=run.time_s,
        tokens_per_s_per_device=tokens / run.time_s / fixed.world if run.time_s > 0 else 0.0,
        steps=(StepResult(step=routings[0].step, time_s=run.time_s, fill=fill),),
        layers=layers,
        other_s=max(run.time_s - phases_s, 0.0),
        bottleneck=worst_charge(_charges(run), run.time_s),
        links=top_links(tables, run.time_s),
        memory=fixed.memory,
        drop_rate=counts.drop_rate,
        padding_rate=counts.padding_rate,
        training=_training(run, fixed, tokens),
        balancedness=float(np.mean([layer.balancedness for layer in layers])) if layers else 1.0,
        fanout_nodes=float(np.mean([layer.fanout_nodes for layer in layers])) if layers else 0.0,
        fanout_devices=float(np.mean([layer.fanout_devices for layer in layers])) if layers else 0.0,
        network=NetworkResult(fidelity=fixed.fidelity, tolerance=fixed.tolerance, error_bound=run.error_bound),
        events=run.events,
        wall_s=fixed.wall_s,
        assumptions=fixed.assumptions + memory_notes(fixed.memory),
        provenance=fixed.provenance,
        tables=tables,
        pipeline=pipeline_spans(run),
    )


def pipeline_spans(run: TrainingRun) -> tuple[PipelineSpan, ...]:
    """Every pass of every stage, stage by stage in the order they run."""
    pipeline, spans = run.pipeline, []
    for stage, slots in enumerate(run.step.order):
        chunk_of = {part: chunk for chunk, part in enumerate(sorted({p.part for slot in slots for p in slot}))}
        mine = np.flatnonzero(pipeline.stage == stage).tolist()
        for place, slot in zip(mine, slots, strict=True):
            times = float(pipeline.start_s[place]), float(pipeline.end_s[place])
            spans += [
                PipelineSpan(stage, chunk_of[item.part], item.micro_batch, _LETTER[item.kind], *times) for item in slot
            ]
    return tuple(spans)


def _training(run: TrainingRun, fixed: Fixed, tokens: int) -> TrainingResult:
    busy_SK = run.pipeline.busy_s()
    stages = []
    for stage, slots in enumerate(run.step.order):
        seconds = dict(zip(SPAN_KINDS, busy_SK[stage].tolist(), strict=True))
        reduction_s, optimizer_s = run.step.after_s[stage].tolist()
        held = {item.part for slot in slots for item in slot}
        spent_s = float(busy_SK[stage].sum()) + reduction_s + optimizer_s
        stages.append(
            StageResult(
                stage=stage,
                layers=sum(len(run.step.parts[part]) for part in sorted(held)),
                forward_s=seconds["forward"],
                backward_s=seconds["backward"] + seconds["backward_input"],
                weight_gradient_s=seconds["backward_weight"],
                overlapped_s=seconds["overlapped"],
                bubble_s=max(run.time_s - spent_s, 0.0),
                gradient_reduction_s=reduction_s,
                optimizer_s=optimizer_s,
            )
        )
    last = stages[run.last_stage].model_dump(exclude={"stage", "layers"})
    idle_s, pipeline_s = float(run.pipeline.bubble_s().sum()), run.pipeline.time_s
    return TrainingResult(
        schedule=fixed.schedule,
        micro_batches=fixed.micro_batches,
        num_stages=len(stages),
        chunks=max(len({item.part for slot in slots for item in slot}) for slots in run.step.order),
        zero=fixed.zero,
        recompute=fixed.recompute,
        tokens=tokens,
        bubble_fraction=idle_s / (len(stages) * pipeline_s) if pipeline_s > 0 else 0.0,
        pipeline_s=pipeline_s,
        send_s=float(run.step.send_s.max()),
        last_stage=run.last_stage,
        stages=tuple(stages),
        **last,
    )


def _layers(run: TrainingRun, plan: WorkPlan) -> tuple[LayerResult, ...]:
    """Seconds of all passes of all micro-batches through each MoE layer, divided by the number of stages.

    So the rows, and what is left of the step on the mean stage, add up to the step.
    """
    phase_LP = np.sum([slot.phase_s for slots in run.slots_S for slot in slots], axis=0) / len(run.slots_S)
    rows = []
    for ordinal, index in enumerate(plan.model.moe_layer_indices):
        seen = list(run.seen_L[ordinal].values())
        counts = total_counts([layer.capacity for layer in seen])
        rows.append(
            LayerResult(
                layer=index,
                **{f"{name}_s": float(phase_LP[ordinal, PHASES.index(name)]) for name in PHASES[:4]},
                balancedness=float(np.mean([_balancedness(layer.load_D) for layer in seen])),
                fanout_nodes=float(np.mean([layer.fanout_nodes for layer in seen])),
                fanout_devices=float(np.mean([layer.fanout_devices for layer in seen])),
                drop_rate=counts.drop_rate,
                padding_rate=counts.padding_rate,
            )
        )
    return tuple(rows)


def _balancedness(load_D: NDArray[np.int64]) -> float:
    most = int(load_D.max(initial=0))
    return float(load_D.mean()) / most if most else 1.0


def _charges(run: TrainingRun) -> Charges:
    """Seconds of the stage that ends last by what limits them; its bubble is nobody's."""
    charges: Charges = defaultdict(float)
    for slot in run.slots_S[run.last_stage]:
        for resource, seconds in slot.charges.items():
            charges[resource] += seconds
    reduction_s, optimizer_s = run.step.after_s[run.last_stage].tolist()
    charges["nic", "gradient reduction"] += reduction_s
    charges["memory", "optimizer"] += optimizer_s
    return charges


def _tables(run: TrainingRun, plan: WorkPlan) -> Tables:
    """Tables of one pipeline: ranks by their place in it; bytes of its dispatches and combines on all stages.

    `spans` are those of the first micro-batch's forward pass, at its time on every stage.
    """
    links = plan.builder.links
    link_bytes = np.sum([slot.link_bytes for slots in run.slots_S for slot in slots], axis=0)
    nodes = np.array([device.node for device in plan.builder.devices], dtype=np.int32)
    seen_L: list[list[LayerSeen]] = [list(run.seen_L[ordinal].values()) for ordinal in sorted(run.seen_L)]
    load_LD = np.array([np.mean([layer.load_D for layer in seen], axis=0) for seen in seen_L])
    counts = [layer.fanout_nodes_count for seen in seen_L for layer in seen]
    return Tables(
        spans=_first_forward(run),
        load_LD=load_LD.reshape(len(seen_L), len(nodes)),
        node_of_device_D=nodes - nodes.min(),
        link_names=links.names,
        link_tier=links.tiers,
        link_bandwidth=links.bandwidth,
        link_bytes=link_bytes,
        fanout_nodes_count=np.sum(counts, axis=0) if counts else np.zeros(1, dtype=np.int64),
        link_use=np.zeros((0, 1)),
        link_use_names=(),
        link_use_time_s=np.array([0.0, run.time_s]),
    )


def _first_forward(run: TrainingRun) -> Spans:
    """Spans of all ranks of one pipeline in the forward pass of micro-batch 0, part after part."""
    parts: list[Spans] = []
    for stage, slots in enumerate(run.step.order):
        mine = np.flatnonzero(run.pipeline.stage == stage).tolist()
        for place, slot, timed in zip(mine, slots, run.slots_S[stage], strict=True):
            if len(slot) == 1 and slot[0].kind == "forward" and slot[0].micro_batch == 0:
                offset_s = float(run.pipeline.start_s[place])
                columns = {name: getattr(timed.spans, name) for name in Spans.__dataclass_fields__}
                columns["start_s"], columns["end_s"] = columns["start_s"] + offset_s, columns["end_s"] + offset_s
                parts.append(Spans(**columns))
    return join_spans(parts)
