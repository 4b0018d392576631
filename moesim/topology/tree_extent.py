"""How far and how wide a tree is: its diameter, and its bisection bandwidth as the smallest of all even cuts.

Array letters: A nodes on the first side of a cut (0, 1, .. as index).
"""

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import Cluster, Index, TreeLayout

Costs = NDArray[np.float64]


def bisection(cluster: Cluster, layout: TreeLayout) -> float | None:
    """Bytes/s one way across the worst even split: the smallest cut over all ways to halve the nodes (for one node: the
    devices), None when there is nothing to split.

    Exact for trees: for every number of nodes on the first side, the cheapest side for each leaf, spine group and the
    core follows tier by tier. Without oversubscription it is floor(nodes / 2) x NIC bandwidth of a node.
    """
    bandwidth = cluster.link_bandwidth
    if cluster.num_nodes == 1:
        half = cluster.num_devices // 2
        return float(np.sort(bandwidth[layout.scale_up_out_D])[:half].sum()) if half else None
    half = cluster.num_nodes // 2
    node_rate = float(bandwidth[layout.nic_out_D[: cluster.devices_per_node]].sum())
    if not _is_oversubscribed(cluster, layout):
        return half * node_rate
    cost_A = _tree_costs(cluster, layout, node_rate)
    return float(min(cost_A[half], cost_A[cluster.num_nodes - half]))


def diameter(cluster: Cluster, layout: TreeLayout) -> int:
    """Most links between two devices on a path of the default policy (`rail` where the policy is another layout's)."""
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


def _is_oversubscribed(cluster: Cluster, layout: TreeLayout) -> bool:
    """Whether some leaf or group has less bandwidth up than its devices' NICs."""
    bandwidth = cluster.link_bandwidth
    nic_D = bandwidth[layout.nic_out_D]
    below_leaf = np.bincount(layout.leaf_of_device_D, nic_D)
    below_group = np.bincount(layout.group_of_leaf, below_leaf)
    pairs = (
        (_upwards(layout.leaf_up, layout.leaf_cables, bandwidth), below_leaf),
        (_upwards(layout.group_up, layout.group_cables, bandwidth), below_group),
    )
    return any(bool(((up > 0) & (up < below * (1 - 1e-12))).any()) for up, below in pairs)


def _tree_costs(cluster: Cluster, layout: TreeLayout, node_rate: float) -> Costs:
    """Smallest cut [A] with the core on the second side, by the number of nodes on the first side.

    All rails of a unit are alike and a node's devices stay together, so the leaves of a unit are cut as one, and the
    spine groups of a pod likewise.
    """
    bandwidth = cluster.link_bandwidth
    pod_of_unit = np.zeros(int(layout.unit_of_leaf.max()) + 1, dtype=np.int64)
    pod_of_unit[layout.unit_of_leaf] = layout.pod_of_group[layout.group_of_leaf]
    unit_of_node = np.zeros(cluster.num_nodes, dtype=np.int64)
    unit_of_node[layout.node_of_device_D] = layout.unit_of_leaf[layout.leaf_of_device_D]
    nodes_of_unit = np.bincount(unit_of_node)
    up_of_unit = np.bincount(layout.unit_of_leaf, _upwards(layout.leaf_up, layout.leaf_cables, bandwidth))
    up_of_pod = np.bincount(layout.pod_of_group, _upwards(layout.group_up, layout.group_cables, bandwidth))
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


def _upwards(up: Index, cables: Index, bandwidth: Costs) -> Costs:
    """Bandwidth of all uplinks of each leaf or group, 0 where it has none; its separate cables are alike."""
    return np.where(up >= 0, bandwidth[up] * cables, 0.0)


def _add(left: Costs, right: Costs) -> Costs:
    """Cheapest way to have `a` nodes on the first side in two parts together: the (min, +) convolution."""
    total = np.full(len(left) + len(right) - 1, np.inf)
    for taken, cost in enumerate(right):
        np.minimum(total[taken : taken + len(left)], left + cost, out=total[taken : taken + len(left)])
    return total
