"""Reductions: all-reduce, reduce-scatter and all-gather of groups of devices, as flows in legs one after the other.

All groups of a reduction run at once and share the links. A leg of `rounds` rounds is pipelined: its flows run together
with all their bytes, and the last byte takes the path's latency once a round. Array letters: F flow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.network.bound import bound_completion, link_load
from moesim.network.flow import Flows, Paths
from moesim.network.simulate import simulate_flows
from moesim.registry import Registry

Ints = NDArray[np.int64]
Operation = Literal["all_reduce", "reduce_scatter", "all_gather"]
PathsOf = Callable[[Ints, Ints], Paths]

# A module there defines `legs(group, num_bytes, operation, node_of_device) -> tuple[ReductionLeg, ...]`.
reductions = Registry("moesim.collective.reductions", kind="train.reduction", attribute="legs")


@dataclass(frozen=True, slots=True)
class ReductionLeg:
    """Bytes from device to device [F] that are under way together; `rounds` messages follow each other on the way."""

    source_F: Ints
    target_F: Ints
    bytes_F: NDArray[np.float64]
    rounds: int


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that reduce `num_bytes` bytes each; after an all-gather every one of them holds so many."""

    devices: Ints
    num_bytes: float


@dataclass(frozen=True, slots=True)
class ReductionTime:
    """Seconds until the last group is done, and bytes each link carried."""

    time_s: float
    link_bytes: NDArray[np.float64]


def passes_over_ring(operation: Operation) -> int:
    """How often the data go round: an all-reduce is a reduce-scatter and an all-gather."""
    return 2 if operation == "all_reduce" else 1


def join_legs(parts: Sequence[tuple[ReductionLeg, ...]]) -> tuple[ReductionLeg, ...]:
    """Leg by leg what several groups do at once; a group with fewer legs is done earlier."""
    joined = []
    for place in range(max((len(legs) for legs in parts), default=0)):
        legs = [group[place] for group in parts if place < len(group)]
        joined.append(
            ReductionLeg(
                np.concatenate([leg.source_F for leg in legs]),
                np.concatenate([leg.target_F for leg in legs]),
                np.concatenate([leg.bytes_F for leg in legs]),
                max(leg.rounds for leg in legs),
            )
        )
    return tuple(joined)


def time_reduction(
    algorithm: str,
    operation: Operation,
    groups: Sequence[Group],
    *,
    node_of_device: NDArray[np.integer[Any]],
    paths_of: PathsOf,
    bandwidth: NDArray[np.float64],
    latency_s: NDArray[np.float64],
    fidelity: str = "bound",
    tolerance: float = 0.0,
) -> ReductionTime:
    """Run one reduction of all groups at once; legs follow each other, with a barrier of all groups between them.

    Raises UnknownName for an unknown algorithm, InputError for a device that is twice in a group.
    """
    make = reductions.get(algorithm)
    for group in groups:
        if len(np.unique(group.devices)) != len(group.devices):
            raise InputError(f"a group that reduces names a device twice: {group.devices.tolist()[:8]}")
    parts = [
        make(group.devices, group.num_bytes, operation, node_of_device) for group in groups if len(group.devices) > 1
    ]
    total_s, link_bytes = 0.0, np.zeros(len(bandwidth))
    for leg in join_legs(parts):
        seconds, carried = time_leg(leg, paths_of, bandwidth, latency_s, fidelity, tolerance)
        total_s += seconds
        link_bytes += carried
    return ReductionTime(total_s, link_bytes)


def time_leg(
    leg: ReductionLeg,
    paths_of: PathsOf,
    bandwidth: NDArray[np.float64],
    latency_s: NDArray[np.float64],
    fidelity: str,
    tolerance: float,
) -> tuple[float, NDArray[np.float64]]:
    """Seconds of one leg, and bytes on each link: the flows without latency, then the longest path's once a round."""
    paths = paths_of(leg.source_F, leg.target_F)
    flow_of_hop = np.repeat(np.arange(paths.num_flows), np.diff(paths.offsets))
    latency_F = np.bincount(flow_of_hop, weights=latency_s[paths.links], minlength=paths.num_flows)
    carried = link_load(paths, leg.bytes_F, len(bandwidth))
    if not leg.bytes_F.any():
        return 0.0, carried
    rounds_s = leg.rounds * float(latency_F.max(initial=0.0))
    if fidelity == "fluid":
        times = simulate_flows(bandwidth, paths.offsets, paths.links, leg.bytes_F, tolerance=tolerance)
        return times.completion_s + rounds_s, carried
    ones = np.ones(paths.num_flows)
    flows = Flows(
        leg.source_F.astype(np.int32), leg.target_F.astype(np.int32), leg.bytes_F, paths, np.zeros(paths.num_flows), ones
    )
    return bound_completion(flows, bandwidth) + rounds_s, carried
