"""One training step on the clock: every stage's passes timed by its ranks, then the pipeline over those times.

Pipelines that are the same but for names are run once. Array letters: R pipeline, S stage, L MoE ordinal, D rank.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.capacity import CapacityCounts, total_counts
from moesim.routing import DealtStep
from moesim.simulation.passes import Kind, Order, Slot
from moesim.simulation.pipeline import PipelineRun, run_pipeline
from moesim.simulation.slot_run import SlotRun, in_turn, run_slot
from moesim.step_work import LayerWork, StepWork, WorkPlan
from moesim.training_work import PartWork, TrainingRules

SlotKey = tuple[tuple[Kind, int, int], ...]  # kind, part and routing of each pass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """A training step but for the clock: its schedule, parts, and what every stage's ranks are.

    `parts` are model layer indices; `plan_of(pipeline, stage)` the ranks; entries of `class_RS` that are equal have equal
    times. Micro-batch b is routed as `routings[b % len(routings)]`. `send_s` [stage, stage] seconds of one
    micro-batch's activations, `after_s` [stage, 2] of the gradient reduction and the optimizer. `partner_S` is the stage
    that holds the same weights, itself where none does.
    """

    order: Order
    parts: tuple[range, ...]
    plan_of: Callable[[int, int], WorkPlan]
    class_RS: NDArray[np.int64]
    routings: tuple[DealtStep, ...]
    sequence_length: int
    rules: TrainingRules
    send_s: NDArray[np.float64]
    after_s: NDArray[np.float64]
    partner_S: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSeen:
    """Loads [D], capacity counts and fan-outs of one MoE layer under one routing."""

    load_D: NDArray[np.int64]
    capacity: CapacityCounts
    fanout_nodes_count: NDArray[np.int64]
    fanout_nodes: float
    fanout_devices: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """What the clock found: the pipeline that ends last, its slots, and when each stage is done.

    `ready_S`: when a stage's last gradients are there, in all pipelines and on its partner; `seen_L` by MoE ordinal and
    routing.
    """

    step: TrainingStep
    pipeline: PipelineRun
    slots_S: tuple[tuple[SlotRun, ...], ...]
    ready_S: NDArray[np.float64]
    end_S: NDArray[np.float64]
    seen_L: dict[int, dict[int, LayerSeen]]
    events: int

    @property
    def time_s(self) -> float:
        """When the last stage has updated its weights."""
        return float(self.end_S.max())

    @property
    def last_stage(self) -> int:
        """The stage that ends last; the lowest of several."""
        return int(self.end_S.argmax())

    @property
    def error_bound(self) -> float | None:
        """The largest of any slot; None when the network model states none."""
        found = [slot.error_bound for slots in self.slots_S for slot in slots if slot.error_bound is not None]
        return max(found) if found else None


class _Timer:
    """Times slots, each once for a class of ranks, parts and routings; holds the layers of one stage at a time."""

    def __init__(self, step: TrainingStep, fidelity: str, tolerance: float) -> None:
        self.step, self.fidelity, self.tolerance = step, fidelity, tolerance
        self.times: dict[tuple[int, SlotKey], SlotRun] = {}
        self.seen_L: dict[int, dict[int, LayerSeen]] = {}
        self.events = 0

    def key(self, slot: Slot) -> SlotKey:
        """What the time of a slot depends on beside its ranks."""
        return tuple((item.kind, item.part, item.micro_batch % len(self.step.routings)) for item in slot)

    def run_stage(self, pipeline: int, stage: int) -> None:
        """Time every slot of a stage that is not known yet."""
        which = int(self.step.class_RS[pipeline, stage])
        wanted = dict.fromkeys(self.key(slot) for slot in self.step.order[stage])
        wanted = {key: None for key in wanted if (which, key) not in self.times}
        if not wanted:
            return
        plan = self.step.plan_of(pipeline, stage)
        work_of: dict[tuple[int, int], list[PartWork]] = {}
        for key in wanted:
            passes = []
            for kind, part, routing in key:
                if (part, routing) not in work_of:
                    work_of[part, routing] = self._part(plan, part, routing)
                passes.append([half.steps(kind) for half in work_of[part, routing]])
            together = [[steps for halves in passes for steps in halves]] if plan.overlap == "dualpipe" else passes
            runs = [run_slot(plan, some, fidelity=self.fidelity, tolerance=self.tolerance) for some in together]
            self.times[which, key] = in_turn(runs)
            self.events += sum(run.events for run in runs)

    def _part(self, plan: WorkPlan, part: int, routing: int) -> list[PartWork]:
        """A part under one routing; its two halves where those overlap."""
        step = self.step
        context = step.sequence_length // 2
        whole = StepWork(plan=plan, dealt=step.routings[routing], context=context)
        halves = whole.micro_batches() if plan.overlap == "two_batch" else (whole,)
        last = part == len(step.parts) - 1
        works = [
            PartWork(dataclasses.replace(half, context=context), step.parts[part], part, step.rules, last=last)
            for half in halves
        ]
        for layers in zip(*(work.layers for work in works), strict=True):
            found = [layer.work for layer in layers if layer.work is not None]
            if found:
                self.seen_L.setdefault(layers[0].ordinal, {}).setdefault(routing, _seen(found))
        return works


def _seen(works: Sequence[LayerWork]) -> LayerSeen:
    fanouts = [work.mean_fanout() for work in works]
    load_D: NDArray[np.int64] = np.sum([work.load_D for work in works], axis=0)
    return LayerSeen(
        load_D=load_D,
        capacity=total_counts([work.capacity for work in works]),
        fanout_nodes_count=np.sum([work.fanout_nodes_count for work in works], axis=0),
        fanout_nodes=float(np.mean([nodes for nodes, _ in fanouts])),
        fanout_devices=float(np.mean([devices for _, devices in fanouts])),
    )


def run_training(
    step: TrainingStep, *, fidelity: str, tolerance: float, on_stage: Callable[[int], None] | None = None
) -> TrainingRun:
    """Run the step from time 0; `on_stage` is told how many stages have been timed."""
    timer = _Timer(step, fidelity, tolerance)
    rows = dict.fromkeys(tuple(row) for row in step.class_RS.tolist())
    pipeline_of_row = {row: step.class_RS.tolist().index(list(row)) for row in rows}
    done, pipelines = 0, []
    for row, pipeline in pipeline_of_row.items():
        for stage in range(len(step.order)):
            timer.run_stage(pipeline, stage)
            done += 1
            if on_stage is not None:
                on_stage(done)

        def duration_s(stage: int, slot: Slot, row: tuple[int, ...] = row) -> float:
            return timer.times[row[stage], timer.key(slot)].time_s

        pipelines.append(run_pipeline(step.order, duration_s, lambda a, b: float(step.send_s[a, b])))
    last = max(range(len(pipelines)), key=lambda place: pipelines[place].time_s)
    ready_S = np.max([pipeline.end_of_stage_s() for pipeline in pipelines], axis=0)
    ready_S = np.maximum(ready_S, ready_S[list(step.partner_S)])
    row = list(pipeline_of_row)[last]
    slots_S = tuple(
        tuple(timer.times[row[stage], timer.key(slot)] for slot in slots) for stage, slots in enumerate(step.order)
    )
    return TrainingRun(
        step=step,
        pipeline=pipelines[last],
        slots_S=slots_S,
        ready_S=ready_S,
        end_S=ready_S + step.after_s.sum(axis=1),
        seen_L=timer.seen_L,
        events=timer.events + sum(pipeline.events for pipeline in pipelines),
    )
