"""Paths through a tree layout, for all flows at once.

Array letters: F flow, D device. A path visits at most eight links, always in one order: out of the node's switches and
in again, up the NIC, the leaf and the spine group, and down the group, the leaf and the NIC. So each path is a row of
eight places with -1 where it skips one, and the rows without their -1 are the CSR path list.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import Cluster, TreeLayout
from moesim.errors import InputError
from moesim.network.flow import Paths

Devices = NDArray[np.integer[Any]]
SCALE_OUT, SCALE_IN, NIC_UP, LEAF_UP, GROUP_UP, GROUP_DOWN, LEAF_DOWN, NIC_DOWN = range(8)


def tree_paths(cluster: Cluster, source_F: Devices, target_F: Devices, *, relayed: bool) -> Paths:
    """Paths of all flows; `relayed`: a flow to another rail first moves, inside the source node, to the device with the
    target's local index, and leaves by its NIC.

    Raises InputError for devices outside the cluster, and for flows the tree has no path for.
    """
    layout = cluster.layout
    source_F, target_F = (_checked(cluster, flow_F) for flow_F in (source_F, target_F))
    remote_F = layout.node_of_device_D[source_F] != layout.node_of_device_D[target_F]
    exit_F = np.where(remote_F, _exit(layout, source_F, target_F) if relayed else source_F, target_F)
    rows = np.full((len(source_F), 8), -1, dtype=np.int32)
    moves_F = source_F != exit_F
    rows[:, SCALE_OUT] = np.where(moves_F, layout.scale_up_out_D[source_F], -1)
    rows[:, SCALE_IN] = np.where(moves_F, layout.scale_up_in_D[exit_F], -1)
    _cross_network(layout, rows, remote_F, exit_F, target_F)
    kept = rows >= 0
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(kept.sum(axis=1), out=offsets[1:])
    return Paths(offsets, rows[kept])


def _exit(layout: TreeLayout, source_F: Devices, target_F: Devices) -> Devices:
    """The device of the source node whose NIC the flow leaves by; devices are numbered node by node."""
    peer_F = source_F - layout.local_index_D[source_F] + layout.local_index_D[target_F]
    same_rail_F = layout.rail_of_device_D[source_F] == layout.rail_of_device_D[target_F]
    return np.where(same_rail_F, source_F, peer_F)


def _cross_network(
    layout: TreeLayout, rows: NDArray[np.int32], remote_F: NDArray[np.bool_], exit_F: Devices, target_F: Devices
) -> None:
    """Fill in the links between nodes: as far up the tree as source and target are apart."""
    if not remote_F.any():
        return
    from_leaf_F, to_leaf_F = layout.leaf_of_device_D[exit_F], layout.leaf_of_device_D[target_F]
    from_group_F, to_group_F = layout.group_of_leaf[from_leaf_F], layout.group_of_leaf[to_leaf_F]
    across_leaf_F = remote_F & (from_leaf_F != to_leaf_F)
    across_group_F = remote_F & (from_group_F != to_group_F)
    _refuse_planes(layout, remote_F, exit_F, target_F)
    rows[:, NIC_UP] = np.where(remote_F, layout.nic_out_D[exit_F], -1)
    rows[:, NIC_DOWN] = np.where(remote_F, layout.nic_in_D[target_F], -1)
    rows[:, LEAF_UP] = np.where(across_leaf_F, layout.leaf_up[from_leaf_F], -1)
    rows[:, LEAF_DOWN] = np.where(across_leaf_F, layout.leaf_down[to_leaf_F], -1)
    rows[:, GROUP_UP] = np.where(across_group_F, layout.group_up[from_group_F], -1)
    rows[:, GROUP_DOWN] = np.where(across_group_F, layout.group_down[to_group_F], -1)


def _refuse_planes(layout: TreeLayout, remote_F: NDArray[np.bool_], exit_F: Devices, target_F: Devices) -> None:
    if not layout.planes:
        return
    bad_F = remote_F & (layout.rail_of_device_D[exit_F] != layout.rail_of_device_D[target_F])
    if bad_F.any():
        flow = int(np.argmax(bad_F))
        raise InputError(
            f"device {int(exit_F[flow])} and device {int(target_F[flow])} are on separate planes with no switch "
            "between them; use the path policy pxn or rail, which relay inside the node"
        )


def _checked(cluster: Cluster, device_F: Devices) -> Devices:
    devices = np.asarray(device_F)
    if devices.ndim != 1 or (devices.size and devices.dtype.kind not in "iu"):
        raise InputError(f"devices of flows must be a list of whole numbers, got {devices.dtype} {devices.shape}")
    if devices.size and not 0 <= int(devices.min()) <= int(devices.max()) < cluster.num_devices:
        raise InputError(
            f"flows name devices {int(devices.min())}..{int(devices.max())}; "
            f"{cluster.name} has devices 0..{cluster.num_devices - 1}"
        )
    return devices.astype(np.int64, copy=False)
