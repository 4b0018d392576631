"""Paths through a tree layout, for all flows at once.

Array letters: F flow, D device. A path visits at most eight links, always in one order: out of the node's switches and
in again, up the NIC, the leaf and the spine group, and down the group, the leaf and the NIC. So each path is a row of
eight places with -1 where it skips one, and the rows without their -1 are the CSR path list.
"""

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import Cluster, Index, TreeLayout
from moesim.errors import InputError
from moesim.network.flow import Paths
from moesim.network.paths._ends import Devices, checked, layout_of
from moesim.network.paths._hash import hash_pairs, mix, pick

Ints = NDArray[np.int64]
SCALE_OUT, SCALE_IN, NIC_UP, LEAF_UP, GROUP_UP, GROUP_DOWN, LEAF_DOWN, NIC_DOWN = range(8)


def tree_paths(
    cluster: Cluster, source_F: Devices, target_F: Devices, *, policy: str, relayed: bool | None = None
) -> Paths:
    """Paths of all flows; `relayed`: a flow to another rail first moves, inside the source node, to the device with the
    target's local index, and leaves by its NIC (None: only where rails are separate planes).

    Raises InputError for devices outside the cluster, for a cluster that is no tree, and for flows the tree has no path
    for.
    """
    layout = layout_of(cluster, TreeLayout, policy)
    relayed = layout.planes if relayed is None else relayed
    source_F, target_F = (checked(cluster, flow_F) for flow_F in (source_F, target_F))
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


def _exit(layout: TreeLayout, source_F: Ints, target_F: Ints) -> Ints:
    """The device of the source node whose NIC the flow leaves by; devices are numbered node by node."""
    peer_F = source_F - layout.local_index_D[source_F] + layout.local_index_D[target_F]
    same_rail_F = layout.rail_of_device_D[source_F] == layout.rail_of_device_D[target_F]
    return np.where(same_rail_F, source_F, peer_F)


def _cross_network(
    layout: TreeLayout, rows: NDArray[np.int32], remote_F: NDArray[np.bool_], exit_F: Ints, target_F: Ints
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
    hash_F = hash_pairs(exit_F, target_F, layout.hash_seed)
    leaf_ends = (layout.leaf_up, from_leaf_F), (layout.leaf_down, to_leaf_F)
    _cross_tier(rows, (LEAF_UP, LEAF_DOWN), across_leaf_F, leaf_ends, layout.leaf_cables, hash_F)
    group_ends = (layout.group_up, from_group_F), (layout.group_down, to_group_F)
    _cross_tier(rows, (GROUP_UP, GROUP_DOWN), across_group_F, group_ends, layout.group_cables, mix(hash_F))


def _cross_tier(
    rows: NDArray[np.int32],
    places: tuple[int, int],
    across_F: NDArray[np.bool_],
    ends: tuple[tuple[Index, Index], tuple[Index, Index]],
    cables: Index,
    hash_F: NDArray[np.uint64],
) -> None:
    """Up to a spine by the hashed cable, and down from that spine: cable c leads to spine c."""
    (_, from_F), _ = ends
    cable_F = pick(hash_F, cables[from_F])
    for place, (first, switch_F) in zip(places, ends, strict=True):
        rows[:, place] = np.where(across_F, first[switch_F] + cable_F % cables[switch_F], -1)


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
