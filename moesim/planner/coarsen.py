"""Super-experts: experts that tokens often use together, merged in pairs until few enough are left to partition.

Heavy-edge matching: expert by expert in falling order of load, each with the free expert it shares most tokens with for
their loads. Merged vertices stay below a size, so that they still fit on nodes. Array letters: E expert, M edge, I pin.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.planner.hypergraph import Hypergraph

MOST_VERTICES = 2048
_ROUNDS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Coarse:
    """The smaller hypergraph, the vertex each expert became, and how many vertices a node may take."""

    graph: Hypergraph
    vertex_of_expert_E: NDArray[np.int64]
    slots_N: NDArray[np.int64]


def coarsen(graph: Hypergraph, slots_N: NDArray[np.int64], most_vertices: int = MOST_VERTICES) -> Coarse:
    """Merge experts, pairs of pairs, until at most `most_vertices` are left or nothing can be merged.

    All vertices are of at most s = ceil(experts / most_vertices) rounded up to a power of two experts; a node takes
    floor(slots / s) of them, so that their experts fit. Where that is too few for all, as many are taken apart again as
    it needs: vertices of half the size.
    """
    size = 1
    while size * most_vertices < graph.num_experts:
        size *= 2
    while size > 1 and int((slots_N // size).sum()) < -(-graph.num_experts // size):
        size //= 2
    vertex_E = np.arange(graph.num_experts, dtype=np.int64)
    merged, weight = graph, 1
    while weight < size:
        mate_V = _matched(merged)
        vertex_V = _renumbered(mate_V)
        vertex_E = vertex_V[vertex_E]
        merged = _merged(merged, vertex_V)
        weight *= 2
    return Coarse(graph=merged, vertex_of_expert_E=vertex_E, slots_N=slots_N // weight)


def _matched(graph: Hypergraph) -> NDArray[np.int64]:
    """The partner of each vertex, all matched but one of an odd number; those that share no token, in order of load."""
    order = np.argsort(-graph.load_E, kind="stable")
    edge_I = np.repeat(np.arange(graph.num_edges), np.diff(graph.offsets_M1))
    by_pin = np.argsort(graph.pins_I, kind="stable")
    degree = np.bincount(graph.pins_I, minlength=graph.num_experts + graph.num_nodes)
    edges_E1 = np.concatenate([[0], np.cumsum(degree)])
    mate_V = np.full(graph.num_experts, -1, dtype=np.int64)
    _match(
        mate_V, order, graph.offsets_M1, graph.pins_I, graph.weight_M, graph.load_E.astype(np.float64), edges_E1,
        edge_I[by_pin],
    )  # fmt: skip
    alone = order[mate_V[order] < 0]
    half = alone.size // 2  # the heaviest with the lightest
    mate_V[alone[:half]], mate_V[alone[::-1][:half]] = alone[::-1][:half], alone[:half]
    return mate_V


@njit(cache=True, nogil=True)
def _match(mate_V, order, offsets_M1, pins_I, weight_M, load_E, edges_E1, edges_I):  # type: ignore[no-untyped-def]
    shared_V = np.zeros(mate_V.size)
    touched = np.empty(mate_V.size, dtype=np.int64)
    for vertex in order:
        if mate_V[vertex] >= 0:
            continue
        count = 0
        for i in range(edges_E1[vertex], edges_E1[vertex + 1]):
            edge = edges_I[i]
            for j in range(offsets_M1[edge], offsets_M1[edge + 1]):
                other = pins_I[j]
                if other < mate_V.size and other != vertex and mate_V[other] < 0:
                    if shared_V[other] == 0.0:
                        touched[count] = other
                        count += 1
                    shared_V[other] += weight_M[edge]
        best, chosen = 0.0, -1
        for i in range(count):
            other = touched[i]
            rating = shared_V[other] / (load_E[vertex] * load_E[other])
            if rating > best or (rating == best and other < chosen):
                best, chosen = rating, other
            shared_V[other] = 0.0
        if chosen >= 0:
            mate_V[vertex], mate_V[chosen] = chosen, vertex


def _renumbered(mate_V: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs numbered in the order of their lower vertex."""
    vertex = np.arange(mate_V.size)
    lower_V = np.where(mate_V >= 0, np.minimum(vertex, mate_V), vertex)
    return np.unique(lower_V, return_inverse=True)[1].astype(np.int64)


def _merged(graph: Hypergraph, vertex_V: NDArray[np.int64]) -> Hypergraph:
    """The hypergraph with experts renamed, each pin of an edge once."""
    size = int(vertex_V.max()) + 1
    names = np.concatenate([vertex_V, size + np.arange(graph.num_nodes)])
    edge_I = np.repeat(np.arange(graph.num_edges), np.diff(graph.offsets_M1))
    keys = np.unique(edge_I * (size + graph.num_nodes) + names[graph.pins_I])
    edges, pins = np.divmod(keys, size + graph.num_nodes)
    return Hypergraph(
        num_experts=size,
        num_nodes=graph.num_nodes,
        offsets_M1=np.searchsorted(edges, np.arange(graph.num_edges + 1)).astype(np.int64),
        pins_I=pins.astype(np.int64),
        weight_M=graph.weight_M,
        load_E=np.bincount(vertex_V, weights=graph.load_E, minlength=size).astype(np.int64),
    )
