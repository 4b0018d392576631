"""Minimal ways through a dragonfly, for all flows at once: at most one switch-to-switch link on either side of a global one.

Array letters: F flow, P path. A path is a row of seven places with -1 where it skips one: out of the node's switches and
in again, up the NIC, inside the first group, between groups, inside the second group, down the NIC.
"""

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import Cluster, DragonflyLayout
from moesim.network.flow import Paths
from moesim.network.paths._hash import hash_pairs, pick
from moesim.network.paths._split import SplitPaths

Ints = NDArray[np.int64]
SCALE_OUT, SCALE_IN, NIC_UP, NEAR, GLOBAL, FAR, NIC_DOWN = range(7)


def over_one(cluster: Cluster, layout: DragonflyLayout, source_F: Ints, target_F: Ints) -> Paths:
    """One path per flow, by the global link that the hash picks."""
    first_F, count_F = _global_links(layout, source_F, target_F)
    chosen_F = pick(hash_pairs(source_F, target_F, layout.hash_seed), np.maximum(count_F, 1))
    return _paths(cluster, layout, source_F, target_F, np.where(count_F > 0, first_F + chosen_F, -1))


def over_all(cluster: Cluster, layout: DragonflyLayout, source_F: Ints, target_F: Ints) -> SplitPaths:
    """Every flow between groups split evenly over their global links, any other flow whole."""
    first_F, count_F = _global_links(layout, source_F, target_F)
    paths_F = np.maximum(count_F, 1)
    flow_P = np.repeat(np.arange(len(source_F)), paths_F)
    place_P = np.arange(len(flow_P)) - np.repeat(np.cumsum(paths_F) - paths_F, paths_F)
    chosen_P = np.where(count_F[flow_P] > 0, first_F[flow_P] + place_P, -1)
    paths = _paths(cluster, layout, source_F[flow_P], target_F[flow_P], chosen_P)
    return SplitPaths(paths, flow_P, 1.0 / paths_F[flow_P])


def _global_links(layout: DragonflyLayout, source_F: Ints, target_F: Ints) -> tuple[Ints, Ints]:
    """First entry and number of the global links each flow may take; none inside a group."""
    from_F, to_F = (layout.group_of_switch[layout.switch_of_device_D[flow_F]] for flow_F in (source_F, target_F))
    pair_F = from_F.astype(np.int64) * layout.num_groups + to_F
    first_F = layout.global_offsets[pair_F].astype(np.int64)
    return first_F, layout.global_offsets[pair_F + 1] - first_F


def _paths(cluster: Cluster, layout: DragonflyLayout, source_P: Ints, target_P: Ints, chosen_P: Ints) -> Paths:
    """Links of each path; `chosen_P` is its entry among the global links, -1 inside a group."""
    node_D, switch_D = cluster.node_of_device_D, layout.switch_of_device_D
    remote_P = node_D[source_P] != node_D[target_P]
    moves_P = ~remote_P & (source_P != target_P)
    across_P = remote_P & (chosen_P >= 0)
    from_P, to_P = switch_D[source_P], switch_D[target_P]
    leave_P = np.where(across_P, _at(layout.global_from, chosen_P), to_P)
    arrive_P = np.where(across_P, _at(layout.global_to, chosen_P), to_P)
    rows = np.full((len(source_P), 7), -1, dtype=np.int32)
    rows[:, SCALE_OUT] = np.where(moves_P, layout.scale_up_out_D[source_P], -1)
    rows[:, SCALE_IN] = np.where(moves_P, layout.scale_up_in_D[target_P], -1)
    rows[:, NIC_UP] = np.where(remote_P, layout.nic_out_D[source_P], -1)
    rows[:, NEAR] = np.where(remote_P, layout.local_SK[from_P, layout.place_in_group[leave_P]], -1)
    rows[:, GLOBAL] = np.where(across_P, _at(layout.global_links, chosen_P), -1)
    rows[:, FAR] = np.where(across_P, layout.local_SK[arrive_P, layout.place_in_group[to_P]], -1)
    rows[:, NIC_DOWN] = np.where(remote_P, layout.nic_in_D[target_P], -1)
    kept = rows >= 0
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(kept.sum(axis=1), out=offsets[1:])
    return Paths(offsets, rows[kept])


def _at(values: NDArray[np.int32], chosen_P: Ints) -> NDArray[np.int32]:
    """The chosen entries, whatever is first where nothing is chosen; 0 where there are no global links at all."""
    return values[np.maximum(chosen_P, 0)] if len(values) else np.zeros(len(chosen_P), dtype=np.int32)
