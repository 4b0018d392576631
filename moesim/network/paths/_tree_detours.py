"""Ways round dead links of a tree: through other devices of the source's and of the target's node.

Array letters: F flow, D device. A detour leaves the source's node by the NIC of `exit` and enters the target's node by the
NIC of `entry`; scale-up links lead from the source to the exit and from the entry to the target.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import Cluster, TreeLayout
from moesim.network.paths._tree import GROUP_UP, LEAF_UP, NIC_DOWN, NIC_UP, Ints, _cross_network, _exit

PLACES = 12  # scale-up out and in, the eight of a tree path (its own first two stay empty), scale-up out and in
_CABLE_TRIES = 16  # other hashes tried before a flow leaves its rail, where cables are links of their own
Rows = NDArray[np.int32]


def detour_rows(
    cluster: Cluster, layout: TreeLayout, dead_J: NDArray[np.bool_], source_F: Ints, target_F: Ints, *, relayed: bool
) -> tuple[Rows, NDArray[np.bool_]]:
    """A live path of each flow as a row of `PLACES` links (-1: skipped), and which flows have found one.

    Exit and entry are at first those of the path policy (`relayed`: the exit has the target's local index). The one that
    does not work is replaced by the next device of its node in the order of local indices, and so for all flows: a dead
    NIC has one stand-in, which carries the load of both.
    """
    rows = np.full((len(source_F), PLACES), -1, dtype=np.int32)
    found_F = np.zeros(len(source_F), np.bool_)
    if layout.leaf_of_device_D.min() < 0:  # a single node: nothing leads round its scale-up links
        return rows, found_F
    preferred_F = _exit(layout, source_F, target_F) if relayed else source_F
    remote_F = layout.node_of_device_D[source_F] != layout.node_of_device_D[target_F]
    preferred_F = np.where(remote_F, preferred_F, source_F)
    per_node = cluster.devices_per_node
    has_cables = int(layout.leaf_cables.max(initial=1)) > 1 or int(layout.group_cables.max(initial=1)) > 1
    layouts = [
        dataclasses.replace(layout, hash_seed=(layout.hash_seed + attempt) % (1 << 62))
        for attempt in range(_CABLE_TRIES if has_cables else 1)
    ]
    shifts = sorted(((out, into) for out in range(per_node) for into in range(per_node)), key=lambda s: (sum(s), s[1]))
    for out, into in shifts:
        for tried in layouts:
            left = np.flatnonzero(~found_F)
            if not len(left):
                return rows, found_F
            exit_F, entry_F = (_shifted(layout, ends, by) for ends, by in ((preferred_F, out), (target_F, into)))
            answer, works = _candidate(tried, dead_J, source_F[left], exit_F[left], entry_F[left], target_F[left])
            rows[left[works]], found_F[left[works]] = answer[works], True
    return rows, found_F


def _shifted(layout: TreeLayout, device_F: Ints, by: int) -> Ints:
    """The device `by` local indices further in the same node, round and round."""
    per_node = int(layout.local_index_D.max()) + 1
    local_F = layout.local_index_D[device_F].astype(np.int64)
    return device_F - local_F + (local_F + by) % per_node


def _candidate(
    layout: TreeLayout, dead_J: NDArray[np.bool_], source_F: Ints, exit_F: Ints, entry_F: Ints, target_F: Ints
) -> tuple[Rows, NDArray[np.bool_]]:
    """Paths by these exits and entries, and which of them exist and are alive."""
    works_F = (exit_F != target_F) & (entry_F != source_F) & (exit_F != entry_F)  # no link twice
    if layout.planes:
        works_F &= layout.rail_of_device_D[exit_F] == layout.rail_of_device_D[entry_F]
    rows = np.full((len(source_F), PLACES), -1, dtype=np.int32)
    _cross_network(layout, rows[:, 2:10], works_F, np.where(works_F, exit_F, 0), np.where(works_F, entry_F, 0))
    for first, from_F, to_F in ((0, source_F, exit_F), (10, entry_F, target_F)):
        moves_F = works_F & (from_F != to_F)
        rows[:, first] = np.where(moves_F, layout.scale_up_out_D[from_F], -1)
        rows[:, first + 1] = np.where(moves_F, layout.scale_up_in_D[to_F], -1)
    leaf_F, to_leaf_F = layout.leaf_of_device_D[exit_F], layout.leaf_of_device_D[entry_F]
    has_F = (rows[:, 2 + NIC_UP] >= 0) & (rows[:, 2 + NIC_DOWN] >= 0)
    has_F &= (leaf_F == to_leaf_F) | (rows[:, 2 + LEAF_UP] >= 0)
    has_F &= (layout.group_of_leaf[leaf_F] == layout.group_of_leaf[to_leaf_F]) | (rows[:, 2 + GROUP_UP] >= 0)
    dead_F = np.where(rows >= 0, dead_J[rows], False).any(axis=1)
    return rows, works_F & has_F & ~dead_F
