"""Registry of path policies: a module here defines `paths(cluster, source_F, target_F) -> Paths`."""

from moesim.registry import Registry

path_policies = Registry("moesim.network.paths", kind="path policy", attribute="paths")
