"""Path policy ecmp: a seeded hash of source and target picks one of the equal shortest ways, always the same for a pair.

Tree: the way of policy rail; where the cluster was built with `separate_cables`, on the hashed cable of each tier, else
over bundles, which is the even split. Torus: one shortest vector in one order of axes. Dragonfly: one global link. Graph:
one of the next links at every vertex. The seed is the cluster's `hash_seed`.
"""

import itertools

import numpy as np

from moesim.cluster import Cluster, DragonflyLayout, GraphLayout, TorusLayout
from moesim.network.flow import Paths
from moesim.network.paths import _dragonfly, _graph
from moesim.network.paths._ends import Devices, checked
from moesim.network.paths._hash import hash_pairs, mix
from moesim.network.paths._torus import minimal_ways, walk
from moesim.network.paths._tree import tree_paths


def paths(cluster: Cluster, source_F: Devices, target_F: Devices) -> Paths:
    """Paths of flows between device indices [F]; own device: empty, own node of a tree or dragonfly: scale-up links."""
    layout = cluster.layout
    source_F, target_F = checked(cluster, source_F), checked(cluster, target_F)
    if isinstance(layout, GraphLayout):
        return _graph.one_shortest(cluster.name, layout, source_F, target_F)
    if isinstance(layout, DragonflyLayout):
        return _dragonfly.over_one(cluster, layout, source_F, target_F)
    if not isinstance(layout, TorusLayout):
        return tree_paths(cluster, source_F, target_F, policy="ecmp")
    hash_F = hash_pairs(source_F, target_F, layout.hash_seed)
    ways = minimal_ways(layout, source_F, target_F)
    count_F = np.bincount(ways.flow_V, minlength=len(source_F))
    first_F = np.cumsum(count_F) - count_F
    vector_FA = ways.vector_VA[first_F + (hash_F % count_F.astype(np.uint64)).astype(np.int64)]
    orders = np.array(list(itertools.permutations(range(len(layout.lengths)))))
    order_FA = orders[(mix(hash_F) % np.uint64(len(orders))).astype(np.int64)]
    return walk(layout, source_F, target_F, vector_FA, order_FA)
