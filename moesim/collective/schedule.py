"""Collective: the flows of one dispatch or combine, ready for a fabric, and CollectiveBuilder, which makes them.

Array letters: F flow, D rank (device), G group, W wait.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.calibration import KernelProfile, Operation
from moesim.cluster import Cluster, Device
from moesim.collective.algorithms import algorithms
from moesim.collective.kernel_cost import kernel_cost_s
from moesim.collective.leg import Leg, Legs
from moesim.collective.link_table import COPY_ENGINE, OPERATIONS, LinkTable
from moesim.collective.stand_ins import stand_ins, through
from moesim.network.detours import Detours
from moesim.network.flow import Flows, Paths
from moesim.network.paths import SplitPaths, split_paths
from moesim.traffic import TrafficCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """Flows that start when their starter arrives, and whom their end releases.

    A flow belongs to one group; rank r may go on `extra_s` after every group in
    waits_groups[waits_offsets[r]:waits_offsets[r+1]] has ended.
    """

    flows: Flows
    starter_F: NDArray[np.int32]
    group_F: NDArray[np.int32]
    num_ranks: int
    waits_offsets: NDArray[np.int64]
    waits_groups: NDArray[np.int32]
    fixed_s: float
    chunk_s: float

    @property
    def extra_s(self) -> float:
        """Seconds on top of the flows: the kernel's fixed cost, and one chunk of the second pipelined leg."""
        return self.fixed_s + self.chunk_s


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveBuilder:
    """Turns counted traffic into collectives; one per run, holding what does not change between layers.

    `detours` leads flows round dead links; `dead_devices` neither send, receive nor relay. `device_of_rank` are the devices
    of the ranks where those are not all devices of the cluster in order: some of them, `stride` apart inside a group.
    `experts`: slots of one group, for kernels whose cost grows with them; 0 where it is not known.
    """

    cluster: Cluster
    links: LinkTable
    kernel: KernelProfile
    algorithm: str
    path_policy: str
    group_size: int
    bytes_per_copy: dict[Operation, int]
    detours: Detours | None = None
    dead_devices: tuple[int, ...] = ()
    device_of_rank: NDArray[np.int64] | None = None
    stride: int = 1
    experts: int = 0

    @property
    def num_ranks(self) -> int:
        """Ranks that take part, one per device."""
        return self.cluster.num_devices if self.device_of_rank is None else len(self.device_of_rank)

    @property
    def devices(self) -> tuple[Device, ...]:
        """The device of each rank."""
        if self.device_of_rank is None:
            return self.cluster.devices
        return tuple(self.cluster.devices[device] for device in self.device_of_rank.tolist())

    @property
    def devices_per_node(self) -> int:
        """Devices of one expert-parallel group that share a node."""
        return min(max(self.cluster.devices_per_node // self.stride, 1), self.group_size)

    def build(self, traffic_G: tuple[TrafficCounts, ...], operation: Operation) -> Collective:
        """The collective of all expert-parallel groups; group g holds the devices from g x group_size on."""
        num_ranks = self.num_ranks
        make_legs = algorithms.get(self.algorithm)
        back = operation == "combine"
        legs_G: list[Legs] = [make_legs(traffic, self.devices_per_node, back=back) for traffic in traffic_G]
        first_D = [g * self.group_size for g in range(len(traffic_G))]
        if self.dead_devices:
            legs_G = [through(legs, self.stand_ins_of(first)) for legs, first in zip(legs_G, first_D, strict=True)]
        parts = [_join([legs.legs[i] for legs in legs_G], first_D) for i in range(len(legs_G[0].legs))]
        flows, leg_F = self.flows(parts, operation)
        group_F = flows.target_F + leg_F * num_ranks
        waits_W = np.concatenate(
            [legs.waits_W + np.array([first, 0, first]) for legs, first in zip(legs_G, first_D, strict=True)]
        )
        dense_group_F, offsets, groups = _waits(waits_W, group_F, num_ranks)
        return Collective(
            flows=flows,
            starter_F=flows.source_F,
            group_F=dense_group_F,
            num_ranks=num_ranks,
            waits_offsets=offsets,
            waits_groups=groups,
            fixed_s=self.kernel_s(flows, operation),
            chunk_s=self._chunk_s(operation, len(parts)),
        )

    def fixed_s(self, operation: Operation) -> float:
        """The kernel's fixed cost at this group's size, seconds."""
        curve = self.kernel.operation(operation).fixed_s
        return curve.read(self._count(curve.against))

    def kernel_s(
        self, flows: Flows, operation: Operation, *, copy_bytes: float | None = None, experts: int | None = None
    ) -> float:
        """What the kernel costs beside its flows, seconds; for other copies or experts than the builder's if given."""
        profile = self.kernel.operation(operation)
        floor_s = profile.floor_s.read(self._count(profile.floor_s.against)) if profile.floor_s is not None else 0.0
        return kernel_cost_s(
            profile,
            flows,
            self.links.bandwidth,
            self.fixed_s(operation),
            floor_s,
            copy_bytes=self.bytes_per_copy[operation] if copy_bytes is None else copy_bytes,
            experts=self.experts if experts is None else experts,
            ranks=self.group_size,
        )

    def extrapolated(self) -> list[str]:
        """One sentence per cost that is read outside its published range."""
        sentences = []
        for operation in OPERATIONS:
            profile = self.kernel.operation(operation)
            for what, curve in (("fixed cost", profile.fixed_s), ("floor", profile.floor_s)):
                count = self._count(curve.against) if curve is not None else 0
                if curve is not None and len(curve.at) > 1 and not curve.covers(count):
                    low, high = curve.valid_range
                    sentences.append(
                        f"{what} of {operation} is extrapolated to {count} {curve.against} "
                        f"(published: {low:g} to {high:g})"
                    )
        return sentences

    def _count(self, against: str) -> int:
        return self.group_size if against == "ranks" else max(self.group_size // self.devices_per_node, 1)

    def _chunk_s(self, operation: Operation, num_legs: int) -> float:
        """Time of one chunk on the slowest NIC (or other link): what the second leg lags behind when both legs overlap."""
        if num_legs < 2 or self._count("nodes") < 2:
            return 0.0
        tiers = np.array(self.links.tiers)
        between = tiers == "nic" if "nic" in self.links.tiers else tiers != COPY_ENGINE  # a torus has no NICs
        slowest = float(self.links.bandwidth[between].min())
        return self.kernel.chunk_tokens.value * self.bytes_per_copy[operation] / slowest

    def flows(self, parts: list[Leg], operation: Operation) -> tuple[Flows, NDArray[np.int64]]:
        """Flows of all legs and the leg of each; a flow that the path policy spreads over several paths is several flows."""
        splits = [split_paths(self.path_policy, self.cluster, *self._ends(part)) for part in parts]
        legs = [_spread(part, split) for part, split in zip(parts, splits, strict=True)]
        paths = join_paths(
            [self._leg_paths(leg, operation, split.paths) for leg, split in zip(legs, splits, strict=True)]
        )
        weights = [
            _equal_weights(part.source_F)[split.flow_P] * split.share_P
            for part, split in zip(parts, splits, strict=True)
        ]
        flows = Flows(
            source_F=np.concatenate([leg.source_F for leg in legs]).astype(np.int32),
            target_F=np.concatenate([leg.target_F for leg in legs]).astype(np.int32),
            bytes_F=np.concatenate([leg.copies_F for leg in legs]) * float(self.bytes_per_copy[operation]),
            paths=paths,
            latency_F=path_latency(paths, self.links.latency_s),
            weight_F=np.concatenate(weights),
        )
        return flows, np.repeat(np.arange(len(legs)), [len(leg.source_F) for leg in legs])

    def stand_ins_of(self, first: int) -> NDArray[np.int64]:
        """The stand-in of each device of the group that starts at device `first`, numbered inside the group."""
        dead_D = np.isin(np.arange(first, first + self.group_size), self.dead_devices)
        return stand_ins(dead_D, self.devices_per_node, self.group_size)

    def _leg_paths(self, leg: Leg, operation: Operation, paths: Paths) -> Paths:
        if self.detours is not None:
            paths = self.detours.around(paths, *self._ends(leg))
        out, into = self.links.engine_out[operation], self.links.engine_in[operation]
        if not leg.engine or out is None or into is None:
            return paths
        source_F, target_F = self._ends(leg)
        return with_ends(paths, out + source_F, into + target_F)

    def _ends(self, leg: Leg) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The devices a leg's flows leave and reach."""
        if self.device_of_rank is None:
            return leg.source_F, leg.target_F
        return self.device_of_rank[leg.source_F], self.device_of_rank[leg.target_F]


def _equal_weights(source_F: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights that give every sender the same total in one leg, so that many flows do not starve one."""
    if len(source_F) == 0:
        return np.zeros(0)
    result: NDArray[np.float64] = 1.0 / np.bincount(source_F)[source_F]
    return result


def _spread(leg: Leg, split: SplitPaths) -> Leg:
    """One flow per path, with its share of the copies."""
    return Leg(
        source_F=leg.source_F[split.flow_P],
        target_F=leg.target_F[split.flow_P],
        copies_F=leg.copies_F[split.flow_P] * split.share_P,
        engine=leg.engine,
    )


def _join(legs: list[Leg], first_D: list[int]) -> Leg:
    pairs = list(zip(legs, first_D, strict=True))
    return Leg(
        source_F=np.concatenate([leg.source_F + first for leg, first in pairs]),
        target_F=np.concatenate([leg.target_F + first for leg, first in pairs]),
        copies_F=np.concatenate([leg.copies_F for leg in legs]),
        engine=legs[0].engine,
    )


def _waits(
    waits_W: NDArray[np.int64], group_F: NDArray[np.int64], num_ranks: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
    """Groups renumbered 0..G-1 in order, and rank -> groups as offsets and ids; groups without flows are dropped."""
    num_groups = max(int(group_F.max(initial=-1)), int(waits_W[:, 1].max(initial=0) + 1) * num_ranks) + 1
    flows_G = np.bincount(group_F, minlength=num_groups)
    dense_G = np.cumsum(flows_G > 0) - 1  # counting, since sorting a million flows takes longer than all else here
    num_present = max(int(dense_G[-1]) + 1, 1)
    wanted_W = waits_W[:, 1] * num_ranks + waits_W[:, 2]
    kept = flows_G[wanted_W] > 0
    # One number a pair: sorts ten times faster than rows. Sorted by hand: np.unique hashes first, which costs as much again.
    keys = np.sort(waits_W[kept, 0] * num_present + dense_G[wanted_W[kept]])
    keys = keys[np.diff(keys, prepend=-1) > 0]
    rank_of_pair, group_of_pair = np.divmod(keys, num_present)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rank_of_pair, minlength=num_ranks))]).astype(np.int64)
    return dense_G[group_F].astype(np.int32), offsets, group_of_pair.astype(np.int32)


def join_paths(parts: list[Paths]) -> Paths:
    """The paths of several parts, one after the other."""
    ends = np.cumsum([0] + [int(part.offsets[-1]) for part in parts])
    offsets = [part.offsets[1:] + end for part, end in zip(parts, ends, strict=False)]
    return Paths(
        offsets=np.concatenate([np.zeros(1, dtype=np.int64), *offsets]),
        links=np.concatenate([part.links for part in parts]).astype(np.int32),
    )


def with_ends(paths: Paths, first_F: NDArray[np.int64], last_F: NDArray[np.int64]) -> Paths:
    """Every path with one link put before and one behind it."""
    num_flows = len(first_F)
    offsets = paths.offsets + 2 * np.arange(num_flows + 1, dtype=np.int64)
    links = np.empty(int(offsets[-1]), dtype=np.int32)
    inner = np.ones(len(links), dtype=bool)
    inner[offsets[:-1]] = False
    inner[offsets[1:] - 1] = False
    links[offsets[:-1]], links[offsets[1:] - 1] = first_F, last_F
    links[inner] = paths.links
    return Paths(offsets=offsets, links=links)


def path_latency(paths: Paths, latency_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of the link latencies along each path, seconds."""
    num_flows = len(paths.offsets) - 1
    flow_of_link = np.repeat(np.arange(num_flows), np.diff(paths.offsets))
    return np.bincount(flow_of_link, weights=latency_s[paths.links], minlength=num_flows).astype(np.float64, copy=False)
