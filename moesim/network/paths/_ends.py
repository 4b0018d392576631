"""What every path policy checks first: devices that exist, and a layout the policy has paths for."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import Cluster, DragonflyLayout, GraphLayout, TorusLayout, TreeLayout
from moesim.errors import InputError

Devices = NDArray[np.integer[Any]]
Kind = TypeVar("Kind", TreeLayout, TorusLayout, DragonflyLayout, GraphLayout)
_WORDS = {
    TreeLayout: ("tree", "rail, pxn, cross_rail_spine or ecmp"),
    TorusLayout: ("torus", "dimension_order, minimal_adaptive or ecmp"),
    DragonflyLayout: ("dragonfly", "minimal_adaptive or ecmp"),
    GraphLayout: ("graph", "minimal_adaptive or ecmp"),
}


def layout_of(cluster: Cluster, kind: type[Kind], policy: str) -> Kind:
    """The cluster's layout when it is of this kind; raises InputError naming the policies its own kind has."""
    if isinstance(cluster.layout, kind):
        return cluster.layout
    raise no_paths(cluster, policy)


def no_paths(cluster: Cluster, policy: str) -> InputError:
    """The error of a policy on a layout it has no paths for."""
    word, policies = _WORDS[type(cluster.layout)]
    return InputError(f"path policy {policy} has no paths through {cluster.name}, a {word}; use {policies}")


def checked(cluster: Cluster, device_F: Devices) -> NDArray[np.int64]:
    """Device indices of flows as int64; raises InputError for anything but devices of the cluster."""
    devices = np.asarray(device_F)
    if devices.ndim != 1 or (devices.size and devices.dtype.kind not in "iu"):
        raise InputError(f"devices of flows must be a list of whole numbers, got {devices.dtype} {devices.shape}")
    if devices.size and not 0 <= int(devices.min()) <= int(devices.max()) < cluster.num_devices:
        raise InputError(
            f"flows name devices {int(devices.min())}..{int(devices.max())}; "
            f"{cluster.name} has devices 0..{cluster.num_devices - 1}"
        )
    return devices.astype(np.int64, copy=False)
