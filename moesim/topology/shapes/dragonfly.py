"""Shape dragonfly: groups of switches, all joined inside a group, and groups joined in pairs by global links.

A node's devices meet over scale-up links, and each has a NIC on a switch of its group: devices fill the switches of a
group in order. Every two switches of a group have one link each way (`lanes` cables), every two groups `per_pair` global
links each way, dealt over the switches of a group one after the other. The last group may be partly filled; its switches
and links are all there.

Latencies in the file are end to end: between two devices of one switch (`nic`), what one more switch inside the group
adds (`local`), and what the way to another group adds (`global`).
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from moesim.cluster import Accelerator, Cluster, Device, DragonflyLayout, Index, Link, Tier
from moesim.errors import InputError
from moesim.topology.facts import Count, CountFact, RateFact, Section, Seed, TimeFact
from moesim.topology.header import NodesHeader
from moesim.topology.scale_up import ScaleUp, build_devices, scale_up_pair

LARGEST_NUM_LINKS = 2_000_000


class Nic(Section):
    """The network port of one device and the latency between two devices of one switch."""

    bandwidth: RateFact
    latency: TimeFact


class Group(Section):
    """Nodes and switches of one group."""

    nodes: CountFact
    switches: CountFact


class Local(Section):
    """The link between two switches of a group: `lanes` cables of `bandwidth` bytes/s, one direction."""

    lanes: CountFact
    bandwidth: RateFact
    latency: TimeFact


class GlobalLinks(Section):
    """The links between two groups: `per_pair` of them, each of `bandwidth` bytes/s, one direction."""

    per_pair: CountFact
    bandwidth: RateFact
    latency: TimeFact


class Spec(NodesHeader):
    """A topology file of this shape."""

    shape: Literal["dragonfly"]
    scale_up: ScaleUp
    nic: Nic
    group: Group
    local: Local
    global_links: GlobalLinks = Field(alias="global")
    path_policy: str = "minimal_adaptive"

    @model_validator(mode="after")
    def _check(self) -> Self:
        devices = self.group.nodes.value * self.scale_up.devices.value
        if devices < self.group.switches.value:
            raise ValueError(
                f"group.switches={self.group.switches.value} is more than the {devices} devices of a group"
            )
        return self


class Parameters(Section):
    """What may be asked for beside the file; absent = as the file says."""

    nodes: Count | None = None
    global_per_pair: Count | None = None
    hash_seed: Seed | None = None
    path_policy: str | None = None


def build(spec: Spec, parameters: Parameters, accelerator: Accelerator, sources: tuple[str, ...]) -> Cluster:
    """The cluster of `parameters.nodes` nodes (default the file's) in groups of `group.nodes`, the last partial.

    Raises InputError for more devices or links than are built.
    """
    devices = build_devices(parameters.nodes or spec.nodes.value, spec.scale_up, accelerator)
    num_groups = devices[-1].node // spec.group.nodes.value + 1
    per_pair = parameters.global_per_pair or spec.global_links.per_pair.value
    _check_size(spec, len(devices), num_groups, per_pair)
    links = [
        link for device in devices for link in (*scale_up_pair(device, spec.scale_up), *_nic_pair(device, spec.nic))
    ]
    first_D = 4 * np.arange(len(devices), dtype=np.int32)
    switches = spec.group.switches.value
    local_SK = _add_local(links, spec.local, num_groups, switches)
    between, global_from, global_to, global_links = _add_global(
        links, spec.global_links, num_groups, switches, per_pair
    )
    layout = DragonflyLayout(
        scale_up_out_D=first_D,
        scale_up_in_D=first_D + 1,
        nic_out_D=first_D + 2,
        nic_in_D=first_D + 3,
        switch_of_device_D=_switch_of_device(spec, len(devices)),
        group_of_switch=np.arange(num_groups * switches, dtype=np.int32) // switches,
        place_in_group=np.arange(num_groups * switches, dtype=np.int32) % switches,
        local_SK=local_SK,
        global_offsets=between,
        global_links=global_links,
        global_from=global_from,
        global_to=global_to,
        hash_seed=parameters.hash_seed or 0,
    )
    policy = parameters.path_policy or spec.path_policy
    return Cluster(spec.name, devices, tuple(links), layout, sources, policy)


def _check_size(spec: Spec, num_devices: int, num_groups: int, per_pair: int) -> None:
    local = num_groups * spec.group.switches.value * (spec.group.switches.value - 1)
    total = 4 * num_devices + local + num_groups * (num_groups - 1) * per_pair
    if total > LARGEST_NUM_LINKS:
        raise InputError(
            f"{spec.name}: {num_groups} groups of {spec.group.switches.value} switches with {per_pair} global links a pair "
            f"have {total} links; at most {LARGEST_NUM_LINKS} are built"
        )


def _nic_pair(device: Device, nic: Nic) -> tuple[Link, Link]:
    name, rate, latency_s = f"node{device.node}.nic{device.local_index}", nic.bandwidth.value, nic.latency.value / 2
    return Link(f"{name}.up", rate, latency_s, "nic"), Link(f"{name}.down", rate, latency_s, "nic")


def _switch_of_device(spec: Spec, num_devices: int) -> Index:
    """Devices of a group fill its switches in order, as evenly as their number allows."""
    per_group, switches = spec.group.nodes.value * spec.scale_up.devices.value, spec.group.switches.value
    group_D, place_D = np.divmod(np.arange(num_devices), per_group)
    return np.asarray(group_D * switches + place_D * switches // per_group, dtype=np.int32)


def _add_local(links: list[Link], local: Local, num_groups: int, switches: int) -> Index:
    local_SK = np.full((num_groups * switches, switches), -1, dtype=np.int32)
    tier: Tier = "local"
    rate, lanes = local.lanes.value * local.bandwidth.value, local.lanes.value
    for switch in range(num_groups * switches):
        group, place = divmod(switch, switches)
        for other in range(switches):
            if other != place:
                local_SK[switch, other] = len(links)
                links.append(Link(f"group{group}.switch{place}.to{other}", rate, local.latency.value, tier, lanes))
    return local_SK


def _add_global(
    links: list[Link], spec: GlobalLinks, num_groups: int, switches: int, per_pair: int
) -> tuple[Index, Index, Index, Index]:
    """Global links of each ordered pair of groups: offsets, and switch at either end and link of each."""
    ends: list[tuple[int, int, int]] = []
    offsets = [0]
    for group in range(num_groups):
        for other in range(num_groups):
            for number in range(per_pair if group != other else 0):
                leave = group * switches + _port(group, other, per_pair, number) % switches
                arrive = other * switches + _port(other, group, per_pair, number) % switches
                ends.append((leave, arrive, len(links)))
                name = f"group{group}.global{number}.to{other}"
                links.append(Link(name, spec.bandwidth.value, spec.latency.value, "global"))
            offsets.append(len(ends))
    columns = np.array(ends, dtype=np.int32).reshape(-1, 3)
    return np.array(offsets, dtype=np.int32), columns[:, 0], columns[:, 1], columns[:, 2]


def _port(group: int, other: int, per_pair: int, number: int) -> int:
    """The place of a link among all global links of its group."""
    return (other - (other > group)) * per_pair + number
