"""Vertices to nodes so that tokens touch few of them: local search on a smoothed fan-out, under a cap on load.

The number of nodes a token touches does not change when one of five vertices leaves a node, so a search on it sees
plateaus. The smoothed count of a node with n of a token's vertices is 1 - q^n: it falls with every vertex that leaves, and
is the true count at q = 0. Stages lower q (probabilistic fan-out: Kabiljo et al., Social Hash Partitioner, VLDB
2017, section 3). A vertex costs its tokens x nodes a pass, whatever the number of experts.
Array letters: T token, V vertex, N node, I (vertex, token) pin.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
STAGES = (0.8, 0.5, 0.3)  # q
PASSES = 10


def vertex_tokens(vertex_TK: NDArray[np.integer], num_vertices: int) -> tuple[Ints, Ints]:
    """The tokens of each vertex, as offsets [V + 1] and token numbers [I]; -1 is no vertex, repeats count once."""
    token_TK = np.broadcast_to(np.arange(len(vertex_TK), dtype=np.int64)[:, None], vertex_TK.shape)
    there_TK = vertex_TK >= 0
    keys = np.sort(vertex_TK[there_TK].astype(np.int64) * len(vertex_TK) + token_TK[there_TK])
    keys = keys[np.diff(keys, prepend=-1) > 0]
    vertex_I, token_I = np.divmod(keys, max(len(vertex_TK), 1))
    return np.searchsorted(vertex_I, np.arange(num_vertices + 1)).astype(np.int64), token_I


def spread_smoothly(
    node_V: Ints,
    tokens: tuple[Ints, Ints],
    weight_T: Floats,
    load_V: Floats,
    size_V: Floats,
    most_load_N: Floats,
    most_size_N: Floats,
    passes: int = PASSES,
) -> Ints:
    """`node_V` improved; node n ends with about `most_load_N[n]` at most and `most_size_N[n]` experts (`size_V` a vertex).

    Vertices go in falling order of load; one that sits above a cap goes where it costs least, so that caps hold at the
    end wherever single vertices fit under them. Same arguments, same answer.
    """
    node_V = node_V.astype(np.int64)
    order = np.argsort(-load_V, kind="stable")
    order = order[np.diff(tokens[0])[order] > 0]
    smooth_TN = np.empty((weight_T.size, most_load_N.size), dtype=np.float32)
    for q in STAGES:
        smooth_TN[:] = weight_T[:, None]
        _passes(
            node_V, *tokens, load_V, size_V, smooth_TN, np.float32(q), most_load_N, most_size_N, order, passes
        )  # fmt: skip
    return node_V


@njit(cache=True, nogil=True)
def _passes(  # type: ignore[no-untyped-def]  # types are numba's
    node_V, offsets_V1, token_I, load_V, size_V, smooth_TN, q, most_load_N, most_size_N, order, passes
):
    num_nodes = most_load_N.size
    load_N, size_N = np.zeros(num_nodes), np.zeros(num_nodes)
    for vertex in range(node_V.size):
        load_N[node_V[vertex]] += load_V[vertex]
        size_N[node_V[vertex]] += size_V[vertex]
        for i in range(offsets_V1[vertex], offsets_V1[vertex + 1]):
            smooth_TN[token_I[i], node_V[vertex]] *= q
    cost_N = np.empty(num_nodes, dtype=np.float32)
    for _ in range(passes):
        moved = 0
        for vertex in order:
            here = node_V[vertex]
            cost_N[:] = 0.0
            for i in range(offsets_V1[vertex], offsets_V1[vertex + 1]):
                # A copy more on node n costs each token (1 - q) x what its vertices there leave of the weight; a smaller
                # remainder is a node the token goes to anyway.
                smooth_N = smooth_TN[token_I[i]]
                for node in range(num_nodes):
                    cost_N[node] += smooth_N[node]
            over = load_N[here] > most_load_N[here] or size_N[here] > most_size_N[here]
            best, chosen = np.float32(np.inf) if over else cost_N[here] / q, -1
            for node in range(num_nodes):
                fits = load_N[node] + load_V[vertex] <= most_load_N[node]
                if node != here and cost_N[node] < best and fits and size_N[node] + size_V[vertex] <= most_size_N[node]:
                    best, chosen = cost_N[node], node
            if chosen < 0:
                continue
            moved += 1
            for i in range(offsets_V1[vertex], offsets_V1[vertex + 1]):
                smooth_TN[token_I[i], here] /= q
                smooth_TN[token_I[i], chosen] *= q
            node_V[vertex] = chosen
            load_N[here] -= load_V[vertex]
            load_N[chosen] += load_V[vertex]
            size_N[here] -= size_V[vertex]
            size_N[chosen] += size_V[vertex]
        if moved * 500 < order.size:
            break
