"""Faults on the clock: at their times, links and devices of a running step change, flows are re-routed, ranks stop.

Array letters: D device, F flow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simpy

from moesim.collective.schedule import CollectiveBuilder, path_latency
from moesim.network.fabric import BoundFabric, FluidFabric
from moesim.network.flow import Flows
from moesim.simulation.layers import LayerRuns
from moesim.simulation.recorder import Recorder
from moesim.simulation.streams import DeviceStreams, Process
from moesim.step_work import Era, WorkPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningStep:
    """What a fault acts on: the fabric, the layers of each micro-batch, each rank's streams and its processes."""

    env: simpy.Environment
    fabric: FluidFabric | BoundFabric
    layers: Sequence[LayerRuns]
    streams_D: Sequence[DeviceStreams]
    processes_D: Sequence[Sequence[simpy.Process]]
    recorder: Recorder


def plan_faults(step: RunningStep, plan: WorkPlan) -> None:
    """Let the later eras of `plan` begin at their times; to be called before the clock starts."""
    before = plan
    for era in plan.later:
        bandwidth = era.plan.builder.links.bandwidth
        if not np.array_equal(bandwidth, before.builder.links.bandwidth):
            step.fabric.plan_bandwidth(era.since_s, bandwidth)
        step.env.process(_begin(step, before, era))
        before = era.plan


def survivors(flows: Flows, builder: CollectiveBuilder) -> Flows:
    """Flows as they go on under `builder`: none from or to a dead device, detours where a path crosses a dead link."""
    dead_D = np.isin(np.arange(builder.cluster.num_devices), builder.dead_devices)
    cut_F = dead_D[flows.source_F] | dead_D[flows.target_F]
    paths = flows.paths
    if builder.detours is not None:
        paths = builder.detours.around(paths, flows.source_F, flows.target_F, given_up_F=cut_F)
    if paths is flows.paths and not cut_F.any():
        return flows
    return Flows(
        source_F=flows.source_F,
        target_F=flows.target_F,
        bytes_F=np.where(cut_F, 0.0, flows.bytes_F),
        paths=paths,
        latency_F=path_latency(paths, builder.links.latency_s),
        weight_F=flows.weight_F,
    )


def _begin(step: RunningStep, before: WorkPlan, era: Era) -> Process:
    """What changes when `era` begins: speeds, then flows, then layers and the ranks in them."""
    yield step.env.timeout(era.since_s)
    builder = era.plan.builder
    for streams, speed in zip(step.streams_D, era.speed_D.tolist(), strict=True):
        streams.set_speed(speed)
    dying = [rank for rank in builder.dead_devices if rank not in before.builder.dead_devices]
    if dying or builder.detours is not before.builder.detours:
        step.fabric.rewrite(lambda flows: survivors(flows, builder))
    for rank in dying:
        step.recorder.stop(rank, step.env.now)
    for layers in step.layers:
        layers.begin_era(era.plan, dying)
    for rank in dying:
        for process in step.processes_D[rank]:
            if process.is_alive:
                process.interrupt("device down")
