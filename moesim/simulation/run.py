"""One step on the clock: a SimPy process per rank goes through the model's layers, over one fabric of links."""

from dataclasses import dataclass
from functools import reduce

import numpy as np
import simpy
from numpy.typing import NDArray

from moesim.compute import Cost
from moesim.network.fabric import BoundFabric, FluidFabric
from moesim.result import Spans
from moesim.simulation.device import Process, SimulatedDevice
from moesim.simulation.faults import RunningStep, plan_faults
from moesim.simulation.layers import LayerRuns
from moesim.simulation.observation import LayerObservation, merge_observations
from moesim.simulation.recorder import Recorder
from moesim.simulation.streams import DeviceStreams
from moesim.step_work import StepWork


class CountingEnvironment(simpy.Environment):
    """A SimPy environment that counts the events it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.num_events = 0

    def schedule(self, *args: object, **kwargs: object) -> None:
        """Schedule as SimPy does, counted."""
        self.num_events += 1
        super().schedule(*args, **kwargs)  # type: ignore[arg-type]  # passed through as they came


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRun:
    """One simulated step: its spans, the end of every rank [D] (s), and what was observed of each MoE layer.

    `num_tokens` counts those of ranks that a fault stopped, `lost_tokens`, too; such a rank ends when it stops.
    """

    step: int
    fill: float
    num_tokens: int
    end_D: NDArray[np.float64]
    spans: Spans
    layers: tuple[LayerObservation, ...]
    dense: dict[int, Cost]
    head: Cost
    events: int
    error_bound: float | None
    memory_parts: dict[str, float]
    lost_tokens: int = 0

    @property
    def time_s(self) -> float:
        """When the last rank ended."""
        return float(self.end_D.max())

    @property
    def slowest_rank(self) -> int:
        """The rank that ended last; the lowest of several."""
        return int(self.end_D.argmax())


def run_step(work: StepWork, *, fidelity: str, tolerance: float, offset_s: float = 0.0) -> StepRun:
    """Simulate one step from time 0; `offset_s` only shifts the recorded spans."""
    env = CountingEnvironment()
    bandwidth = work.plan.builder.links.bandwidth
    fabric: FluidFabric | BoundFabric = (
        FluidFabric(env, bandwidth, tolerance=tolerance) if fidelity == "fluid" else BoundFabric(env, bandwidth)
    )
    recorder = Recorder(work.dealt.step, offset_s)
    batches = work.micro_batches()
    layers_B = [LayerRuns(batch, fabric) for batch in batches]
    model = work.plan.model
    moe = set(model.moe_layer_indices)
    dense_indices = [index for index in range(model.num_layers) if index not in moe]
    dense_B = [{index: batch.dense_layer(index) for index in dense_indices} for batch in batches]
    head_B = [batch.head() for batch in batches]
    end_D = np.zeros(work.plan.num_devices)

    def rank_process(device: SimulatedDevice, batch: int) -> Process:
        """One micro-batch of one rank from the first layer to the output head; ends when the head is computed."""
        rank, layers, dense, head = device.rank, layers_B[batch], dense_B[batch], head_B[batch]
        ordinal = 0
        try:
            for index in range(model.num_layers):
                if index in dense:
                    yield from device.compute("dense", -1, float(dense[index].time_s[rank]))
                    continue
                yield from layers.enter(ordinal).pass_through(device)
                layers.leave(ordinal, rank)
                ordinal += 1
            yield from device.compute("other", -1, float(head.time_s[rank]))
        except simpy.Interrupt:
            stopped[rank] = None
        end_D[rank] = max(end_D[rank], env.now)

    stopped = dict.fromkeys(work.plan.builder.dead_devices)
    streams_D = [DeviceStreams(env, share, paced=bool(work.plan.later)) for share in work.plan.sms_share_D.tolist()]
    processes_D = [
        [
            env.process(rank_process(SimulatedDevice(env, rank, recorder, streams), batch))
            for batch in range(len(batches) if rank not in stopped else 0)
        ]
        for rank, streams in enumerate(streams_D)
    ]
    running = RunningStep(
        env=env,
        fabric=fabric,
        layers=layers_B,
        streams_D=streams_D,
        processes_D=processes_D,
        recorder=recorder,
    )
    plan_faults(running, work.plan)
    env.run()
    return StepRun(
        step=work.dealt.step,
        fill=work.dealt.fill,
        num_tokens=len(work.dealt.rank_T),
        end_D=end_D,
        spans=recorder.spans(),
        layers=tuple(
            merge_observations([layers.observations[ordinal] for layers in layers_B])
            for ordinal in range(model.num_moe_layers)
        ),
        dense={index: reduce(Cost.__add__, [dense[index] for dense in dense_B]) for index in dense_indices},
        head=reduce(Cost.__add__, head_B),
        events=env.num_events,
        error_bound=fabric.error_bound if fidelity == "fluid" else None,
        memory_parts=work.memory_parts(),
        lost_tokens=int(np.isin(work.dealt.rank_T, list(stopped)).sum()),
    )
