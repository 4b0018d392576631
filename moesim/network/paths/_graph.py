"""Shortest ways through any graph: fewest links, found backwards from each target.

Array letters: F flow, P path, V vertex. Distances are found once for each target, so flows are handled in the order of
their targets. At a vertex all links that lead one step nearer are equally good.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.cluster import GraphLayout, Index
from moesim.errors import InputError
from moesim.network.flow import Paths
from moesim.network.paths._hash import hash_pairs
from moesim.network.paths._split import SplitPaths

Ints = NDArray[np.int64]
MOST_PATHS = 256  # shortest paths of one flow that are followed


def one_shortest(name: str, layout: GraphLayout, source_F: Ints, target_F: Ints) -> Paths:
    """One shortest path per flow: at each vertex the hash picks among the links that lead nearer."""
    order = np.argsort(target_F, kind="stable")
    hops_F, _ = _measure(name, layout, source_F, target_F, order)
    offsets = np.concatenate([[0], np.cumsum(hops_F)])
    links = np.empty(int(offsets[-1]), dtype=np.int32)
    hash_F = hash_pairs(source_F, target_F, layout.hash_seed)
    into = _incoming(layout)
    _fill_one(layout.offsets, layout.links, layout.targets, *into, source_F, target_F, order, hash_F, offsets, links)
    return Paths(offsets, links)


def all_shortest(name: str, layout: GraphLayout, source_F: Ints, target_F: Ints) -> SplitPaths:
    """All shortest paths; at each vertex an even share goes to every link that leads nearer.

    Raises InputError where a flow has more than MOST_PATHS.
    """
    order = np.argsort(target_F, kind="stable")
    hops_F, count_F = _measure(name, layout, source_F, target_F, order)
    if count_F.size and int(count_F.max()) > MOST_PATHS:
        flow = int(np.argmax(count_F))
        raise InputError(
            f"{name}: more than {MOST_PATHS} shortest paths lead from device {source_F[flow]} to device "
            f"{target_F[flow]}; use the path policy ecmp, which takes one"
        )
    flow_P = np.repeat(np.arange(len(source_F)), count_F)
    offsets = np.concatenate([[0], np.cumsum(hops_F[flow_P])])
    links, share_P = np.empty(int(offsets[-1]), dtype=np.int32), np.ones(len(flow_P))
    first_F = np.cumsum(count_F) - count_F
    into = _incoming(layout)
    graph = layout.offsets, layout.links, layout.targets
    _fill_all(*graph, *into, source_F, target_F, order, first_F, count_F, offsets, links, share_P)
    return SplitPaths(Paths(offsets, links), flow_P, share_P)


def distances(layout: GraphLayout, target: int) -> NDArray[np.int32]:
    """Fewest links from every vertex [V] to the target; -1 where there is no way."""
    distance_V = np.empty(len(layout.offsets) - 1, dtype=np.int32)
    queue = np.empty_like(distance_V)
    _search(*_incoming(layout), target, distance_V, queue)
    return distance_V


def _incoming(layout: GraphLayout) -> tuple[Ints, Index]:
    """The graph backwards: for each vertex the vertices with a link to it, as CSR."""
    num_vertices = len(layout.offsets) - 1
    source = np.repeat(np.arange(num_vertices, dtype=np.int32), np.diff(layout.offsets))
    order = np.argsort(layout.targets, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(layout.targets, minlength=num_vertices))])
    return offsets.astype(np.int64), source[order]


def _measure(name: str, layout: GraphLayout, source_F: Ints, target_F: Ints, order: Ints) -> tuple[Ints, Ints]:
    hops_F, count_F = np.zeros(len(source_F), dtype=np.int64), np.zeros(len(source_F), dtype=np.int64)
    into = _incoming(layout)
    _measure_kernel(layout.offsets, layout.targets, *into, source_F, target_F, order, hops_F, count_F)
    if hops_F.size and int(hops_F.min()) < 0:
        flow = int(np.argmin(hops_F))
        raise InputError(f"{name} has no path from device {source_F[flow]} to device {target_F[flow]}")
    return hops_F, count_F


@njit(cache=True, nogil=True)
def _search(in_offsets, in_sources, target, distance_V, queue):  # type: ignore[no-untyped-def]
    """Fill in the distance of every vertex to the target; returns how many were reached, in `queue` nearest first."""
    distance_V[:] = -1
    distance_V[target] = 0
    queue[0] = target
    head, tail = 0, 1
    while head < tail:
        vertex = queue[head]
        head += 1
        for at in range(in_offsets[vertex], in_offsets[vertex + 1]):
            nearer = in_sources[at]
            if distance_V[nearer] < 0:
                distance_V[nearer] = distance_V[vertex] + 1
                queue[tail] = nearer
                tail += 1
    return tail


@njit(cache=True, nogil=True)
def _count_paths(offsets, targets, distance_V, queue, reached, count_V):  # type: ignore[no-untyped-def]
    """Number of shortest paths from every reached vertex, no more than a thousand million."""
    count_V[queue[0]] = 1
    for place in range(1, reached):
        vertex, total = queue[place], 0
        for at in range(offsets[vertex], offsets[vertex + 1]):
            if distance_V[targets[at]] == distance_V[vertex] - 1:
                total = min(total + count_V[targets[at]], 1_000_000_000)
        count_V[vertex] = total


@njit(cache=True, nogil=True)
def _measure_kernel(  # type: ignore[no-untyped-def]
    offsets, targets, in_offsets, in_sources, source_F, target_F, order, hops_F, count_F
):
    distance_V = np.empty(len(offsets) - 1, dtype=np.int32)
    queue, count_V = np.empty_like(distance_V), np.empty(len(distance_V), dtype=np.int64)
    last = -1
    for flow in order:
        if target_F[flow] != last:
            last = target_F[flow]
            reached = _search(in_offsets, in_sources, last, distance_V, queue)
            _count_paths(offsets, targets, distance_V, queue, reached, count_V)
        hops_F[flow] = distance_V[source_F[flow]]
        count_F[flow] = count_V[source_F[flow]]


@njit(cache=True, nogil=True)
def _fill_one(  # type: ignore[no-untyped-def]
    offsets, out_links, targets, in_offsets, in_sources, source_F, target_F, order, hash_F, path_offsets, links
):
    distance_V = np.empty(len(offsets) - 1, dtype=np.int32)
    queue = np.empty_like(distance_V)
    last = -1
    for flow in order:
        if target_F[flow] != last:
            last = target_F[flow]
            _search(in_offsets, in_sources, last, distance_V, queue)
        vertex, number = source_F[flow], hash_F[flow]
        for hop in range(path_offsets[flow], path_offsets[flow + 1]):
            nearer = 0
            for at in range(offsets[vertex], offsets[vertex + 1]):
                nearer += distance_V[targets[at]] == distance_V[vertex] - 1
            chosen = number % np.uint64(nearer)
            number = number // np.uint64(nearer)  # the digits of the hash, one for each choice on the way
            for at in range(offsets[vertex], offsets[vertex + 1]):
                if distance_V[targets[at]] == distance_V[vertex] - 1:
                    if chosen == 0:
                        links[hop] = out_links[at]
                        vertex = targets[at]
                        break
                    chosen -= np.uint64(1)


@njit(cache=True, nogil=True)
def _fill_all(  # type: ignore[no-untyped-def]
    offsets,
    out_links,
    targets,
    in_offsets,
    in_sources,
    source_F,
    target_F,
    order,
    first_F,
    count_F,
    path_offsets,
    links,
    share_P,
):
    distance_V = np.empty(len(offsets) - 1, dtype=np.int32)
    queue, count_V = np.empty_like(distance_V), np.empty(len(distance_V), dtype=np.int64)
    last = -1
    for flow in order:
        if target_F[flow] != last:
            last = target_F[flow]
            reached = _search(in_offsets, in_sources, last, distance_V, queue)
            _count_paths(offsets, targets, distance_V, queue, reached, count_V)
        for number in range(count_F[flow]):
            path = first_F[flow] + number
            vertex, left = source_F[flow], number  # the left-th path from here on
            for hop in range(path_offsets[path], path_offsets[path + 1]):
                nearer = 0
                for at in range(offsets[vertex], offsets[vertex + 1]):
                    nearer += distance_V[targets[at]] == distance_V[vertex] - 1
                share_P[path] /= nearer
                for at in range(offsets[vertex], offsets[vertex + 1]):
                    if distance_V[targets[at]] == distance_V[vertex] - 1:
                        if left < count_V[targets[at]]:
                            links[hop] = out_links[at]
                            vertex = targets[at]
                            break
                        left -= count_V[targets[at]]
