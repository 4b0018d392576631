"""LayerObservation: what a run keeps of one MoE layer once every rank has left it.

Array letters: D device, J link.
"""

import dataclasses
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from moesim.capacity import CapacityCounts, total_counts
from moesim.collective.schedule import Collective
from moesim.compute import Cost
from moesim.network.bound import link_load
from moesim.network.transfer import Transfer
from moesim.simulation.moe_layer import MoELayerRun

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferObservation:
    """One collective as seen by links: bytes [J], the time from first start to last finish on each, and its parts.

    `binding_link` is the link whose bytes / bandwidth is largest, `binding_s` that quotient; -1 and 0 without flows.
    """

    link_bytes: Floats
    start_s: Floats
    end_s: Floats
    binding_link: int
    binding_s: float
    fixed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerObservation:
    """Costs, loads and fan-out of one layer, and its two transfers."""

    attention: Cost
    experts: Cost
    load_D: NDArray[np.int64]
    capacity: CapacityCounts
    fanout_nodes_count: NDArray[np.int64]
    fanout_nodes: float
    fanout_devices: float
    dispatch: TransferObservation
    combine: TransferObservation
    lost_pairs: int = 0
    dead_devices: tuple[int, ...] = ()

    @property
    def balancedness(self) -> float:
        """Mean over maximum of the live devices' loads; 1 when nothing is routed."""
        live_D = np.delete(self.load_D, list(self.dead_devices))
        most = int(live_D.max(initial=0))
        return float(live_D.mean()) / most if most else 1.0


def observe(run: MoELayerRun, link_bandwidth: Floats) -> LayerObservation:
    """What to keep of `run`, after its last rank has left; link_bandwidth in bytes/s [J]."""
    work = run.work
    fanout_nodes, fanout_devices = work.mean_fanout()
    return LayerObservation(
        attention=work.attention,
        experts=work.experts,
        load_D=work.load_D,
        capacity=run.capacity,
        lost_pairs=run.lost_pairs,
        dead_devices=work.dead_devices,
        fanout_nodes_count=work.fanout_nodes_count,
        fanout_nodes=fanout_nodes,
        fanout_devices=fanout_devices,
        dispatch=observe_transfer(work.dispatch, run.dispatch, link_bandwidth),
        combine=observe_transfer(work.combine, run.combine, link_bandwidth),
    )


def observe_transfer(collective: Collective, transfer: Transfer, bandwidth: Floats) -> TransferObservation:
    """What links saw of a transfer all of whose flows have ended; bandwidth in bytes/s [J]."""
    flows, num_links = transfer.flows, len(bandwidth)
    links = flows.paths.links
    flow_of_link = np.repeat(np.arange(len(flows.bytes_F)), np.diff(flows.paths.offsets))
    link_bytes = link_load(flows.paths, flows.bytes_F, num_links)
    start_s, end_s = np.full(num_links, np.inf), np.zeros(num_links)
    np.minimum.at(start_s, links, transfer.start_F[flow_of_link])
    np.maximum.at(end_s, links, transfer.finish_F[flow_of_link])
    needed_s = link_bytes / bandwidth
    binding = int(needed_s.argmax()) if len(links) else -1
    latency_s = float(flows.latency_F.max(initial=0.0))
    return TransferObservation(
        link_bytes=link_bytes,
        start_s=start_s,
        end_s=end_s,
        binding_link=binding,
        binding_s=float(needed_s[binding]) if binding >= 0 else 0.0,
        fixed_s=collective.extra_s + latency_s,
    )


def merge_observations(parts: list[LayerObservation]) -> LayerObservation:
    """One layer as its micro-batches together saw it: costs, loads and bytes add up, binding and fixed parts are means."""
    if len(parts) == 1:
        return parts[0]
    tokens = np.array([part.fanout_nodes_count.sum() for part in parts], dtype=np.float64)
    weights = tokens if tokens.sum() > 0 else np.ones(len(parts))
    return dataclasses.replace(
        parts[0],
        attention=reduce(Cost.__add__, [part.attention for part in parts]),
        experts=reduce(Cost.__add__, [part.experts for part in parts]),
        load_D=np.sum([part.load_D for part in parts], axis=0),
        fanout_nodes_count=np.sum([part.fanout_nodes_count for part in parts], axis=0),
        fanout_nodes=float(np.average([part.fanout_nodes for part in parts], weights=weights)),
        fanout_devices=float(np.average([part.fanout_devices for part in parts], weights=weights)),
        dispatch=_merge_transfers([part.dispatch for part in parts]),
        combine=_merge_transfers([part.combine for part in parts]),
        capacity=total_counts([part.capacity for part in parts]),
        lost_pairs=sum(part.lost_pairs for part in parts),
    )


def _merge_transfers(parts: list[TransferObservation]) -> TransferObservation:
    return TransferObservation(
        link_bytes=np.sum([part.link_bytes for part in parts], axis=0),
        start_s=np.min([part.start_s for part in parts], axis=0),
        end_s=np.max([part.end_s for part in parts], axis=0),
        binding_link=max(parts, key=lambda part: part.binding_s).binding_link,
        binding_s=float(np.mean([part.binding_s for part in parts])),
        fixed_s=float(np.mean([part.fixed_s for part in parts])),
    )
