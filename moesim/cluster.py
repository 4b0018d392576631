"""Cluster: devices, the links between them, and how both are laid out.

Array letters: D device. A link is one direction; rates are bytes/s, times seconds, sizes bytes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError, unknown_name

Tier = Literal["scale_up", "ici", "nic", "leaf", "pod", "core", "local", "global", "dcn"]
TIERS: tuple[str, ...] = get_args(Tier)
Index = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What one kind of device can do: dense peak FLOP/s by dtype (bf16, fp8, fp4, int8), memory and its rate.

    `achievable` holds published sustained rates under the names of the peaks they belong to (`bf16_flops_per_s`,
    `memory_bytes_per_s`, `scale_up_bytes_per_s`, `nic_bytes_per_s`); nothing uses them unless it asks for them.
    """

    name: str
    flops_per_s: Mapping[str, float]
    memory_bytes: float
    memory_bytes_per_s: float
    num_sms: int | None = None
    achievable: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, value in (
            ("memory_bytes", self.memory_bytes),
            ("memory_bytes_per_s", self.memory_bytes_per_s),
        ):
            _require_positive(f"accelerator {self.name}: {what}", value)
        for dtype, rate in self.flops_per_s.items():
            _require_positive(f"accelerator {self.name}: {dtype} FLOP/s", rate)


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator in its place: `node` is its scale-up domain, `local_index` its position there.

    `speed` multiplies its compute rates (1 = as specified, 0.5 = half as fast).
    """

    name: str
    index: int
    node: int
    local_index: int
    accelerator: Accelerator
    speed: float = 1.0
    memory_bytes: float = math.nan

    def __post_init__(self) -> None:
        if math.isnan(self.memory_bytes):
            object.__setattr__(self, "memory_bytes", self.accelerator.memory_bytes)
        _require_positive(f"device {self.name}: memory_bytes", self.memory_bytes)
        _require_positive(f"device {self.name}: speed", self.speed)


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a connection; `lanes` counts the equal cables or ports it bundles (bandwidth is their sum)."""

    name: str
    bandwidth_bytes_per_s: float
    latency_s: float
    tier: Tier
    lanes: int = 1

    def __post_init__(self) -> None:
        _require_positive(f"link {self.name}: bandwidth_bytes_per_s", self.bandwidth_bytes_per_s)
        if not 0.0 <= self.latency_s < math.inf:
            raise InputError(f"link {self.name}: latency_s must be 0 or more and finite, got {self.latency_s!r}")
        if self.lanes < 1:
            raise InputError(f"link {self.name}: lanes must be 1 or more, got {self.lanes!r}")
        if self.tier not in TIERS:
            raise unknown_name("link tier", self.tier, TIERS)


@dataclass(frozen=True, slots=True, eq=False)
class TreeLayout:
    """Where devices and links sit in a tree of scale-up domains, leaves, spine groups and a core.

    Link arrays hold link indices, -1 where there is no such link. A spine group is a set of leaves that share spines
    (a pod, or one rail of it); even-split ECMP over its equal spines is one `leaf_up` and one `leaf_down` per leaf.
    Group links go to the core. With `planes` the rails are separate networks: only a relay inside a node joins them.
    Where `leaf_cables` (`group_cables`) is more than 1, the cables of a leaf (group) are so many links of their own with
    following indices, of which a seeded hash picks one for each pair of devices.
    """

    node_of_device_D: Index
    local_index_D: Index
    rail_of_device_D: Index
    leaf_of_device_D: Index
    scale_up_out_D: Index
    scale_up_in_D: Index
    nic_out_D: Index
    nic_in_D: Index
    unit_of_leaf: Index
    group_of_leaf: Index
    leaf_up: Index
    leaf_down: Index
    pod_of_group: Index
    group_up: Index
    group_down: Index
    leaf_cables: Index
    group_cables: Index
    planes: bool = False
    hash_seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class TorusLayout:
    """Chips on a grid of A axes, `slices` times over; a port P of a chip is 2 x axis, and one more for the - direction.

    `twist_AA[a]` is added to the coordinates of a chip whose + link on axis a wraps around. `chip_at` holds device
    indices by slice and then coordinates, last axis fastest. `link_DP` and `neighbor_DP` are -1 where a port is unused.
    Slices are joined by one `dcn` link up and one down per node, both empty for one slice.
    """

    lengths: tuple[int, ...]
    wraps: tuple[bool, ...]
    twist_AA: Index
    slice_of_device_D: Index
    coordinate_DA: Index
    chip_at: Index
    link_DP: Index
    neighbor_DP: Index
    dcn_up_N: Index
    dcn_down_N: Index
    hash_seed: int = 0

    @property
    def num_slices(self) -> int:
        """How often the grid is there."""
        return len(self.chip_at) // math.prod(self.lengths)


@dataclass(frozen=True, slots=True, eq=False)
class DragonflyLayout:
    """Switches in groups: all switches of a group are joined (`local_SK[s, k]`: to the k-th of its group, -1 itself).

    Global links from group g to group h are entries global_offsets[g x G + h] to the next of `global_links`, each from
    switch `global_from` to switch `global_to`. Devices of a node meet over scale-up links, others over their NICs.
    """

    scale_up_out_D: Index
    scale_up_in_D: Index
    nic_out_D: Index
    nic_in_D: Index
    switch_of_device_D: Index
    group_of_switch: Index
    place_in_group: Index
    local_SK: Index
    global_offsets: Index
    global_links: Index
    global_from: Index
    global_to: Index
    hash_seed: int = 0

    @property
    def num_groups(self) -> int:
        """Number of groups, G."""
        return int(self.group_of_switch[-1]) + 1


@dataclass(frozen=True, slots=True, eq=False)
class GraphLayout:
    """Any wiring: vertices 0..D-1 are the devices, the others switches; links of vertex v leave by CSR.

    `links[offsets[v]:offsets[v + 1]]` lead to the vertices in `targets` at the same places.
    """

    vertex_names: tuple[str, ...]
    offsets: Index
    links: Index
    targets: Index
    hash_seed: int = 0


Layout = TreeLayout | TorusLayout | DragonflyLayout | GraphLayout


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """Devices, links and their layout; built once by a topology shape, then only read.

    `sources` says where every number came from, one line each. `default_path_policy` names a part of
    moesim/network/paths/.
    """

    name: str
    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    layout: Layout
    sources: tuple[str, ...] = ()
    default_path_policy: str = "rail"
    num_nodes: int = field(init=False)
    node_of_device_D: Index = field(init=False, repr=False)
    link_bandwidth: NDArray[np.float64] = field(init=False, repr=False)
    link_latency_s: NDArray[np.float64] = field(init=False, repr=False)
    _index_of_link: Mapping[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.devices:
            raise InputError(f"cluster {self.name} has no devices; it needs at least one")
        node_of_device_D = np.array([device.node for device in self.devices], dtype=np.int32)
        nodes = np.unique(node_of_device_D)
        if not np.array_equal(nodes, np.arange(len(nodes))):
            raise InputError(f"cluster {self.name}: nodes must be numbered 0..{len(nodes) - 1} without gaps")
        if any(device.index != place for place, device in enumerate(self.devices)):
            raise InputError(f"cluster {self.name}: devices must be listed in the order of their index")
        index_of_link = {link.name: index for index, link in enumerate(self.links)}
        if len(index_of_link) != len(self.links):
            raise InputError(f"cluster {self.name}: link names must differ from each other")
        derived = {
            "num_nodes": len(nodes),
            "node_of_device_D": node_of_device_D,
            "link_bandwidth": np.array([link.bandwidth_bytes_per_s for link in self.links], dtype=np.float64),
            "link_latency_s": np.array([link.latency_s for link in self.links], dtype=np.float64),
            "_index_of_link": index_of_link,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def num_devices(self) -> int:
        """Number of devices, over all nodes."""
        return len(self.devices)

    @property
    def devices_per_node(self) -> int:
        """Devices in every node; raises InputError where nodes differ."""
        counts = np.bincount(self.node_of_device_D)
        if counts.min() != counts.max():
            raise InputError(
                f"cluster {self.name}: nodes hold {counts.min()} to {counts.max()} devices, not one number"
            )
        return int(counts[0])

    def link_index(self, name: str) -> int:
        """Index of the link `name`; raises UnknownName with the nearest known link."""
        if name not in self._index_of_link:
            raise unknown_name("link", name, self._index_of_link)
        return self._index_of_link[name]


def _require_positive(what: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise InputError(f"{what} must be more than 0 and finite, got {value!r}")
