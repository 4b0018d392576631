"""Path policy rail, the default of rail trees: direct on the own rail, to another rail the way the tree has.

That way is a spine, or, where rails are separate planes, a relay inside the source node.
"""

from moesim.cluster import Cluster
from moesim.network.flow import Paths
from moesim.network.paths._ends import Devices
from moesim.network.paths._tree import tree_paths


def paths(cluster: Cluster, source_F: Devices, target_F: Devices) -> Paths:
    """Paths of flows between device indices [F]; own device: empty, own node: scale-up links."""
    return tree_paths(cluster, source_F, target_F, policy="rail")
