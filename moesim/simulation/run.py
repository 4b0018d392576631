"""One step on the clock: a SimPy process per rank goes through the model's layers, over one fabric of links."""

from dataclasses import dataclass

import numpy as np
import simpy
from numpy.typing import NDArray

from moesim.compute import Cost
from moesim.network.fabric import BoundFabric, FluidFabric
from moesim.result import Spans
from moesim.simulation.device import Process, SimulatedDevice
from moesim.simulation.layers import LayerRuns
from moesim.simulation.observation import LayerObservation
from moesim.simulation.recorder import Recorder
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
    """One simulated step: its spans, the end of every rank [D] (s), and what was observed of each MoE layer."""

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
    layers = LayerRuns(work, fabric)
    model = work.plan.model
    moe = set(model.moe_layer_indices)
    dense = {index: work.dense_layer(index) for index in range(model.num_layers) if index not in moe}
    head = work.head()
    end_D = np.zeros(work.plan.num_devices)

    def rank_process(rank: int) -> Process:
        """One rank from its first layer to the output head; ends when the head is computed."""
        device = SimulatedDevice(env, rank, recorder)
        ordinal = 0
        for index in range(model.num_layers):
            if index in dense:
                yield from device.compute("dense", -1, float(dense[index].time_s[rank]))
                continue
            yield from layers.enter(ordinal).pass_through(device)
            layers.leave(ordinal)
            ordinal += 1
        yield from device.compute("other", -1, float(head.time_s[rank]))
        end_D[rank] = env.now

    for rank in range(work.plan.num_devices):
        env.process(rank_process(rank))
    env.run()
    return StepRun(
        step=work.dealt.step,
        fill=work.dealt.fill,
        num_tokens=len(work.dealt.rank_T),
        end_D=end_D,
        spans=recorder.spans(),
        layers=tuple(layers.observations[ordinal] for ordinal in range(model.num_moe_layers)),
        dense=dense,
        head=head,
        events=env.num_events,
        error_bound=fabric.error_bound if fidelity == "fluid" else None,
    )
