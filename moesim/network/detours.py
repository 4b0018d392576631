"""Detours: paths that a policy chose, led round links that are dead; and the devices that cannot be reached any more.

Array letters: F flow, D device, J link. Only flows whose path crosses a dead link are changed. In a tree they relay through
other devices of the two nodes (paths/_tree_detours.py); elsewhere they take a shortest path over the live links, a seeded
hash choosing among equals.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import Cluster, GraphLayout, TreeLayout
from moesim.errors import InputError
from moesim.network.flow import Paths
from moesim.network.live_graph import live_graph
from moesim.network.paths import split_paths
from moesim.network.paths._graph import distances, one_shortest
from moesim.network.paths._tree_detours import detour_rows

Ints = NDArray[np.int64]
_PAIRS_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class Detours:
    """Dead links [J] of a cluster whose flows follow a path policy."""

    cluster: Cluster
    policy: str
    dead_J: NDArray[np.bool_]

    def around(
        self,
        paths: Paths,
        source_F: NDArray[np.integer],
        target_F: NDArray[np.integer],
        given_up_F: NDArray[np.bool_] | None = None,
    ) -> Paths:
        """`paths` with detours where they cross a dead link, the very same object where none does.

        A path may start and end with a link of its device that is none of the cluster's (a copy engine): those stay.
        Flows `given_up_F` keep their paths.
        Raises InputError naming the devices that cannot reach each other.
        """
        bent = self.crossing(paths)
        if given_up_F is not None:
            bent = bent[~given_up_F[bent]]
        if not len(bent):
            return paths
        source, target = source_F[bent].astype(np.int64), target_F[bent].astype(np.int64)
        detours, found = self._solve(source, target)
        if not found.all():
            raise _cut_off(self.cluster, source[~found], target[~found])
        return _replaced(paths, bent, detours, len(self.dead_J))

    def crossing(self, paths: Paths) -> Ints:
        """The flows whose path crosses a dead link, ascending."""
        flow_of_link = np.repeat(np.arange(paths.num_flows), np.diff(paths.offsets))
        num_links = len(self.dead_J)
        return np.unique(flow_of_link[(paths.links < num_links) & self.dead_J[np.minimum(paths.links, num_links - 1)]])

    def check_connected(self, devices: Ints) -> None:
        """Raise InputError, naming the ranks that are cut off, unless each of `devices` has a path to every other."""
        if not self.dead_J.any() or len(devices) < 2:
            return
        lost: list[tuple[Ints, Ints]] = []
        for start in range(0, len(devices), max(1, _PAIRS_AT_ONCE // len(devices))):
            some = devices[start : start + max(1, _PAIRS_AT_ONCE // len(devices))]
            source, target = np.repeat(some, len(devices)), np.tile(devices, len(some))
            split = split_paths(self.policy, self.cluster, source, target)
            bent = np.unique(split.flow_P[self.crossing(split.paths)])
            _, found = self._solve(source[bent], target[bent])
            lost.append((source[bent[~found]], target[bent[~found]]))
        source, target = (np.concatenate(column) for column in zip(*lost, strict=True))
        if len(source):
            raise _cut_off(self.cluster, source, target)

    def _solve(self, source_F: Ints, target_F: Ints) -> tuple[Paths, NDArray[np.bool_]]:
        """A live path of each flow and which have one (the others get an empty path)."""
        layout = self.cluster.layout
        if isinstance(layout, TreeLayout):
            relayed = layout.planes or self.policy == "pxn"
            rows, found_F = detour_rows(self.cluster, layout, self.dead_J, source_F, target_F, relayed=relayed)
            kept = rows >= 0
            offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)
            return Paths(offsets, rows[kept]), found_F
        graph = live_graph(self.cluster, self.dead_J)
        found_F = _reachable(graph, source_F, target_F)
        hops_F = np.zeros(len(source_F), np.int64)
        some = one_shortest(self.cluster.name, graph, source_F[found_F], target_F[found_F])
        hops_F[found_F] = np.diff(some.offsets)
        return Paths(np.concatenate([[0], np.cumsum(hops_F)]), some.links), found_F


def _reachable(graph: GraphLayout, source_F: Ints, target_F: Ints) -> NDArray[np.bool_]:
    found_F = np.zeros(len(source_F), np.bool_)
    for target in np.unique(target_F):
        mine = np.flatnonzero(target_F == target)
        found_F[mine] = distances(graph, int(target))[source_F[mine]] >= 0
    return found_F


def _replaced(paths: Paths, bent: Ints, detours: Paths, num_links: int) -> Paths:
    """The paths with those of the flows `bent` replaced, in order, by `detours`; links of devices at both ends stay."""
    first, last = paths.links[paths.offsets[bent]], paths.links[paths.offsets[bent + 1] - 1]
    with_ends = first >= num_links
    hops_F = np.diff(paths.offsets)
    is_bent_F = np.zeros(paths.num_flows, np.bool_)
    is_bent_F[bent] = True
    kept = paths.links[~np.repeat(is_bent_F, hops_F)]
    hops_F[bent] = np.diff(detours.offsets) + 2 * with_ends
    offsets = np.concatenate([[0], np.cumsum(hops_F)])
    inner = np.repeat(is_bent_F, hops_F)
    links = np.empty(int(offsets[-1]), np.int32)
    links[~inner] = kept
    heads, tails = offsets[bent][with_ends], offsets[bent + 1][with_ends] - 1
    links[heads], links[tails] = first[with_ends], last[with_ends]
    inner[heads] = inner[tails] = False
    links[inner] = detours.links
    return Paths(offsets, links)


def _cut_off(cluster: Cluster, source_F: Ints, target_F: Ints) -> InputError:
    """The error for pairs without a path: the fewest devices that explain them, most affected first."""
    ranks: list[int] = []
    left_F = np.ones(len(source_F), np.bool_)
    while left_F.any():
        pairs_D = np.bincount(source_F[left_F], minlength=cluster.num_devices)
        pairs_D += np.bincount(target_F[left_F], minlength=cluster.num_devices)
        ranks.append(int(pairs_D.argmax()))
        left_F &= (source_F != ranks[-1]) & (target_F != ranks[-1])
    ranks.sort()
    shown = ", ".join(f"{rank} ({cluster.devices[rank].name})" for rank in ranks[:16])
    more = f" and {len(ranks) - 16} more" if len(ranks) > 16 else ""
    pair = f"there is no path left from device {int(source_F[0])} to device {int(target_F[0])}"
    word = "rank" if len(ranks) == 1 else "ranks"
    return InputError(
        f"faults cut off {word} {shown}{more} of {cluster.name}: {pair}; leave a link, or take them down too"
    )
