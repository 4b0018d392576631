"""Vertices to nodes so that tokens touch few of them: local search on a smoothed fan-out, with a toll on full nodes.

The number of nodes a token touches does not change when one of five vertices leaves a node, so a search on it sees
plateaus. The smoothed count of a node with n of a token's vertices is 1 - q^n: it falls with every vertex that leaves, and
is the true count at q = 0. Stages lower q (probabilistic fan-out: Kabiljo et al., Social Hash Partitioner, VLDB
2017, section 3). A cap on load alone would fill the nodes that are wanted most with whatever comes first: a toll that
rises towards the cap sends on what loses little elsewhere. A vertex costs its tokens x nodes a pass, whatever the number of
experts. Array letters: T token, V vertex, N node, I (vertex, token) pin, C number of a token's vertices on a node.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
STAGES = (0.9, 0.7, 0.4)  # q
PASSES = 7
TOLL = 0.3  # visits of a token to a node, for each use of an expert on a node at its cap
TOLL_FROM = 0.9  # of the cap; below it there is none
_MOST_LEVEL = 254  # of a byte, so that rounding up fits
_AT_ONCE = 256  # levels whose sum fits two bytes
_GOLDEN = 0.6180339887498949


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
    scale_T = weight_T * (_MOST_LEVEL / max(float(weight_T.max(initial=0.0)), 1e-300))
    whole_load = max(float(load_V.sum()), 1e-300)
    # Levels that a use of an expert is worth, at a node's cap for each of its uses.
    toll_N = TOLL * float(scale_T[tokens[1]].sum()) / whole_load / np.maximum(most_load_N, 1e-9 * whole_load)
    load_N = np.bincount(node_V, weights=load_V, minlength=most_load_N.size)
    size_N = np.bincount(node_V, weights=size_V, minlength=most_load_N.size)
    count_TN = _counts(node_V, *tokens, np.zeros((weight_T.size, most_load_N.size), dtype=np.uint16))
    level_TN = np.empty(count_TN.shape, dtype=np.uint8)
    most_count = int(np.bincount(tokens[1], minlength=1).max())
    for q in STAGES:
        levels = (scale_T, q ** np.arange(most_count + 1.0), np.arange(weight_T.size) * _GOLDEN % 1.0)
        _set_levels(level_TN, count_TN, *levels)
        _passes(
            node_V, *tokens, load_V, size_V, load_N, size_N, most_load_N, most_size_N, toll_N, count_TN, level_TN, levels,
            q, order, passes,
        )  # fmt: skip
    return node_V


@njit(cache=True, nogil=True)
def _counts(node_V, offsets_V1, token_I, count_TN):  # type: ignore[no-untyped-def]  # types are numba's
    """`count_TN` with each token's vertices on each node added."""
    for vertex in range(node_V.size):
        for i in range(offsets_V1[vertex], offsets_V1[vertex + 1]):
            count_TN[token_I[i], node_V[vertex]] += 1
    return count_TN


@njit(cache=True, nogil=True)
def _set_levels(level_TN, count_TN, scale_T, power_C, dither_T):  # type: ignore[no-untyped-def]
    for token in range(count_TN.shape[0]):
        for node in range(count_TN.shape[1]):
            level_TN[token, node] = _level(count_TN[token, node], token, scale_T, power_C, dither_T)


@njit(cache=True, nogil=True)
def _level(count, token, scale_T, power_C, dither_T):  # type: ignore[no-untyped-def]
    """What the vertices of a token on a node leave of its weight, w x q^count, as a byte.

    A quarter of the memory traffic of 32-bit numbers makes a pass quick. Tokens round up from different remainders, so
    that their sums are right where single levels are below 1.
    """
    return np.uint8(scale_T[token] * power_C[count] + dither_T[token])


@njit(cache=True, nogil=True)
def _passes(  # type: ignore[no-untyped-def]
    node_V, offsets_V1, token_I, load_V, size_V, load_N, size_N, most_load_N, most_size_N, toll_N, count_TN, level_TN,
    levels, q, order, passes,
):  # fmt: skip
    part_N, cost_N = np.empty(load_N.size, dtype=np.uint16), np.empty(load_N.size, dtype=np.uint32)
    for _ in range(passes):
        moved = 0
        for vertex in order:
            here, load, size = node_V[vertex], load_V[vertex], size_V[vertex]
            token_J = token_I[offsets_V1[vertex] : offsets_V1[vertex + 1]]
            _sum_levels(level_TN, token_J, part_N, cost_N)
            # A copy more on node n costs each token (1 - q) x what its vertices there leave of the weight; a smaller
            # remainder is a node the token goes to anyway.
            best, chosen = cost_N[here] / q + _toll(load, load_N[here] - load / 2, most_load_N[here], toll_N[here]), -1
            if load_N[here] > most_load_N[here] or size_N[here] > most_size_N[here]:
                best = np.inf
            for node in range(load_N.size):
                if node == here or cost_N[node] >= best:
                    continue
                cost = cost_N[node] + _toll(load, load_N[node] + load / 2, most_load_N[node], toll_N[node])
                fits = load_N[node] + load <= most_load_N[node] and size_N[node] + size <= most_size_N[node]
                if fits and cost < best:
                    best, chosen = cost, node
            if chosen < 0:
                continue
            moved += 1
            for token in token_J:
                for node, change in ((here, -1), (chosen, 1)):
                    count_TN[token, node] += change
                    level_TN[token, node] = _level(count_TN[token, node], token, *levels)
            node_V[vertex] = chosen
            load_N[here] -= load
            load_N[chosen] += load
            size_N[here] -= size
            size_N[chosen] += size
        if moved * 500 < order.size:
            break


@njit(cache=True, nogil=True)
def _toll(load, middle, most, toll):  # type: ignore[no-untyped-def]
    """What a vertex pays for its load on a node whose load is `middle` with half of the vertex."""
    return load * toll * max(0.0, middle - TOLL_FROM * most) / (1.0 - TOLL_FROM)


@njit(cache=True, nogil=True)
def _sum_levels(level_TN, token_J, part_N, cost_N):  # type: ignore[no-untyped-def]
    """Sums of some tokens' levels on every node, into `cost_N`; four rows at once, in two bytes as long as these hold them."""
    cost_N[:] = 0
    i = 0
    while i < token_J.size:
        stop = min(i + _AT_ONCE, token_J.size)
        part_N[:] = 0
        while i + 4 <= stop:
            a_N, b_N, c_N, d_N = (
                level_TN[token_J[i]], level_TN[token_J[i + 1]], level_TN[token_J[i + 2]], level_TN[token_J[i + 3]],
            )  # fmt: skip
            for node in range(part_N.size):
                part_N[node] += (
                    np.uint16(a_N[node]) + np.uint16(b_N[node]) + np.uint16(c_N[node]) + np.uint16(d_N[node])
                )
            i += 4
        while i < stop:
            a_N = level_TN[token_J[i]]
            for node in range(part_N.size):
                part_N[node] += np.uint16(a_N[node])
            i += 1
        for node in range(part_N.size):
            cost_N[node] += np.uint32(part_N[node])
