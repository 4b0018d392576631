"""How far and how wide dragonflies and graphs are: diameter, and what can flow from one half of the nodes to the other.

Array letters: V vertex, E link between two vertices, D device.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow, shortest_path

from moesim.cluster import Cluster, DragonflyLayout, GraphLayout

LARGEST_SEARCH = 4096  # devices from which all distances are found
LARGEST_CUT = 200_000  # links through which the largest flow is found
_LARGEST_COUNT = 2_000_000_000  # what scipy can count


@dataclass(frozen=True, slots=True)
class _Pipes:
    """Capacities between vertices, and of what each vertex sends and takes, bytes/s."""

    from_E: NDArray[Any]
    to_E: NDArray[Any]
    capacity_E: NDArray[np.float64]
    sends_V: NDArray[Any]
    takes_V: NDArray[Any]


def dragonfly_bisection(cluster: Cluster, layout: DragonflyLayout) -> float | None:
    """What the NICs of the first half of the nodes can send to the second half; for one node as for a tree."""
    bandwidth = cluster.link_bandwidth
    if cluster.num_nodes == 1:
        half = cluster.num_devices // 2
        return float(np.sort(bandwidth[layout.scale_up_out_D])[:half].sum()) if half else None
    first_D = cluster.node_of_device_D < cluster.num_nodes // 2
    num_switches = len(layout.group_of_switch)
    switch, place = np.nonzero(layout.local_SK >= 0)
    per_group = layout.local_SK.shape[1]
    links = np.concatenate([layout.local_SK[switch, place], layout.global_links])
    nic_D, switch_D = bandwidth[layout.nic_out_D], layout.switch_of_device_D
    return _largest_flow(
        _Pipes(
            from_E=np.concatenate([switch, layout.global_from]),
            to_E=np.concatenate([switch // per_group * per_group + place, layout.global_to]),
            capacity_E=bandwidth[links],
            sends_V=np.bincount(switch_D, nic_D * first_D, minlength=num_switches),
            takes_V=np.bincount(switch_D, nic_D * ~first_D, minlength=num_switches),
        )
    )


def graph_bisection(cluster: Cluster, layout: GraphLayout) -> float | None:
    """What the devices of the first half of the nodes (of one node: its devices) can send to the others."""
    if cluster.num_devices == 1:
        return None
    unit_D = cluster.node_of_device_D if cluster.num_nodes > 1 else np.arange(cluster.num_devices)
    num_vertices = len(layout.vertex_names)
    first_V = np.zeros(num_vertices, dtype=bool)
    first_V[: cluster.num_devices] = unit_D < (int(unit_D[-1]) + 1) // 2
    second_V = ~first_V
    second_V[cluster.num_devices :] = False
    from_E = np.repeat(np.arange(num_vertices), np.diff(layout.offsets))
    capacity_E = cluster.link_bandwidth[layout.links]
    return _largest_flow(
        _Pipes(
            from_E=from_E,
            to_E=layout.targets,
            capacity_E=capacity_E,
            sends_V=np.bincount(from_E, capacity_E, minlength=num_vertices) * first_V,
            takes_V=np.bincount(layout.targets, capacity_E, minlength=num_vertices) * second_V,
        )
    )


def dragonfly_diameter(cluster: Cluster, layout: DragonflyLayout) -> int:
    """Most links on a minimal path: two inside a node or switch, one more inside a group, up to three more beyond."""
    if cluster.num_nodes == 1:
        return 2 if cluster.num_devices > 1 else 0
    switch_D = layout.switch_of_device_D
    used = np.unique(switch_D)
    groups = layout.group_of_switch[used]
    if groups[0] == groups[-1]:
        return 3 if len(used) > 1 else 2
    is_used = np.isin(np.arange(len(layout.group_of_switch)), used)
    others = [
        np.bincount(groups)[layout.group_of_switch[ends]] - is_used[ends] > 0
        for ends in (layout.global_from, layout.global_to)
    ]
    return 3 + int((others[0].astype(int) + others[1]).max())


def graph_diameter(cluster: Cluster, layout: GraphLayout) -> int | None:
    """Most links on a shortest path between two devices; None for more than LARGEST_SEARCH devices."""
    if cluster.num_devices > LARGEST_SEARCH:
        return None
    ones = np.ones(len(layout.targets))
    num_vertices = len(layout.vertex_names)
    graph = csr_array((ones, layout.targets, layout.offsets), shape=(num_vertices, num_vertices))
    furthest = 0.0
    for first in range(0, cluster.num_devices, 256):
        some = np.arange(first, min(first + 256, cluster.num_devices))
        hops = shortest_path(graph, method="D", unweighted=True, indices=some)
        furthest = max(furthest, float(hops[:, : cluster.num_devices].max()))
    return int(furthest)


def _largest_flow(pipes: _Pipes) -> float | None:
    """Bytes/s from all senders to all takers together; None for more than LARGEST_CUT links.

    Capacities are counted in their greatest common divisor, exactly where that is possible.
    """
    if len(pipes.from_E) > LARGEST_CUT:
        return None
    num_vertices = len(pipes.sends_V)
    senders, takers = np.flatnonzero(pipes.sends_V), np.flatnonzero(pipes.takes_V)
    from_E = np.concatenate([pipes.from_E, np.full(len(senders), num_vertices), takers])
    to_E = np.concatenate([pipes.to_E, senders, np.full(len(takers), num_vertices + 1)])
    capacity_E = np.concatenate([pipes.capacity_E, pipes.sends_V[senders], pipes.takes_V[takers]])
    unit = float(math.gcd(*(round(capacity) for capacity in capacity_E)))
    if unit < 1.0 or capacity_E.sum() / unit > _LARGEST_COUNT or not np.allclose(capacity_E % unit, 0.0):
        unit = capacity_E.sum() / _LARGEST_COUNT
    counts = np.maximum(np.round(capacity_E / unit), 1).astype(np.int32)
    graph = csr_array((counts, (from_E, to_E)), shape=(num_vertices + 2, num_vertices + 2), dtype=np.int32)
    return float(maximum_flow(graph, num_vertices, num_vertices + 1).flow_value) * unit
