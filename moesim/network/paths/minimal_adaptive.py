"""Path policy minimal_adaptive: every flow is spread evenly over its shortest ways, as adaptive switches spread it.

Torus: over all shortest vectors of steps, and for each over all orders of its axes. Dragonfly: over all global links
between the two groups. Graph: evenly over the next links at every vertex. Where a caller takes one path per flow, a
seeded hash picks one of these.
"""

import numpy as np

from moesim.cluster import Cluster, DragonflyLayout, GraphLayout, TorusLayout
from moesim.network.flow import Paths
from moesim.network.paths import _dragonfly, _graph, ecmp
from moesim.network.paths._ends import Devices, checked, no_paths
from moesim.network.paths._split import SplitPaths
from moesim.network.paths._torus import all_orders, minimal_ways, walk


def paths(cluster: Cluster, source_F: Devices, target_F: Devices) -> Paths:
    """One of the paths of each flow [F], by seeded hash; own device: empty."""
    if not isinstance(cluster.layout, (TorusLayout, DragonflyLayout, GraphLayout)):
        raise no_paths(cluster, "minimal_adaptive")
    return ecmp.paths(cluster, source_F, target_F)


def split_paths(cluster: Cluster, source_F: Devices, target_F: Devices) -> SplitPaths:
    """All shortest paths of flows between device indices [F], with even shares; own device: one empty path.

    Raises InputError on a tree, and on a graph where a flow has more shortest paths than are followed.
    """
    layout = cluster.layout
    source_F, target_F = checked(cluster, source_F), checked(cluster, target_F)
    if isinstance(layout, GraphLayout):
        return _graph.all_shortest(cluster.name, layout, source_F, target_F)
    if isinstance(layout, DragonflyLayout):
        return _dragonfly.over_all(cluster, layout, source_F, target_F)
    if not isinstance(layout, TorusLayout):
        raise no_paths(cluster, "minimal_adaptive")
    ways = minimal_ways(layout, source_F, target_F)
    way_W, order_WA, orders_V = all_orders(ways.vector_VA)
    flow_W = ways.flow_V[way_W]
    share_V = 1.0 / (np.bincount(ways.flow_V, minlength=len(source_F))[ways.flow_V] * orders_V)
    paths = walk(layout, source_F[flow_W], target_F[flow_W], ways.vector_VA[way_W], order_WA)
    return SplitPaths(paths, flow_W, share_V[way_W])
