"""What a cluster amounts to: counts, bisection bandwidth, diameter, sources."""

from collections import Counter
from typing import Any

from moesim.cluster import Cluster, DragonflyLayout, GraphLayout, TorusLayout
from moesim.topology import graph_extent, torus_extent, tree_extent


def describe_topology(cluster: Cluster) -> dict[str, Any]:
    """Plain data: devices, nodes, links, bisection_bytes_per_s (None for one device), diameter_hops, sources, tiers.

    `tiers` counts links per tier; `diameter_hops` is the most links on a path of the cluster's default policy.
    """
    return {
        "name": cluster.name,
        "devices": cluster.num_devices,
        "nodes": cluster.num_nodes,
        "links": len(cluster.links),
        "tiers": dict(Counter(link.tier for link in cluster.links)),
        "bisection_bytes_per_s": bisection(cluster),
        "diameter_hops": diameter(cluster),
        "default_path_policy": cluster.default_path_policy,
        "sources": list(cluster.sources),
    }


def bisection(cluster: Cluster) -> float | None:
    """Bytes/s one way between two halves of the cluster; None when there is nothing to split.

    Tree: the worst even split of its nodes. Torus: the smallest cut by parallel planes, for a grid with an even longest
    axis the closed form 2 x chips / longest wrapped axis x link bandwidth. Dragonfly and graph: what can flow from the
    first half of the nodes to the second; None for graphs of more links than are searched.
    """
    layout = cluster.layout
    if isinstance(layout, TorusLayout):
        return torus_extent.bisection(cluster, layout)
    if isinstance(layout, DragonflyLayout):
        return graph_extent.dragonfly_bisection(cluster, layout)
    if isinstance(layout, GraphLayout):
        return graph_extent.graph_bisection(cluster, layout)
    return tree_extent.bisection(cluster, layout)


def diameter(cluster: Cluster) -> int | None:
    """Most links on a path of the default policy (a tree: of `rail` where the policy is another layout's).

    None for graphs of more devices than are searched.
    """
    layout = cluster.layout
    if isinstance(layout, TorusLayout):
        return torus_extent.diameter(layout)
    if isinstance(layout, DragonflyLayout):
        return graph_extent.dragonfly_diameter(cluster, layout)
    if isinstance(layout, GraphLayout):
        return graph_extent.graph_diameter(cluster, layout)
    return tree_extent.diameter(cluster, layout)
