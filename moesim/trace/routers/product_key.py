"""Product keys (Lample et al. 2019, arXiv 1907.05242; PEER, arXiv 2407.04153): two half-key searches find the top-k of all.

Expert r x columns + c has the score of half-key r against a query's first half plus that of half-key c against its second.
The K best of the grid lie among the K best rows x the K best columns. Array letters: T token, H head, Q numbers of
half a query, R row, C column, K experts of one head.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.stats import norm

from moesim.errors import InputError
from moesim.trace.gate import RouterLayer
from moesim.trace.token_groups import Route, check_between
from moesim.trace.token_stream import TokenBatch, TokenStream

_TOKENS_AT_ONCE = 4096
_NUMBERS = 8  # of half a query of one head


def build(layer: RouterLayer, stream: TokenStream, *, heads: int = 1, rows: int = 0) -> Route:
    """top_k / heads experts for each head's own query; heads share the half-keys, and what two heads choose is merged.

    `rows` half-keys for the first half (0: the square root of num_experts), the others for the second. Queries are
    fresh for every head: only topics and phrases tie heads together. `hot` is the bias of half-keys. Raises InputError.
    """
    check_between("router product_key", "heads", heads, 1, 2**10)
    each, left = divmod(layer.top_k, heads)
    if left:
        raise InputError(f"router product_key: heads={heads} does not divide top_k={layer.top_k}, the ids of all heads")
    num_rows = rows or math.isqrt(layer.num_experts)
    check_between("router product_key", "rows", num_rows, 1, layer.num_experts)
    if layer.num_experts % num_rows or (not rows and num_rows**2 != layer.num_experts):
        raise InputError(
            f"router product_key: num_experts={layer.num_experts} is not a product of rows={num_rows} and as many columns "
            f"as rows, or a whole number of them; take {num_rows**2} or {(num_rows + 1) ** 2}, or rows that divide it"
        )
    num_columns = layer.num_experts // num_rows
    rng = np.random.default_rng([layer.seed, 27, layer.layer])
    hot = stream.knobs.hot
    key_QR, hot_R = _keys(rng, num_rows, hot)
    key_QC, hot_C = _keys(rng, num_columns, hot)
    # Scores of random keys are normal given the query: a threshold that few more than the K largest pass.
    passing = each + 2.5 * each**0.5 + 2.0
    levels = np.array([norm.isf(min(1.0, passing / number)) for number in (num_rows, num_columns)])

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        experts_TK = np.full((len(batch), layer.top_k), -1, np.int32)
        seen_E = np.full(layer.num_experts, -1, np.int32)
        for first in range(0, len(batch), _TOKENS_AT_ONCE):
            part = batch.part(first, min(first + _TOKENS_AT_ONCE, len(batch)))
            query = stream.queries(part, layer.layer, heads * 2 * _NUMBERS).reshape(len(part), heads, 2, _NUMBERS)
            _search(query, key_QR, key_QC, hot_R, hot_C, hot, levels, each, seen_E, first, experts_TK)
        return experts_TK

    return route


def _keys(rng: np.random.Generator, number: int, hot: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """[Q, R] half-keys and [R] their bias."""
    key_QR = rng.standard_normal((_NUMBERS, number), np.float32) * np.float32(_NUMBERS**-0.5)
    return key_QR, (hot * rng.standard_normal(number)).astype(np.float32)


@njit(cache=True, nogil=True)
def _search(  # type: ignore[no-untyped-def]  # types are numba's
    query_THSQ, key_QR, key_QC, hot_R, hot_C, hot, levels, each, seen_E, first, experts_TK
):
    num_columns = len(hot_C)
    score_R, score_C = np.empty(len(hot_R), np.float32), np.empty(num_columns, np.float32)
    place = np.empty(max(len(hot_R), num_columns) + 1, np.int32)
    best_rows, row_of = np.empty(min(each, len(hot_R)), np.float32), np.empty(min(each, len(hot_R)), np.int32)
    best_columns, column_of = np.empty(min(each, num_columns), np.float32), np.empty(min(each, num_columns), np.int32)
    pair_score, pair = np.empty(each, np.float64), np.empty(each, np.int32)
    for token in range(query_THSQ.shape[0]):
        num_kept, row_K = 0, experts_TK[first + token]
        for head in range(query_THSQ.shape[1]):
            _best_half_keys(
                query_THSQ[token, head, 0], key_QR, hot_R, hot, levels[0], score_R, place, best_rows, row_of
            )
            _best_half_keys(
                query_THSQ[token, head, 1], key_QC, hot_C, hot, levels[1], score_C, place, best_columns, column_of
            )
            _best_pairs(best_rows, best_columns, pair_score, pair)
            for k in range(each):
                r, c = divmod(pair[k], len(best_columns))
                expert = row_of[r] * num_columns + column_of[c]
                if seen_E[expert] != first + token:
                    seen_E[expert] = first + token
                    row_K[num_kept] = expert
                    num_kept += 1


@njit(cache=True, nogil=True)
def _best_half_keys(  # type: ignore[no-untyped-def]  # types are numba's
    query_Q, key_QR, hot_R, hot, level, score_R, place, best_K, index_K
):
    """The K largest scores in falling order, of equal ones the first: those above a guessed threshold are sorted in.

    The guess only saves time: where fewer than K pass, it is lowered until enough do.
    """
    _score(query_Q, key_QR, hot_R, score_R)
    squares = 0.0
    for number in query_Q:
        squares += number * number
    deviation = np.sqrt(squares / len(query_Q) + hot * hot)
    least = np.float32(level * deviation)
    num_above = _above(score_R, least, place)
    while num_above < len(best_K):
        level -= 1.0
        least = np.float32(level * deviation) if level > -6.0 else np.float32(-np.inf)
        num_above = _above(score_R, least, place)
    last = len(best_K) - 1
    best_K[:] = -np.inf
    index_K[:] = -1
    for number in range(num_above):
        value = score_R[place[number]]
        if value > best_K[last]:
            at = last
            while at > 0 and best_K[at - 1] < value:
                best_K[at] = best_K[at - 1]
                index_K[at] = index_K[at - 1]
                at -= 1
            best_K[at] = value
            index_K[at] = place[number]


@njit(cache=True, nogil=True)
def _above(score_R, least, place):  # type: ignore[no-untyped-def]  # types are numba's
    """How many scores are at least `least`; their places stand first in `place`. No branch to mispredict."""
    num_above = 0
    for r in range(len(score_R)):
        place[num_above] = r
        num_above += score_R[r] >= least
    return num_above


@njit(cache=True, nogil=True)
def _score(query_Q, key_QR, hot_R, score_R):  # type: ignore[no-untyped-def]  # types are numba's
    """Written out for the eight numbers of half a query: one pass in vector registers, a fixed order of additions."""
    q0, q1, q2, q3 = query_Q[0], query_Q[1], query_Q[2], query_Q[3]
    q4, q5, q6, q7 = query_Q[4], query_Q[5], query_Q[6], query_Q[7]
    for r in range(len(score_R)):
        front = (q0 * key_QR[0, r] + q1 * key_QR[1, r]) + (q2 * key_QR[2, r] + q3 * key_QR[3, r])
        back = (q4 * key_QR[4, r] + q5 * key_QR[5, r]) + (q6 * key_QR[6, r] + q7 * key_QR[7, r])
        score_R[r] = hot_R[r] + (front + back)


@njit(cache=True, nogil=True)
def _best_pairs(best_rows, best_columns, pair_score, pair):  # type: ignore[no-untyped-def]  # types are numba's
    """The largest sums: of pair (r, c) at least (r + 1)(c + 1) - 1 others are as large, so most need no look."""
    each = len(pair)
    pair_score[:] = -np.inf
    pair[:] = -1
    for r in range(len(best_rows)):
        for c in range(min(len(best_columns), each // (r + 1))):
            value = np.float64(best_rows[r]) + np.float64(best_columns[c])
            if value <= pair_score[each - 1]:
                break
            place = each - 1
            while place > 0 and pair_score[place - 1] < value:
                pair_score[place] = pair_score[place - 1]
                pair[place] = pair[place - 1]
                place -= 1
            pair_score[place] = value
            pair[place] = r * len(best_columns) + c
