"""Experts to nodes: few copies between nodes, no node with more load or more experts than it can take.

Mt-KaHyPar partitions the hypergraph of tokens under a load cap (deterministic preset, one thread, fixed seed); where it
is not installed, moves and swaps of single experts do. Without a cap the experts of common tokens would gather on few nodes.
Array letters: E expert, N node, M edge, I pin, V vertex.
"""

import functools
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.planner.hypergraph import Hypergraph

Ints = NDArray[np.int64]
LOAD_SLACK = 0.06  # a node's load may be this much above its share
MOST_EDGES = 256  # that Mt-KaHyPar sees (a fifth of a second); moves and swaps afterwards see all
_PASSES = 12


def has_mtkahypar() -> bool:
    """Whether Mt-KaHyPar is there."""
    return _engine() is not None


def partition(
    graph: Hypergraph,
    share_N: NDArray[np.float64],
    slots_N: Ints,
    seed: int,
    *,
    thorough: bool = True,
    most_edges: int = MOST_EDGES,
) -> Ints:
    """The node of each expert, int64 [E]; node n takes about `share_N[n]` of the load and at most `slots_N[n]` experts.

    `share_N` sums to 1, `slots_N` to at least the experts. The load cap gives way where the largest experts do not fit
    under it; the cap on experts does not. Not `thorough`: without Mt-KaHyPar, which sees `most_edges` edges. Same arguments,
    same answer.
    """
    cap_N = np.ceil((1.0 + LOAD_SLACK) * share_N * graph.load_E.sum()).astype(np.int64)
    cap_N = np.maximum(cap_N, graph.load_E.max())
    first_E = _spread(graph.load_E, share_N, slots_N)
    best_E = refine(graph, first_E, cap_N, slots_N)
    if thorough and graph.num_nodes > 1 and graph.num_edges > 0 and has_mtkahypar():
        parted_E = _fitted(graph.load_E, _mtkahypar(graph, cap_N, seed, most_edges), slots_N)
        parted_E = refine(graph, parted_E, cap_N, slots_N)
        if _badness(graph, parted_E, cap_N) < _badness(graph, best_E, cap_N):
            best_E = parted_E
    return best_E


def refine(graph: Hypergraph, node_E: Ints, cap_N: Ints, slots_N: Ints) -> Ints:
    """The assignment after moves and swaps that lower km1 (or a load above its cap) and keep caps and slots."""
    answer_E = node_E.astype(np.int64)
    edges_E1, edges_I = _edges_of(graph)
    _refine(
        answer_E,
        graph.offsets_M1,
        graph.pins_I,
        graph.weight_M,
        graph.load_E,
        edges_E1,
        edges_I,
        cap_N.astype(np.int64),
        slots_N.astype(np.int64),
    )
    return answer_E


def _badness(graph: Hypergraph, node_E: Ints, cap_N: Ints) -> tuple[int, int]:
    """Load above the caps, then km1."""
    load_N = np.bincount(node_E, weights=graph.load_E, minlength=graph.num_nodes)
    return int(np.maximum(load_N - cap_N, 0).sum()), graph.km1(node_E)


@functools.cache
def _engine() -> Any:  # Any: mtkahypar has no types
    try:
        import mtkahypar  # optional: there are no wheels for some machines
    except ImportError:
        return None
    return mtkahypar, mtkahypar.initialize(1, False)


def _mtkahypar(graph: Hypergraph, cap_N: Ints, seed: int, most_edges: int) -> Ints:
    """The partition by Mt-KaHyPar: km1, individual caps, every node's own vertex fixed to it; on a part of the edges."""
    library, engine = _engine()
    library.set_seed(seed % (1 << 31))
    context = engine.context_from_preset(library.PresetType.DETERMINISTIC)
    context.set_partitioning_parameters(graph.num_nodes, LOAD_SLACK, library.Objective.KM1)
    context.logging = False
    context.set_individual_target_block_weights((cap_N + 1).tolist())  # one for the node's own vertex
    pins = graph.pins_I.tolist()
    kept = range(0, graph.num_edges, -(-graph.num_edges // most_edges))
    edges = [pins[graph.offsets_M1[edge] : graph.offsets_M1[edge + 1]] for edge in kept]
    weights = [*graph.load_E.tolist(), *([1] * graph.num_nodes)]
    size = graph.num_experts + graph.num_nodes
    hypergraph = engine.create_hypergraph(
        context, size, len(edges), edges, weights, graph.weight_M[:: kept.step].tolist()
    )
    hypergraph.add_fixed_vertices([-1] * graph.num_experts + list(range(graph.num_nodes)), graph.num_nodes)
    return np.array(hypergraph.partition(context).get_partition(), dtype=np.int64)[: graph.num_experts]


def _spread(load_E: Ints, share_N: NDArray[np.float64], slots_N: Ints) -> Ints:
    """Experts longest first to the node with the smallest load for its share that has a slot."""
    return _fitted(load_E, np.full(load_E.size, -1, dtype=np.int64), slots_N, share_N)


def _fitted(load_E: Ints, node_E: Ints, slots_N: Ints, share_N: NDArray[np.float64] | None = None) -> Ints:
    """The assignment with experts beyond a node's slots, lightest first, and those without a node, placed elsewhere."""
    node_E, share_N = node_E.copy(), np.ones(slots_N.size) if share_N is None else np.maximum(share_N, 1e-12)
    order = np.argsort(-load_E, kind="stable")
    for node, slots in enumerate(slots_N):
        mine = order[node_E[order] == node]
        node_E[mine[slots:]] = -1
    count_N = np.bincount(node_E[node_E >= 0], minlength=slots_N.size)
    load_N = np.bincount(node_E[node_E >= 0], weights=load_E[node_E >= 0], minlength=slots_N.size)
    for expert in order[node_E[order] < 0]:
        node = int(np.argmin(np.where(count_N < slots_N, (load_N + load_E[expert]) / share_N, np.inf)))
        node_E[expert] = node
        count_N[node] += 1
        load_N[node] += load_E[expert]
    return node_E


def _edges_of(graph: Hypergraph) -> tuple[Ints, Ints]:
    """The edges of each vertex as offsets and edge numbers."""
    edge_I = np.repeat(np.arange(graph.num_edges), np.diff(graph.offsets_M1))
    order = np.argsort(graph.pins_I, kind="stable")
    degree_V = np.bincount(graph.pins_I, minlength=graph.num_experts + graph.num_nodes)
    return np.concatenate([[0], np.cumsum(degree_V)]).astype(np.int64), edge_I[order]


@njit(cache=True, nogil=True)
def _refine(node_E, offsets_M1, pins_I, weight_M, load_E, edges_E1, edges_I, cap_N, slots_N):  # type: ignore[no-untyped-def]
    num_experts, num_nodes = node_E.size, cap_N.size
    pins_MN = np.zeros((weight_M.size, num_nodes), dtype=np.int32)
    for edge in range(weight_M.size):
        for i in range(offsets_M1[edge], offsets_M1[edge + 1]):
            vertex = pins_I[i]
            pins_MN[edge, node_E[vertex] if vertex < num_experts else vertex - num_experts] += 1
    load_N, count_N = np.zeros(num_nodes, dtype=np.int64), np.zeros(num_nodes, dtype=np.int64)
    for expert in range(num_experts):
        load_N[node_E[expert]] += load_E[expert]
        count_N[node_E[expert]] += 1
    gain_EN = np.empty((num_experts, num_nodes), dtype=np.int64)
    for _ in range(_PASSES):
        moved = False
        for expert in range(num_experts):
            _gains(gain_EN[expert], expert, node_E[expert], pins_MN, weight_M, edges_E1, edges_I)
        for expert in range(num_experts):
            here = node_E[expert]
            _gains(gain_EN[expert], expert, here, pins_MN, weight_M, edges_E1, edges_I)
            best, partner, best_node = 0, -1, -1
            for node in range(num_nodes):
                if node == here:
                    continue
                relief = max(load_N[here] - cap_N[here], 0)
                has_room = count_N[node] < slots_N[node] and load_N[node] + load_E[expert] <= cap_N[node]
                if has_room and gain_EN[expert, node] + relief > best:
                    best, partner, best_node = gain_EN[expert, node] + relief, -1, node
            for other in range(num_experts):
                node = node_E[other]
                if node == here:
                    continue
                more = load_E[other] - load_E[expert]
                fits = load_N[here] + more <= max(cap_N[here], load_N[here] - 1)
                fits = fits and load_N[node] - more <= max(cap_N[node], load_N[node] - 1)
                gain = gain_EN[expert, node] + gain_EN[other, here]  # an upper bound where they share tokens
                if fits and gain > best:
                    best, partner, best_node = gain, other, node
            if best_node < 0:
                continue
            _move(expert, here, best_node, node_E, pins_MN, edges_E1, edges_I, load_E, load_N, count_N)
            if partner >= 0:
                before = gain_EN[expert, best_node]
                _gains(gain_EN[partner], partner, best_node, pins_MN, weight_M, edges_E1, edges_I)
                if before + gain_EN[partner, here] <= 0:
                    _move(expert, best_node, here, node_E, pins_MN, edges_E1, edges_I, load_E, load_N, count_N)
                    continue
                _move(partner, best_node, here, node_E, pins_MN, edges_E1, edges_I, load_E, load_N, count_N)
            moved = True
        if not moved:
            break


@njit(cache=True, nogil=True)
def _gains(gain_N, expert, here, pins_MN, weight_M, edges_E1, edges_I):  # type: ignore[no-untyped-def]
    """By how much km1 falls when the expert moves to each node."""
    gain_N[:] = 0
    for i in range(edges_E1[expert], edges_E1[expert + 1]):
        edge = edges_I[i]
        leaves = weight_M[edge] if pins_MN[edge, here] == 1 else 0
        for node in range(gain_N.size):
            gain_N[node] += leaves - (weight_M[edge] if pins_MN[edge, node] == 0 else 0)
    gain_N[here] = 0


@njit(cache=True, nogil=True)
def _move(expert, old, new, node_E, pins_MN, edges_E1, edges_I, load_E, load_N, count_N):  # type: ignore[no-untyped-def]
    for i in range(edges_E1[expert], edges_E1[expert + 1]):
        pins_MN[edges_I[i], old] -= 1
        pins_MN[edges_I[i], new] += 1
    node_E[expert] = new
    load_N[old] -= load_E[expert]
    load_N[new] += load_E[expert]
    count_N[old] -= 1
    count_N[new] += 1
