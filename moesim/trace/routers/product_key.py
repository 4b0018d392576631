"""Product keys (Lample et al. 2019, arXiv 1907.05242; PEER, arXiv 2407.04153): two half-key searches find the top-k of all.

Expert r x columns + c has the score of half-key r against a query's first half plus that of half-key c against its second.
The K best of the grid lie among the K best rows x the K best columns. Array letters: T token, H head, Q numbers of
half a query, R row, C column, K experts of one head.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.trace.gate import RouterLayer, keep_top
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
            f"router product_key: num_experts={layer.num_experts} is not {num_rows} x {num_rows if not rows else 'a whole number'};"
            f" take {num_rows**2} or {(num_rows + 1) ** 2}, or rows that divide it"
        )
    num_columns = layer.num_experts // num_rows
    rng = np.random.default_rng([layer.seed, 27, layer.layer])
    scale, hot = np.float32(_NUMBERS**-0.5), stream.knobs.hot
    row_QR = rng.standard_normal((_NUMBERS, num_rows), np.float32) * scale
    column_QC = rng.standard_normal((_NUMBERS, num_columns), np.float32) * scale
    hot_R = (hot * rng.standard_normal(num_rows)).astype(np.float32)
    hot_C = (hot * rng.standard_normal(num_columns)).astype(np.float32)

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        experts_TK = np.full((len(batch), layer.top_k), -1, np.int32)
        seen_E = np.full(layer.num_experts, -1, np.int32)
        for first in range(0, len(batch), _TOKENS_AT_ONCE):
            part = batch.part(first, min(first + _TOKENS_AT_ONCE, len(batch)))
            query = stream.queries(part, layer.layer, heads * 2 * _NUMBERS).reshape(len(part), heads, 2, _NUMBERS)
            _search(query, row_QR, column_QC, hot_R, hot_C, each, seen_E, first, experts_TK)
        return experts_TK

    return route


@njit(cache=True, nogil=True)
def _search(query_THSQ, row_QR, column_QC, hot_R, hot_C, each, seen_E, first, experts_TK):  # type: ignore[no-untyped-def]  # types are numba's
    num_columns = len(hot_C)
    score_R, score_C = np.empty(len(hot_R), np.float32), np.empty(num_columns, np.float32)
    best_rows, row_of = np.empty(min(each, len(hot_R)), np.float32), np.empty(min(each, len(hot_R)), np.int32)
    best_columns, column_of = np.empty(min(each, num_columns), np.float32), np.empty(min(each, num_columns), np.int32)
    pair_score, pair = np.empty(each, np.float64), np.empty(each, np.int32)
    for token in range(query_THSQ.shape[0]):
        num_kept, row_K = 0, experts_TK[first + token]
        for head in range(query_THSQ.shape[1]):
            _score(query_THSQ[token, head, 0], row_QR, hot_R, score_R)
            _score(query_THSQ[token, head, 1], column_QC, hot_C, score_C)
            keep_top(score_R, best_rows, row_of)
            keep_top(score_C, best_columns, column_of)
            _best_pairs(best_rows, best_columns, pair_score, pair)
            for k in range(each):
                r, c = divmod(pair[k], len(best_columns))
                expert = row_of[r] * num_columns + column_of[c]
                if seen_E[expert] != first + token:
                    seen_E[expert] = first + token
                    row_K[num_kept] = expert
                    num_kept += 1


@njit(cache=True, nogil=True)
def _score(query_Q, key_QR, hot_R, score_R):  # type: ignore[no-untyped-def]  # types are numba's
    """Numbers two at a time: half the passes over the scores."""
    score_R[:] = hot_R
    for q in range(0, len(query_Q), 2):
        one, two, first_R, second_R = query_Q[q], query_Q[q + 1], key_QR[q], key_QR[q + 1]
        for r in range(len(score_R)):
            score_R[r] += one * first_R[r] + two * second_R[r]


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
