"""Shape rail_fat_tree: scale-up domains under a tree of leaves, spines and a core, one NIC per device.

A node is a scale-up domain, also where that is a rack (NVL72: 72 devices of 18 hosts are one node). A unit is the
nodes that share their leaves: one leaf per rail, where device i of a node is on rail i mod rails. Leaves that share
spines form a spine group: all leaves of some units, or one rail of them. A core joins spine groups.

Each leaf has ONE link up and one down, with the bandwidth of all its cables. Every cable leads to one of several equal
spines, and traffic is split evenly over them (ECMP), so each cable carries the same share and the bundle is busy
exactly when each cable is: aggregation is exact and saves thousands of links. The same holds for a spine group's links
to the core. Spines and cores themselves never limit. `lanes` counts the cables. With `separate_cables` each cable is a
link of its own, cable c leading to spine c, and a hash seeded by `hash_seed` picks one for each pair of devices: ECMP as
switches do it, collisions included.

Oversubscription of a tier is the NIC bandwidth below it over its bandwidth upwards (0.5 = twice as much up as down).
It holds for every leaf and group, also in a last unit that is only partly filled.

Latencies in the file are end to end between two devices under one leaf, under one spine group, across the core; links
share them out so that the sum along a path is the published figure.
"""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from pydantic import model_validator

from moesim.cluster import Accelerator, Cluster, Device, Index, Link, Tier, TreeLayout
from moesim.errors import InputError
from moesim.topology.facts import Count, CountFact, RateFact, Ratio, RatioFact, Section, Seed, TimeFact
from moesim.topology.header import NodesHeader
from moesim.topology.scale_up import ScaleUp, build_devices, scale_up_pair


class Nic(Section):
    """The network port of one device: `lanes` equal ports of `bandwidth` bytes/s each."""

    lanes: CountFact
    bandwidth: RateFact


class Leaf(Section):
    """A unit of `nodes` nodes shares its leaves, one for each of `rails`; `latency` between devices of one leaf."""

    nodes: CountFact
    rails: CountFact
    latency: TimeFact


class Spine(Section):
    """Spines shared by the leaves of `units` units (all units when absent), by each rail apart with `per_rail`."""

    units: CountFact | None = None
    per_rail: bool = False
    oversubscription: RatioFact
    latency: TimeFact


class Core(Section):
    """The tier that joins spine groups."""

    oversubscription: RatioFact
    latency: TimeFact


class Spec(NodesHeader):
    """A topology file of this shape. `planes`: the rails are separate networks, joined only inside nodes."""

    shape: Literal["rail_fat_tree"]
    scale_up: ScaleUp
    nic: Nic
    leaf: Leaf
    spine: Spine
    core: Core | None = None
    planes: bool = False
    path_policy: str = "rail"

    @model_validator(mode="after")
    def _check(self) -> Self:
        devices, rails = self.scale_up.devices.value, self.leaf.rails.value
        if devices % rails:
            raise ValueError(f"leaf.rails={rails} does not divide scale_up.devices={devices}")
        if self.spine.latency.value < self.leaf.latency.value:
            raise ValueError("spine.latency is smaller than leaf.latency; both are end to end")
        if self.core and self.core.latency.value < self.spine.latency.value:
            raise ValueError("core.latency is smaller than spine.latency; both are end to end")
        return self


class Parameters(Section):
    """What may be asked for beside the file; absent = as the file says."""

    nodes: Count | None = None
    oversubscription: Ratio | None = None  # of the leaves
    core_oversubscription: Ratio | None = None
    path_policy: str | None = None
    separate_cables: bool | None = None
    hash_seed: Seed | None = None


@dataclass(frozen=True, slots=True)
class _Tiers:
    """Which leaf each device is under, which group each leaf, which pod each group, and the devices below each."""

    num_nodes: int
    rail_of_device_D: Index
    leaf_of_device_D: Index
    unit_of_leaf: Index
    rail_of_leaf: Index
    group_of_leaf: Index
    pod_of_group: Index
    rail_of_group: Index  # -1: the group serves all rails
    devices_of_leaf: Index
    devices_of_group: Index


@dataclass(frozen=True, slots=True)
class _Uplinks:
    """First link up, first link down (-1: none) and number of separate links each way, per leaf or group."""

    up: Index
    down: Index
    cables: Index


@dataclass(frozen=True, slots=True)
class _Cabling:
    """What the uplinks of one tier have in common."""

    oversubscription: float
    latency_s: float
    tier: Tier
    separate_cables: bool


def build(spec: Spec, parameters: Parameters, accelerator: Accelerator, sources: tuple[str, ...]) -> Cluster:
    """The cluster of `parameters.nodes` nodes (default the file's); units = ceil(nodes / leaf.nodes), the last partial.

    Raises InputError for more nodes than can be built, or than one spine tier without a core joins.
    """
    devices = build_devices(parameters.nodes or spec.nodes.value, spec.scale_up, accelerator)
    node_D = np.array([device.node for device in devices], dtype=np.int32)
    local_D = np.array([device.local_index for device in devices], dtype=np.int32)
    tiers = _tiers(spec, node_D, local_D)
    links = [link for device in devices for link in (*scale_up_pair(device, spec.scale_up), *_nic_pair(device, spec))]
    first_D = 4 * np.arange(len(devices), dtype=np.int32)
    leaf = _add_leaf_links(links, spec, parameters, tiers)
    group = _add_group_links(links, spec, parameters, tiers)
    layout = TreeLayout(
        node_of_device_D=node_D,
        local_index_D=local_D,
        rail_of_device_D=tiers.rail_of_device_D,
        leaf_of_device_D=tiers.leaf_of_device_D,
        scale_up_out_D=first_D,
        scale_up_in_D=first_D + 1,
        nic_out_D=first_D + 2,
        nic_in_D=first_D + 3,
        unit_of_leaf=tiers.unit_of_leaf,
        group_of_leaf=tiers.group_of_leaf,
        leaf_up=leaf.up,
        leaf_down=leaf.down,
        pod_of_group=tiers.pod_of_group,
        group_up=group.up,
        group_down=group.down,
        leaf_cables=leaf.cables,
        group_cables=group.cables,
        planes=spec.planes,
        hash_seed=parameters.hash_seed or 0,
    )
    policy = parameters.path_policy or spec.path_policy
    return Cluster(spec.name, devices, tuple(links), layout, sources, policy)


def _tiers(spec: Spec, node_D: Index, local_D: Index) -> _Tiers:
    rails, num_nodes = spec.leaf.rails.value, int(node_D[-1]) + 1
    rail_D = local_D % rails
    unit_D = node_D // spec.leaf.nodes.value
    leaf_D = unit_D * rails + rail_D
    num_leaves = int(leaf_D.max()) + 1
    leaf = np.arange(num_leaves, dtype=np.int32)
    unit_of_leaf, rail_of_leaf = leaf // rails, leaf % rails
    num_units = int(unit_of_leaf.max()) + 1
    units_per_pod = spec.spine.units.value if spec.spine.units else num_units
    pods = -(-num_units // units_per_pod)
    by_rail = spec.spine.per_rail or spec.planes
    if pods > 1 and spec.core is None:
        raise InputError(
            f"{spec.name} joins at most {units_per_pod * spec.leaf.nodes.value} nodes (its file has no core tier), "
            f"got nodes={num_nodes}"
        )
    groups_per_pod = rails if by_rail else 1
    group = np.arange(pods * groups_per_pod, dtype=np.int32)
    group_of_leaf = (unit_of_leaf // units_per_pod) * groups_per_pod + (rail_of_leaf if by_rail else 0)
    devices_of_leaf = np.bincount(leaf_D, minlength=num_leaves).astype(np.int32)
    return _Tiers(
        num_nodes=num_nodes,
        rail_of_device_D=rail_D,
        leaf_of_device_D=leaf_D,
        unit_of_leaf=unit_of_leaf,
        rail_of_leaf=rail_of_leaf,
        group_of_leaf=group_of_leaf.astype(np.int32),
        pod_of_group=group // groups_per_pod,
        rail_of_group=group % rails if by_rail else np.full_like(group, -1),
        devices_of_leaf=devices_of_leaf,
        devices_of_group=np.bincount(group_of_leaf, devices_of_leaf, minlength=len(group)).astype(np.int32),
    )


def _nic_pair(device: Device, spec: Spec) -> tuple[Link, Link]:
    lanes, latency_s = spec.nic.lanes.value, spec.leaf.latency.value / 2
    bandwidth = lanes * spec.nic.bandwidth.value
    name = f"node{device.node}.nic{device.local_index}"
    return Link(f"{name}.up", bandwidth, latency_s, "nic", lanes), Link(
        f"{name}.down", bandwidth, latency_s, "nic", lanes
    )


def _add_leaf_links(links: list[Link], spec: Spec, parameters: Parameters, tiers: _Tiers) -> _Uplinks:
    """Uplinks of the leaves, where traffic between nodes can leave a leaf at all."""
    joined = _groups_are_joined(spec, tiers) or int(np.bincount(tiers.group_of_leaf).max()) > 1
    if tiers.num_nodes == 1 or not joined:
        return _no_links(tiers.unit_of_leaf)
    oversubscription = parameters.oversubscription or spec.spine.oversubscription.value
    latency_s = (spec.spine.latency.value - spec.leaf.latency.value) / 2
    names = [f"unit{unit}.leaf{rail}" for unit, rail in zip(tiers.unit_of_leaf, tiers.rail_of_leaf, strict=True)]
    cabling = _Cabling(oversubscription, latency_s, "leaf", bool(parameters.separate_cables))
    return _add_pairs(links, spec.nic, names, tiers.devices_of_leaf, cabling)


def _add_group_links(links: list[Link], spec: Spec, parameters: Parameters, tiers: _Tiers) -> _Uplinks:
    """Links of spine groups to the core, where there is more than one group that can reach another."""
    if parameters.core_oversubscription and spec.core is None:
        raise InputError(f"core_oversubscription is given, but {spec.name} has no core tier")
    if spec.core is None or tiers.num_nodes == 1 or not _groups_are_joined(spec, tiers):
        return _no_links(tiers.pod_of_group)
    oversubscription = parameters.core_oversubscription or spec.core.oversubscription.value
    latency_s = (spec.core.latency.value - spec.spine.latency.value) / 2
    names = [
        f"pod{pod}" if rail < 0 else f"pod{pod}.rail{rail}"
        for pod, rail in zip(tiers.pod_of_group, tiers.rail_of_group, strict=True)
    ]
    cabling = _Cabling(oversubscription, latency_s, "pod", bool(parameters.separate_cables))
    return _add_pairs(links, spec.nic, names, tiers.devices_of_group, cabling)


def _groups_are_joined(spec: Spec, tiers: _Tiers) -> bool:
    """Whether some spine group can reach another: planes meet no other plane, only their own groups in other pods."""
    num_pods = int(tiers.pod_of_group.max()) + 1
    return num_pods > 1 if spec.planes else len(tiers.pod_of_group) > 1


def _add_pairs(links: list[Link], nic: Nic, names: list[str], devices_below: Index, cabling: _Cabling) -> _Uplinks:
    up: list[int] = []
    down: list[int] = []
    separate: list[int] = []
    for name, num_devices in zip(names, devices_below.tolist(), strict=True):
        cables = num_devices * nic.lanes.value / cabling.oversubscription
        bandwidth, lanes = cables * nic.bandwidth.value, max(1, round(cables))
        for way, first in (("up", up), ("down", down)):
            first.append(len(links))
            if cabling.separate_cables:
                links += [
                    Link(f"{name}.cable{cable}.{way}", bandwidth / lanes, cabling.latency_s, cabling.tier)
                    for cable in range(lanes)
                ]
            else:
                links.append(Link(f"{name}.{way}", bandwidth, cabling.latency_s, cabling.tier, lanes))
        separate.append(lanes if cabling.separate_cables else 1)
    return _Uplinks(*(np.array(column, dtype=np.int32) for column in (up, down, separate)))


def _no_links(like: Index) -> _Uplinks:
    none = np.full_like(like, -1)
    return _Uplinks(none, none, np.ones_like(like))
