"""Path policy pxn: a flow to another rail moves inside the source node first, then stays on the target's rail.

The relay is the device of the source node with the target's local index, as NCCL's PXN does it.
"""

from moesim.cluster import Cluster
from moesim.network.flow import Paths
from moesim.network.paths._ends import Devices
from moesim.network.paths._tree import tree_paths


def paths(cluster: Cluster, source_F: Devices, target_F: Devices) -> Paths:
    """Paths of flows between device indices [F]; own device: empty, own node: scale-up links."""
    return tree_paths(cluster, source_F, target_F, policy="pxn", relayed=True)
