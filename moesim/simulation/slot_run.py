"""SlotRun: what one stage does in one slot of a pipeline schedule, on a clock: its ranks go through one pass or a pair.

Passes of a pair share each rank's compute stream, first come first served, and their transfers run beside each other.
Array letters: D rank of a stage of one pipeline, L MoE ordinal, J link.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.compute import Cost
from moesim.network.bound import link_load
from moesim.network.fabric import BoundFabric, Fabric, FluidFabric
from moesim.network.transfer import Transfer
from moesim.result import PHASES, Spans
from moesim.simulation.bottleneck import Charges, compute_kind, link_kind
from moesim.simulation.device import Process, SimulatedDevice
from moesim.simulation.exposed import exposed_seconds
from moesim.simulation.moe_layer import open_transfer
from moesim.simulation.observation import TransferObservation, observe_transfer
from moesim.simulation.recorder import Recorder
from moesim.simulation.run import CountingEnvironment
from moesim.simulation.streams import DeviceStreams
from moesim.step_work import WorkPlan
from moesim.training_work import PassStep

Passes = Sequence[Sequence[PassStep]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRun:
    """Seconds until the last rank ended; and of the slowest rank, each instant once: its phases [L, phase] and limits.

    `spans` and `link_bytes` [J] are those of all ranks.
    """

    time_s: float
    phase_s: NDArray[np.float64]
    charges: Charges
    spans: Spans
    link_bytes: NDArray[np.float64]
    events: int
    error_bound: float | None


def run_slot(plan: WorkPlan, passes: Passes, *, fidelity: str, tolerance: float) -> SlotRun:
    """Run the passes of one slot side by side from time 0; every rank goes through all of them."""
    env = CountingEnvironment()
    bandwidth = plan.builder.links.bandwidth
    fabric: FluidFabric | BoundFabric = (
        FluidFabric(env, bandwidth, tolerance=tolerance) if fidelity == "fluid" else BoundFabric(env, bandwidth)
    )
    recorder = Recorder(0, 0.0)
    opened = [_open(steps, fabric) for steps in passes]
    end_D = np.zeros(plan.num_devices)

    def rank_process(device: SimulatedDevice, steps: Sequence[PassStep], transfers: list[Transfer | None]) -> Process:
        """One pass of one rank; ends with its last step."""
        for step, transfer in zip(steps, transfers, strict=True):
            if transfer is None:
                yield from device.compute(step.phase, step.layer, _seconds(step.cost, device.rank))
                continue
            beside = device.compute("experts", step.layer, _seconds(step.beside, device.rank)) if step.beside else None
            yield from device.communicate(step.phase, step.layer, transfer.arrive(device.rank), beside)
        end_D[device.rank] = max(end_D[device.rank], env.now)

    for rank, share in enumerate(plan.sms_share_D.tolist()):
        streams = DeviceStreams(env, share)
        for steps, transfers in zip(passes, opened, strict=True):
            env.process(rank_process(SimulatedDevice(env, rank, recorder, streams), steps, transfers))
    env.run()
    return _summed_up(plan, passes, opened, recorder.spans(), end_D, env, fabric, fidelity)


def in_turn(runs: Sequence[SlotRun]) -> SlotRun:
    """Several passes of one slot, one after the other."""
    if len(runs) == 1:
        return runs[0]
    charges: Charges = defaultdict(float)
    for run in runs:
        for resource, seconds in run.charges.items():
            charges[resource] += seconds
    bounds = [run.error_bound for run in runs if run.error_bound is not None]
    return SlotRun(
        time_s=sum(run.time_s for run in runs),
        phase_s=np.sum([run.phase_s for run in runs], axis=0),
        charges=dict(charges),
        spans=runs[0].spans,
        link_bytes=np.sum([run.link_bytes for run in runs], axis=0),
        events=sum(run.events for run in runs),
        error_bound=max(bounds) if bounds else None,
    )


def _seconds(cost: Cost | None, rank: int) -> float:
    return 0.0 if cost is None else float(cost.time_s[rank])


def _open(steps: Sequence[PassStep], fabric: Fabric) -> list[Transfer | None]:
    return [None if step.collective is None else open_transfer(fabric, step.collective) for step in steps]


def _summed_up(
    plan: WorkPlan,
    passes: Passes,
    opened: list[list[Transfer | None]],
    spans: Spans,
    end_D: NDArray[np.float64],
    env: CountingEnvironment,
    fabric: FluidFabric | BoundFabric,
    fidelity: str,
) -> SlotRun:
    slowest = int(end_D.argmax())
    mine = spans.rank == slowest
    layer, phase = spans.layer[mine], spans.phase[mine]
    seconds = exposed_seconds(phase, spans.start_s[mine], spans.end_s[mine])
    num_layers = plan.model.num_moe_layers
    inside = layer >= 0
    cell = (layer.astype(np.int64) * len(PHASES) + phase)[inside]
    phase_s = np.bincount(cell, weights=seconds[inside], minlength=num_layers * len(PHASES)).astype(np.float64)
    limits = _limits(passes, opened, plan.builder.links.bandwidth)
    charges: Charges = defaultdict(float)
    names = [device.name for device in plan.builder.devices]
    for key, spent_s in zip(zip(layer.tolist(), phase.tolist(), strict=True), seconds.tolist(), strict=True):
        _charge(charges, limits.get((key[0], PHASES[key[1]])), spent_s, plan, names, slowest)
    return SlotRun(
        time_s=float(end_D.max()),
        phase_s=phase_s.reshape(num_layers, len(PHASES)),
        charges=dict(charges),
        spans=spans,
        link_bytes=_link_bytes(opened, len(plan.builder.links.bandwidth)),
        events=env.num_events,
        error_bound=fabric.error_bound if fidelity == "fluid" else None,
    )


def _limits(
    passes: Passes, opened: list[list[Transfer | None]], bandwidth: NDArray[np.float64]
) -> dict[tuple[int, str], Cost | TransferObservation]:
    """What a layer's phase can be limited by; the first of several (recomputation, halves) stands for all."""
    limits: dict[tuple[int, str], Cost | TransferObservation] = {}
    for steps, transfers in zip(passes, opened, strict=True):
        for step, transfer in zip(steps, transfers, strict=True):
            key = (step.layer, step.phase)
            if key in limits:
                continue
            if transfer is not None and step.collective is not None:
                limits[key] = observe_transfer(step.collective, transfer, bandwidth)
            elif step.cost is not None:
                limits[key] = step.cost
    return limits


def _link_bytes(opened: list[list[Transfer | None]], num_links: int) -> NDArray[np.float64]:
    total = np.zeros(num_links)
    for transfers in opened:
        for transfer in transfers:
            if transfer is not None:
                total += link_load(transfer.flows.paths, transfer.flows.bytes_F, num_links)
    return total


def _charge(
    charges: Charges,
    limit: Cost | TransferObservation | None,
    seconds: float,
    plan: WorkPlan,
    names: list[str],
    rank: int,
) -> None:
    """A wait is first the kernel's fixed cost, then its fullest link; the rest was waiting for slower ranks to compute."""
    if not isinstance(limit, TransferObservation):
        charges[compute_kind(limit, rank) if limit is not None else "compute", names[rank]] += seconds
        return
    links = plan.builder.links
    fixed_s = min(seconds, limit.fixed_s)
    network_s = min(seconds - fixed_s, limit.binding_s)
    charges["fixed", "communication kernels"] += fixed_s
    if limit.binding_link >= 0:
        charges[link_kind(links.tiers[limit.binding_link]), links.names[limit.binding_link]] += network_s
    charges["compute", names[rank]] += seconds - fixed_s - network_s
