"""ASTRA-sim's view of a cluster: dimensions of its network, innermost first, and the id of every device in them.

Array letters: D device, A torus axis.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import Cluster, TorusLayout, TreeLayout
from moesim.collective.schedule import path_latency
from moesim.errors import InputError
from moesim.network.paths import split_paths


@dataclass(frozen=True, slots=True)
class Dimension:
    """One dimension of its network: bandwidth in bytes/s of one device's link, latency of one link in seconds.

    A switch is two links away from every device: it delays twice.
    """

    kind: str  # Ring, FullyConnected or Switch
    count: int
    bandwidth_bytes_per_s: float
    latency_s: float


def npu_of_device(cluster: Cluster) -> NDArray[np.int64]:
    """The id ASTRA-sim gives each device [D]: first dimension fastest; devices of a torus are listed by host instead."""
    layout = cluster.layout
    if not isinstance(layout, TorusLayout):
        return np.arange(cluster.num_devices)
    strides_A = np.concatenate([[1], np.cumprod(layout.lengths)])
    npu_D: NDArray[np.int64] = layout.coordinate_DA @ strides_A[:-1] + layout.slice_of_device_D * strides_A[-1]
    return npu_D


def dimensions(cluster: Cluster) -> tuple[list[Dimension], tuple[str, ...]]:
    """Dimensions of more than one device, and what they leave out; raises InputError for other shapes."""
    layout = cluster.layout
    if isinstance(layout, TorusLayout):
        found, notes = _torus(cluster, layout)
    elif isinstance(layout, TreeLayout):
        found, notes = _tree(cluster, layout)
    else:
        raise InputError(
            f"astra-sim builds networks of rings, switches and full connections, one inside the other; {cluster.name} "
            "(dragonfly or graph) is none of them"
        )
    found = [dimension for dimension in found if dimension.count > 1]
    if not found:
        raise InputError(f"astra-sim needs at least two devices; {cluster.name} has {cluster.num_devices}")
    return found, tuple(notes)


def _tree(cluster: Cluster, layout: TreeLayout) -> tuple[list[Dimension], list[str]]:
    per_node, nodes = cluster.devices_per_node, cluster.num_nodes
    parts: list[Dimension] = []
    if per_node > 1:
        parts.append(Dimension("Switch", per_node, _slowest(cluster, layout.scale_up_out_D), _latency(cluster, 1)))
    if nodes > 1:
        last = (nodes - 1) * per_node
        parts.append(Dimension("Switch", nodes, _slowest(cluster, layout.nic_out_D), _latency(cluster, last)))
    notes = ["links that leaves and spines share are one ideal switch in ASTRA-sim: oversubscription is left out"]
    return parts, notes if nodes > 1 else []


def _torus(cluster: Cluster, layout: TorusLayout) -> tuple[list[Dimension], list[str]]:
    parts, notes = [], []
    for axis, length in enumerate(layout.lengths):
        links = layout.link_DP[:, 2 * axis]
        if length > 1:
            first = int(links[links >= 0][0])
            latency_s = float(cluster.link_latency_s[first])
            parts.append(Dimension("Ring", length, _slowest(cluster, links), latency_s))
            if not layout.wraps[axis]:
                notes.append(f"axis {axis} does not wrap around, and ASTRA-sim has rings only: its times are too short")
    if np.any(layout.twist_AA):
        notes.append("the twist of the wrap-around links is left out")
    if layout.num_slices > 1:
        up = int(layout.dcn_up_N[0])
        each = float(cluster.link_bandwidth[up]) / cluster.devices_per_node
        parts.append(Dimension("Switch", layout.num_slices, each, float(cluster.link_latency_s[up])))
    return parts, notes


def _slowest(cluster: Cluster, links: NDArray[np.int32]) -> float:
    """Bandwidth of the slowest of these links, those that are there; raises InputError where none is."""
    there = links[links >= 0]
    if not there.size:
        raise InputError(f"{cluster.name} has devices without links of their own, which astra-sim cannot express")
    return float(cluster.link_bandwidth[there].min())


def _latency(cluster: Cluster, target: int) -> float:
    """Seconds of each of the two links through a switch: half the path from device 0 to device `target`."""
    ends = np.array([0]), np.array([target])
    paths = split_paths(cluster.default_path_policy, cluster, *ends).paths
    return float(path_latency(paths, cluster.link_latency_s).max()) / 2
