"""Path policy cross_rail_spine: every flow leaves by its own device's NIC; another rail is reached through a spine."""

from moesim.cluster import Cluster
from moesim.network.flow import Paths
from moesim.network.paths._ends import Devices
from moesim.network.paths._tree import tree_paths


def paths(cluster: Cluster, source_F: Devices, target_F: Devices) -> Paths:
    """Paths of flows between device indices [F]; own device: empty, own node: scale-up links.

    Raises InputError on a tree with planes for a flow to another plane.
    """
    return tree_paths(cluster, source_F, target_F, policy="cross_rail_spine", relayed=False)
