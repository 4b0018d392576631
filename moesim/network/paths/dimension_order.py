"""Path policy dimension_order, the default of tori: a shortest way, all along x, then along y, then along z."""

import numpy as np

from moesim.cluster import Cluster, TorusLayout
from moesim.network.flow import Paths
from moesim.network.paths._ends import Devices, checked, layout_of
from moesim.network.paths._hash import hash_pairs
from moesim.network.paths._torus import one_way, walk


def paths(cluster: Cluster, source_F: Devices, target_F: Devices) -> Paths:
    """Paths of flows between device indices [F]; own device: empty; other slice: the links of the network between.

    Halfway round an axis both ways are as short; half of such flows take each. Raises InputError where there is no torus.
    """
    layout = layout_of(cluster, TorusLayout, "dimension_order")
    source_F, target_F = checked(cluster, source_F), checked(cluster, target_F)
    vector_FA = one_way(layout, source_F, target_F, hash_pairs(source_F, target_F, 0))
    order_FA = np.broadcast_to(np.arange(len(layout.lengths)), vector_FA.shape)
    return walk(layout, source_F, target_F, vector_FA, np.ascontiguousarray(order_FA))
