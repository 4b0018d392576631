"""Pipeline: stages run their passes in the order of a schedule under SimPy, each when its inputs have come.

A stage runs one slot at a time. Results are sent to the next stage beside what the stage does next, each send in its own
time, as the asynchronous point-to-point transfers of the frameworks are. Array letters: V slot, in the order they end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from moesim.simulation.passes import Order, Pass, Slot

SPAN_KINDS = ("forward", "backward", "backward_input", "backward_weight", "overlapped")
Process = Any


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """When each slot ran, seconds from the start of the step [V]; `kind` indexes SPAN_KINDS.

    An overlapped pair is one slot, under its forward pass's micro-batch and part. The slots of one stage are in the order
    of its schedule.
    """

    num_stages: int
    stage: NDArray[np.int32]
    kind: NDArray[np.int8]
    micro_batch: NDArray[np.int32]
    part: NDArray[np.int32]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    events: int

    @property
    def time_s(self) -> float:
        """When the last slot ended."""
        return float(self.end_s.max(initial=0.0))

    def busy_s(self) -> NDArray[np.float64]:
        """Seconds each stage spends on each kind [stages, kinds]."""
        seconds = np.zeros((self.num_stages, len(SPAN_KINDS)))
        np.add.at(seconds, (self.stage, self.kind), self.end_s - self.start_s)
        return seconds

    def bubble_s(self) -> NDArray[np.float64]:
        """Seconds each stage does nothing from the start to the last stage's end [stages]."""
        idle: NDArray[np.float64] = self.time_s - self.busy_s().sum(axis=1)
        return np.maximum(idle, 0.0)

    def end_of_stage_s(self) -> NDArray[np.float64]:
        """When each stage's last slot ended [stages]."""
        ends = np.zeros(self.num_stages)
        np.maximum.at(ends, self.stage, self.end_s)
        return ends


class _Run:
    """The clock, and for each pass whose result another one needs the event of its arrival there."""

    def __init__(self, order: Order, duration_s: Callable[[int, Slot], float], send_s: Callable[[int, int], float]):
        self.env = simpy.Environment()
        self.duration_s, self.send_s = duration_s, send_s
        self.rows: list[tuple[int, int, int, int, float, float]] = []
        self.events = 0
        self.last_part = max(item.part for slots in order for slot in slots for item in slot)
        self.stage_of = {
            (item.micro_batch, item.part): stage
            for stage, slots in enumerate(order)
            for slot in slots
            for item in slot
            if item.kind == "forward"
        }
        self._arrived: dict[tuple[bool, int, int], simpy.Event] = {}

    def arrived(self, forward: bool, micro_batch: int, part: int) -> simpy.Event:
        """The event of the input of this pass being there."""
        return self._arrived.setdefault((forward, micro_batch, part), self.env.event())

    def inputs(self, item: Pass) -> list[simpy.Event]:
        """What a pass waits for, beside what its own stage runs before it."""
        if item.kind == "forward" and item.part > 0:
            return [self.arrived(True, item.micro_batch, item.part)]
        if item.kind in ("backward", "backward_input") and item.part < self.last_part:
            return [self.arrived(False, item.micro_batch, item.part)]
        return []

    def send(self, stage: int, item: Pass) -> None:
        """Bring the pass's result to the stage that needs it."""
        step = 1 if item.kind == "forward" else -1
        target = self.stage_of.get((item.micro_batch, item.part + step))
        if item.kind == "backward_weight" or target is None:
            return
        arrived = self.arrived(step == 1, item.micro_batch, item.part + step)
        delay = self.send_s(stage, target) if target != stage else 0.0
        sent = self.env.timeout(delay)

        def tell(_event: simpy.Event) -> None:
            arrived.succeed()

        assert sent.callbacks is not None  # it has not happened yet
        sent.callbacks.append(tell)

    def stage(self, stage: int, slots: tuple[Slot, ...]) -> Process:
        """One stage from its first slot to its last."""
        for slot in slots:
            yield from [event for item in slot for event in self.inputs(item)]
            start_s = self.env.now
            yield self.env.timeout(self.duration_s(stage, slot))
            first = slot[0]
            kind = SPAN_KINDS.index("overlapped" if len(slot) > 1 else first.kind)
            self.rows.append((stage, kind, first.micro_batch, first.part, start_s, self.env.now))
            self.events += 2 * len(slot)
            for item in slot:
                self.send(stage, item)


def run_pipeline(
    order: Order, duration_s: Callable[[int, Slot], float], send_s: Callable[[int, int], float]
) -> PipelineRun:
    """Run every stage's slots; `duration_s(stage, slot)` and `send_s(from stage, to stage)` in seconds.

    Raises AssertionError for an order that waits for itself.
    """
    run = _Run(order, duration_s, send_s)
    for stage, slots in enumerate(order):
        run.env.process(run.stage(stage, slots))
    run.env.run()
    wanted = sum(len(slots) for slots in order)
    if len(run.rows) != wanted:
        raise AssertionError(f"the schedule waits for itself: {len(run.rows)} of its {wanted} slots ran")
    columns = list(zip(*run.rows, strict=True))
    return PipelineRun(
        num_stages=len(order),
        stage=np.array(columns[0], dtype=np.int32),
        kind=np.array(columns[1], dtype=np.int8),
        micro_batch=np.array(columns[2], dtype=np.int32),
        part=np.array(columns[3], dtype=np.int32),
        start_s=np.array(columns[4], dtype=np.float64),
        end_s=np.array(columns[5], dtype=np.float64),
        events=run.events,
    )
