"""Tiles of a product-key grid for nodes: rows x columns cut in two again and again, where few searches are cut.

A head of a token picks experts around one point of the grid: those that share a row or a column belong to one *search*.
A cut puts some rows (or columns) of a tile on one side, so that both sides get the load their nodes can take and few
searches lie on both. Which rows belong together: the leading directions of their affinity (searches that hold both),
tried one by one, rows and columns. What is left after log2(nodes) cuts is a tile for each node, small where load is dense.
Array letters: T token, K top-k, E expert, N node, I (search, expert) pin, X row or column of a tile, C candidate.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.planner.product_keys import KeyGrid

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
MOST_TOKENS = 6144  # that cuts are judged on
_DIRECTIONS = 4  # of affinity, each a candidate cut
_ITERATIONS = 6  # of the power method: any mixture of the leading directions will do


def tiles_of_nodes(experts_TK: NDArray[np.int32], load_E: Floats, grid: KeyGrid, share_N: Floats) -> Ints:
    """The node of each expert, int64 [E]: tiles of the grid that carry about `share_N` of the load each.

    Nodes are numbered so that neighbours come from the same late cuts. Cuts are judged on some of the tokens given (-1 =
    none). Same arguments, same answer.
    """
    some_TK = experts_TK[:: max(1, -(-len(experts_TK) // MOST_TOKENS))]
    pins_I, search_I = _searches(some_TK, grid.rows, grid.columns)
    node_E = np.zeros(grid.rows * grid.columns, dtype=np.int64)
    node_RC, load_RC = node_E.reshape(grid), load_E.reshape(grid)
    whole = (np.arange(grid.rows), np.arange(grid.columns), pins_I, search_I, 0, share_N.size)
    waiting = [whole]
    while waiting:
        rows, columns, pins_I, search_I, first, stop = waiting.pop()
        if stop - first == 1:
            node_RC[np.ix_(rows, columns)] = first
            continue
        middle = first + (stop - first + 1) // 2
        share = float(share_N[first:middle].sum() / share_N[first:stop].sum())
        is_row, right_X, right_I = _best_cut(
            rows, columns, load_RC[np.ix_(rows, columns)], pins_I, search_I, grid, share
        )
        for side, low, high in ((right_X, middle, stop), (~right_X, first, middle)):
            mine_I = right_I if low == middle else ~right_I
            mine = (rows[side], columns) if is_row else (rows, columns[side])
            waiting.append((*mine, pins_I[mine_I], search_I[mine_I], low, high))
    return node_E


def _searches(experts_TK: NDArray[np.int32], rows: int, columns: int) -> tuple[Ints, Ints]:
    """Experts of all tokens [I] and the search each belongs to, searches numbered in order."""
    expert_I, search_I = _joined(np.ascontiguousarray(experts_TK), rows, columns)
    order = np.argsort(search_I, kind="stable")
    return expert_I[order], search_I[order]


@njit(cache=True, nogil=True)
def _joined(experts_TK, rows, columns):  # type: ignore[no-untyped-def]  # types are numba's
    """Pins, and for each the number of its token's group of experts that rows and columns tie together."""
    row_token, row_at = np.full(rows, -1, dtype=np.int64), np.empty(rows, dtype=np.int64)
    column_token, column_at = np.full(columns, -1, dtype=np.int64), np.empty(columns, dtype=np.int64)
    expert_I = np.empty(experts_TK.size, dtype=np.int64)
    search_I = np.empty(experts_TK.size, dtype=np.int64)
    parent = np.empty(experts_TK.shape[1], dtype=np.int64)
    count = 0
    for token in range(experts_TK.shape[0]):
        first, parent[:] = count, np.arange(parent.size)
        for k in range(experts_TK.shape[1]):
            expert = experts_TK[token, k]
            if expert < 0:
                continue
            row, column = expert // columns, expert % columns
            at = count - first
            if row_token[row] == token:
                parent[_root(parent, at)] = _root(parent, row_at[row])
            if column_token[column] == token:
                parent[_root(parent, at)] = _root(parent, column_at[column])
            row_token[row], row_at[row] = token, at
            column_token[column], column_at[column] = token, at
            expert_I[count] = expert
            count += 1
        for at in range(count - first):
            search_I[first + at] = first + _root(parent, at)
    return expert_I[:count], search_I[:count]


@njit(cache=True, nogil=True)
def _root(parent, at):  # type: ignore[no-untyped-def]
    while parent[at] != at:
        parent[at] = parent[parent[at]]
        at = parent[at]
    return at


def _best_cut(
    rows: Ints, columns: Ints, load_RC: Floats, pins_I: Ints, search_I: Ints, grid: KeyGrid, share: float
) -> tuple[bool, NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether rows are cut, which of them go right [X], and which pins do [I]: fewest searches cut for a level load."""
    best, answer = np.inf, None
    for is_row, names, load_X, key_I in (
        (True, rows, load_RC.sum(axis=1), pins_I // grid.columns),
        (False, columns, load_RC.sum(axis=0), pins_I % grid.columns),
    ):
        if names.size < 2:
            continue
        place = np.full(max(grid), -1, dtype=np.int64)
        place[names] = np.arange(names.size)
        place_I = place[key_I]
        affinity_XX = np.zeros((names.size, names.size), dtype=np.float32)
        _add_pairs(affinity_XX, place_I, search_I)
        for value_X in _directions(affinity_XX):
            right_X, left_load = _level(value_X, load_X, share)
            cut = int(_count_cut(right_X, place_I, search_I))
            # Load that ends on the wrong side must leave its tile later, and cuts about as many searches.
            wrong = abs(left_load - share * load_X.sum()) / max(load_X.sum(), 1e-300)
            badness = cut / max(search_I.size, 1) + wrong
            if badness < best:
                best, answer = badness, (is_row, right_X, right_X[place_I])
    if answer is None:  # one expert and two nodes
        return True, np.zeros(rows.size, dtype=np.bool_), np.zeros(pins_I.size, dtype=np.bool_)
    return answer


@njit(cache=True, nogil=True)
def _add_pairs(affinity_XX, place_I, search_I):  # type: ignore[no-untyped-def]
    """One for every search and pair of different rows in it."""
    found = np.empty(place_I.size, dtype=np.int64)
    stamp = np.full(affinity_XX.shape[0], -1, dtype=np.int64)
    start = 0
    while start < place_I.size:
        end, count = start, 0
        while end < place_I.size and search_I[end] == search_I[start]:
            if stamp[place_I[end]] != start:
                stamp[place_I[end]] = start
                found[count] = place_I[end]
                count += 1
            end += 1
        for i in range(count):
            for j in range(i):
                affinity_XX[found[i], found[j]] += np.float32(1.0)
                affinity_XX[found[j], found[i]] += np.float32(1.0)
        start = end


def _directions(whole_XX: NDArray[np.float32]) -> list[Floats]:
    """Values of rows [X] along the leading directions of the affinity divided by degrees, beside the trivial one.

    Rows that no search ties to another have value 0.
    """
    used = np.flatnonzero(whole_XX.any(axis=1))
    if used.size < 3:
        return [np.arange(len(whole_XX), dtype=np.float64)]
    affinity_XX = whole_XX if used.size == len(whole_XX) else whole_XX[np.ix_(used, used)]
    degree_X = affinity_XX.sum(axis=1)
    scale_X = 1.0 / np.sqrt(degree_X)
    scaled_XX = affinity_XX * scale_X[:, None] * scale_X[None, :]
    size = degree_X.size
    number = min(_DIRECTIONS, size - 1)
    trivial_X = np.sqrt(degree_X) / np.linalg.norm(np.sqrt(degree_X))
    basis_XC = np.random.default_rng(size).standard_normal((size, number)).astype(np.float32)
    for _ in range(_ITERATIONS):
        basis_XC = basis_XC - trivial_X[:, None] * (trivial_X @ basis_XC)[None, :]
        basis_XC = np.linalg.qr(basis_XC)[0]
        basis_XC = _add_product(scaled_XX, np.ascontiguousarray(basis_XC.T)).T  # + I: some eigenvalues are negative
    answer = np.zeros((number, len(whole_XX)))
    answer[:, used] = basis_XC.T * scale_X
    return list(answer)


@njit(cache=True, nogil=True)
def _add_product(scaled_XX, basis_CX):  # type: ignore[no-untyped-def]
    """(scaled + I) basis of a symmetric matrix, in one order of additions whatever the number of threads."""
    answer_CX = basis_CX.copy()
    for x in range(scaled_XX.shape[0]):
        row_X = scaled_XX[x]
        for c in range(basis_CX.shape[0]):
            factor = basis_CX[c, x]
            for y in range(row_X.size):
                answer_CX[c, y] += factor * row_X[y]
    return answer_CX


def _level(value_X: Floats, load_X: Floats, share: float) -> tuple[NDArray[np.bool_], float]:
    """Which rows go right when the others, those of small value, carry `share` of the load as nearly as can be."""
    order = np.argsort(value_X, kind="stable")
    before = np.cumsum(load_X[order])
    kept = int(np.argmin(np.abs(before[:-1] - share * before[-1]))) + 1
    right_X = np.ones(value_X.size, dtype=np.bool_)
    right_X[order[:kept]] = False
    return right_X, float(before[kept - 1])


@njit(cache=True, nogil=True)
def _count_cut(right_X, place_I, search_I):  # type: ignore[no-untyped-def]
    """Searches with pins on both sides."""
    cut, start = 0, 0
    while start < place_I.size:
        end, on_right = start, 0
        while end < place_I.size and search_I[end] == search_I[start]:
            on_right += right_X[place_I[end]]
            end += 1
        cut += 0 < on_right < end - start
        start = end
    return cut
