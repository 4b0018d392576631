"""What a cluster amounts to: counts, bisection bandwidth, diameter, sources.

Array letters: A nodes on the first side of a cut (0, 1, .. as index).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import Cluster, TreeLayout

Costs = NDArray[np.float64]


def describe_topology(cluster: Cluster) -> dict[str, Any]:
    """Plain data: devices, nodes, links, bisection_bytes_per_s (None for one device), diameter_hops, sources, tiers.

    `tiers` counts links per tier; `diameter_hops` is the most links on a path of the cluster's default policy.
    """
    tiers: dict[str, int] = {}
    for link in cluster.links:
        tiers[link.tier] = tiers.get(link.tier, 0) + 1
    return {
        "name": cluster.name,
        "devices": cluster.num_devices,
        "nodes": cluster.num_nodes,
        "links": len(cluster.links),
        "tiers": tiers,
        "bisection_bytes_per_s": bisection(cluster),
        "diameter_hops": diameter(cluster),
        "default_path_policy": cluster.default_path_policy,
        "sources": list(cluster.sources),
    }


def bisection(cluster: Cluster) -> float | None:
    """Bytes/s one way across the worst even split: the smallest cut over all ways to halve the nodes (for one node: the
    devices), None when there is nothing to split.

    Exact for trees: for every number of nodes on the first side, the cheapest side for each leaf, spine group and the
    core follows tier by tier. Without oversubscription it is floor(nodes / 2) x NIC bandwidth of a node.
    """
    layout, bandwidth = cluster.layout, cluster.link_bandwidth
    if cluster.num_nodes == 1:
        half = cluster.num_devices // 2
        return float(np.sort(bandwidth[layout.scale_up_out_D])[:half].sum()) if half else None
    half = cluster.num_nodes // 2
    node_rate = float(bandwidth[layout.nic_out_D[: cluster.devices_per_node]].sum())
    if not _is_oversubscribed(cluster):
        return half * node_rate
    cost_A = _tree_costs(cluster, node_rate)
    return float(min(cost_A[half], cost_A[cluster.num_nodes - half]))


def diameter(cluster: Cluster) -> int:
    """Most links between two devices on a path of the default policy (`rail` where the policy is another layout's)."""
    layout = cluster.layout
    same_node = 2 if cluster.num_devices > cluster.num_nodes else 0
    if cluster.num_nodes == 1:
        return same_node
    rails = np.unique(layout.rail_of_device_D)
    same_rail = max(_hops(layout, layout.rail_of_device_D == rail) for rail in rails)
    if len(rails) == 1:
        return max(same_node, same_rail)
    relayed = layout.planes or cluster.default_path_policy == "pxn"
    return 2 + same_rail if relayed else _hops(layout, np.ones(cluster.num_devices, dtype=bool))


def _hops(layout: TreeLayout, chosen_D: NDArray[np.bool_]) -> int:
    leaves = np.unique(layout.leaf_of_device_D[chosen_D])
    groups = np.unique(layout.group_of_leaf[leaves])
    return 6 if len(groups) > 1 else 4 if len(leaves) > 1 else 2


def _is_oversubscribed(cluster: Cluster) -> bool:
    """Whether some leaf or group has less bandwidth up than its devices' NICs."""
    layout, bandwidth = cluster.layout, cluster.link_bandwidth
    nic_D = bandwidth[layout.nic_out_D]
    below_leaf = np.bincount(layout.leaf_of_device_D, nic_D)
    below_group = np.bincount(layout.group_of_leaf, below_leaf)
    pairs = ((layout.leaf_up, below_leaf), (layout.group_up, below_group))
    return any(bool((bandwidth[up[up >= 0]] < below[up >= 0] * (1 - 1e-12)).any()) for up, below in pairs)


def _tree_costs(cluster: Cluster, node_rate: float) -> Costs:
    """Smallest cut [A] with the core on the second side, by the number of nodes on the first side.

    All rails of a unit are alike and a node's devices stay together, so the leaves of a unit are cut as one, and the
    spine groups of a pod likewise.
    """
    layout, bandwidth = cluster.layout, cluster.link_bandwidth
    pod_of_unit = np.zeros(int(layout.unit_of_leaf.max()) + 1, dtype=np.int64)
    pod_of_unit[layout.unit_of_leaf] = layout.pod_of_group[layout.group_of_leaf]
    unit_of_node = np.zeros(cluster.num_nodes, dtype=np.int64)
    unit_of_node[layout.node_of_device_D] = layout.unit_of_leaf[layout.leaf_of_device_D]
    nodes_of_unit = np.bincount(unit_of_node)
    up_of_unit = _sum_up(layout.leaf_up, bandwidth, layout.unit_of_leaf)
    up_of_pod = _sum_up(layout.group_up, bandwidth, layout.pod_of_group)
    total = np.zeros(1)
    for pod, up in enumerate(up_of_pod):
        far = np.zeros(1)  # spines on the second side
        for unit in np.flatnonzero(pod_of_unit == pod):
            far = _add(far, _with_switch(_node_costs(nodes_of_unit[unit], node_rate), up_of_unit[unit]))
        total = _add(total, _with_switch(far, up))
    return total


def _node_costs(num_nodes: int, node_rate: float) -> Costs:
    """Cut of a leaf on the second side from `a` of its nodes on the first."""
    return node_rate * np.arange(num_nodes + 1, dtype=np.float64)


def _with_switch(far: Costs, up: float) -> Costs:
    """The cheaper side for a switch whose cut is `far` on the second side and, by symmetry, far[::-1] on the first."""
    return np.minimum(far, far[::-1] + up)


def _sum_up(up: NDArray[np.int32], bandwidth: Costs, owner: NDArray[np.int32]) -> Costs:
    sums: Costs = np.bincount(owner, np.where(up >= 0, bandwidth[up], 0.0)).astype(np.float64)
    return sums


def _add(left: Costs, right: Costs) -> Costs:
    """Cheapest way to have `a` nodes on the first side in two parts together: the (min, +) convolution."""
    total = np.full(len(left) + len(right) - 1, np.inf)
    for taken, cost in enumerate(right):
        np.minimum(total[taken : taken + len(left)], left + cost, out=total[taken : taken + len(left)])
    return total
