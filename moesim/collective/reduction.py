"""Reductions: all-reduce, reduce-scatter and all-gather of groups of devices, as flows in legs one after the other.

All groups of a reduction run at once and share the links. A leg of `rounds` rounds is pipelined: its flows run together
with all their bytes, and the last byte takes the latency of every round on top. Left out: launch costs, and what adding
up costs in memory traffic (fused with the copy in NCCL). Sources: ring and tree as NCCL builds them; Thakur,
Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH", 2005, for the closed forms.
Array letters: F flow, D device of a group.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.network.bound import bound_completion, link_load, path_sums
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
    """Bytes from device to device [F] that are under way together; `rounds` messages follow each other on the way.

    `in_turn`: a message passes the flows one after the other (a ring), so a round costs their mean latency; else each
    round costs the longest.
    """

    source_F: Ints
    target_F: Ints
    bytes_F: NDArray[np.float64]
    rounds: int
    in_turn: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that reduce `num_bytes` bytes each; after an all-gather every one of them holds so many."""

    devices: Ints
    num_bytes: float

    def __post_init__(self) -> None:
        """Bring devices to int64; refuse one that is there twice, and bytes that are no amount."""
        object.__setattr__(self, "devices", np.asarray(self.devices, dtype=np.int64))
        if len(np.unique(self.devices)) != len(self.devices):
            raise InputError(f"a group that reduces names a device twice: {self.devices.tolist()[:8]}")
        if not 0.0 <= self.num_bytes < np.inf:
            raise InputError(f"a group reduces {self.num_bytes!r} bytes; it must be 0 or more and finite")


@dataclass(frozen=True, slots=True)
class ReductionTime:
    """Seconds until the last group is done, and bytes each link carried."""

    time_s: float
    link_bytes: NDArray[np.float64]


def passes_over_ring(operation: Operation) -> int:
    """How often the data go round: an all-reduce is a reduce-scatter and an all-gather."""
    return 2 if operation == "all_reduce" else 1


def group_legs(
    algorithm: str,
    operation: Operation,
    groups: Sequence[Group],
    node_of_device: NDArray[np.integer[Any]],
    coordinate_DA: NDArray[np.integer[Any]] | None = None,
) -> list[tuple[ReductionLeg, ...]]:
    """The legs of every group; none for a group of one device. Raises UnknownName for an unknown algorithm.

    With `coordinate_DA`, places on a torus, a ring over a group that is a whole grid is one ring for each line of it.
    """
    make = reductions.get(algorithm)
    parts: list[tuple[ReductionLeg, ...]] = []
    for group in groups:
        if len(group.devices) == 1:
            parts.append(())
        elif algorithm == "ring" and coordinate_DA is not None and _is_grid(coordinate_DA[group.devices]):
            parts.append(axis_rings(group, operation, coordinate_DA))
        else:
            parts.append(make(group.devices, group.num_bytes, operation, node_of_device))
    return parts


def axis_rings(group: Group, operation: Operation, coordinate_DA: NDArray[np.integer[Any]]) -> tuple[ReductionLeg, ...]:
    """Rings along every line of a grid of devices, both ways at once, each with its share of the bytes.

    The bytes are cut into one part for each of the A axes and each way; part a goes along axis a first, then the next,
    so that all links are busy: passes x (n - 1) / n x bytes / (2 A) on each (bucket algorithm: Jain and Sabharwal 2010,
    "Optimal bucket algorithms for large MPI collectives on torus interconnects"; exact for axes of one length). Where an
    axis does not wrap, the way back crosses the line again.
    """
    place_GA = coordinate_DA[group.devices]
    lengths = [len(np.unique(axis)) for axis in place_GA.T]
    axes = [axis for axis, length in enumerate(lengths) if length > 1]
    grid = group.devices[np.lexsort(place_GA.T[::-1])].reshape(lengths)  # last axis fastest
    source_F = np.concatenate([grid.ravel()] * (2 * len(axes)))
    target_F = np.concatenate([np.roll(grid, step, axis).ravel() for axis in axes for step in (-1, 1)])
    size, passes = len(group.devices), passes_over_ring(operation)
    each = passes * (size - 1) / size * group.num_bytes / (2 * len(axes))
    rounds = passes * sum(length - 1 for length in lengths)
    return (ReductionLeg(source_F, target_F, np.full(len(source_F), each), rounds, in_turn=True),)


def _is_grid(place_GA: NDArray[np.integer[Any]]) -> bool:
    """Whether a group's places are all crossings of some values on each axis."""
    return len(place_GA) == int(np.prod([len(np.unique(axis)) for axis in place_GA.T]))


def leg_flows(legs: Sequence[ReductionLeg], paths_of: PathsOf, latency_s: NDArray[np.float64]) -> Flows:
    """The flows of legs that run at once, one leg a group; a flow's latency is that of all its leg's rounds.

    Every device's flows weigh 1 together, so that a reduction beside an all-to-all gets the share of one collective.
    """
    source_F = np.concatenate([leg.source_F for leg in legs])
    target_F = np.concatenate([leg.target_F for leg in legs])
    paths = paths_of(source_F, target_F)
    hop_s = path_sums(paths, latency_s)
    ends = np.cumsum([0] + [len(leg.source_F) for leg in legs])
    latency_F = np.empty(len(source_F))
    for leg, begin, end in zip(legs, ends[:-1], ends[1:], strict=True):
        round_s = hop_s[begin:end].mean() if leg.in_turn else hop_s[begin:end].max()
        latency_F[begin:end] = leg.rounds * round_s
    return Flows(
        source_F=source_F.astype(np.int32),
        target_F=target_F.astype(np.int32),
        bytes_F=np.concatenate([leg.bytes_F for leg in legs]),
        paths=paths,
        latency_F=latency_F,
        weight_F=1.0 / np.bincount(source_F)[source_F],
    )


def side_by_side(parts: Sequence[tuple[ReductionLeg, ...]]) -> list[list[ReductionLeg]]:
    """Leg by leg what several groups do at once; a group with fewer legs is done earlier."""
    most = max((len(legs) for legs in parts), default=0)
    return [[legs[place] for legs in parts if place < len(legs)] for place in range(most)]


def time_reduction(
    algorithm: str,
    operation: Operation,
    groups: Sequence[Group],
    *,
    node_of_device: NDArray[np.integer[Any]],
    paths_of: PathsOf,
    bandwidth: NDArray[np.float64],
    latency_s: NDArray[np.float64],
    coordinate_DA: NDArray[np.integer[Any]] | None = None,
    fidelity: str = "bound",
    tolerance: float = 0.0,
) -> ReductionTime:
    """Run one reduction of all groups at once; legs follow each other, with a barrier of all groups between them.

    Raises UnknownName for an unknown algorithm.
    """
    total_s, link_bytes = 0.0, np.zeros(len(bandwidth))
    for legs in side_by_side(group_legs(algorithm, operation, groups, node_of_device, coordinate_DA)):
        flows = leg_flows(legs, paths_of, latency_s)
        total_s += time_flows(flows, bandwidth, fidelity, tolerance)
        link_bytes += link_load(flows.paths, flows.bytes_F, len(bandwidth))
    return ReductionTime(total_s, link_bytes)


def time_flows(flows: Flows, bandwidth: NDArray[np.float64], fidelity: str, tolerance: float) -> float:
    """Seconds of flows that start together, alone on the links, latency included; 0 where nothing is sent."""
    if not flows.bytes_F.any():
        return 0.0
    if fidelity == "bound":
        return bound_completion(flows, bandwidth)
    paths = flows.paths
    times = simulate_flows(
        bandwidth, paths.offsets, paths.links, flows.bytes_F, weight=flows.weight_F, tolerance=tolerance
    )
    return float((times.finish_s + flows.latency_F).max())
