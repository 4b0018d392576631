"""Registry of path policies: a module here defines `paths(cluster, source_F, target_F) -> Paths`, one path per flow.

A policy that spreads a flow over several paths also defines `split_paths(cluster, source_F, target_F) -> SplitPaths`.
"""

import importlib

from moesim.cluster import Cluster
from moesim.network.paths._ends import Devices
from moesim.network.paths._split import SplitPaths, unsplit
from moesim.registry import Registry

__all__ = ["SplitPaths", "path_policies", "split_paths"]

path_policies = Registry("moesim.network.paths", kind="path policy", attribute="paths")


def split_paths(policy: str, cluster: Cluster, source_F: Devices, target_F: Devices) -> SplitPaths:
    """All paths the policy spreads flows over, with their shares; one whole path per flow where it does not split.

    Raises UnknownName for a policy that does not exist, InputError for one the cluster's layout has no paths for.
    """
    one_path = path_policies.get(policy)
    several = getattr(importlib.import_module(f"{path_policies.package}.{policy}"), "split_paths", None)
    if several is None:
        return unsplit(one_path(cluster, source_F, target_F))
    result: SplitPaths = several(cluster, source_F, target_F)
    return result
