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
_STRIPE = 64  # half-keys searched side by side


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
    hot = stream.knobs.hot
    half_keys = [_keys(rng, number, each, hot) for number in (num_rows, num_columns)]
    (row_QR, hot_R), (column_QC, hot_C) = half_keys

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        experts_TK = np.full((len(batch), layer.top_k), -1, np.int32)
        seen_E = np.full(layer.num_experts, -1, np.int32)
        for first in range(0, len(batch), _TOKENS_AT_ONCE):
            part = batch.part(first, min(first + _TOKENS_AT_ONCE, len(batch)))
            query = stream.queries(part, layer.layer, heads * 2 * _NUMBERS).reshape(len(part), heads, 2, _NUMBERS)
            _search(query, row_QR, column_QC, hot_R, hot_C, each, num_columns, seen_E, first, experts_TK)
        return experts_TK

    return route


def _keys(
    rng: np.random.Generator, number: int, each: int, hot: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """[Q, R] half-keys and [R] their bias, -inf for those that fill the last stripe of the search."""
    stripe = _STRIPE * -(-each // _STRIPE)
    key_QR = np.zeros((_NUMBERS, stripe * -(-number // stripe)), np.float32)
    key_QR[:, :number] = rng.standard_normal((_NUMBERS, number), np.float32) * np.float32(_NUMBERS**-0.5)
    hot_R = np.full(key_QR.shape[1], -np.inf, np.float32)
    hot_R[:number] = hot * rng.standard_normal(number)
    return key_QR, hot_R


@njit(cache=True, nogil=True)
def _search(  # type: ignore[no-untyped-def]  # types are numba's
    query_THSQ, row_QR, column_QC, hot_R, hot_C, each, num_columns, seen_E, first, experts_TK
):
    stripe = _STRIPE * -(-each // _STRIPE)
    score_R, score_C = np.empty(len(hot_R), np.float32), np.empty(len(hot_C), np.float32)
    peak_J, best_peaks, place_of = np.empty(stripe, np.float32), np.empty(each, np.float32), np.empty(each, np.int32)
    best_rows, row_of = np.empty(each, np.float32), np.empty(each, np.int32)
    best_columns, column_of = np.empty(each, np.float32), np.empty(each, np.int32)
    pair_score, pair = np.empty(each, np.float64), np.empty(each, np.int32)
    for token in range(query_THSQ.shape[0]):
        num_kept, row_K = 0, experts_TK[first + token]
        for head in range(query_THSQ.shape[1]):
            _score(query_THSQ[token, head, 0], row_QR, hot_R, score_R, peak_J)
            keep_top(peak_J, best_peaks, place_of)
            _keep_above(score_R, peak_J, best_peaks[each - 1], best_rows, row_of)
            _score(query_THSQ[token, head, 1], column_QC, hot_C, score_C, peak_J)
            keep_top(peak_J, best_peaks, place_of)
            _keep_above(score_C, peak_J, best_peaks[each - 1], best_columns, column_of)
            _best_pairs(best_rows, best_columns, pair_score, pair)
            for k in range(each):
                r, c = divmod(pair[k], each)
                expert = row_of[r] * num_columns + column_of[c]
                if seen_E[expert] != first + token:
                    seen_E[expert] = first + token
                    row_K[num_kept] = expert
                    num_kept += 1


@njit(cache=True, nogil=True)
def _score(query_Q, key_QR, hot_R, score_R, peak_J):  # type: ignore[no-untyped-def]  # types are numba's
    """Scores of all half-keys, and the largest score of every residue class of places: both in vector registers.

    Written out for the eight numbers of a query, in a fixed order of additions: the same bits on every machine.
    """
    q0, q1, q2, q3 = query_Q[0], query_Q[1], query_Q[2], query_Q[3]
    q4, q5, q6, q7 = query_Q[4], query_Q[5], query_Q[6], query_Q[7]
    stripe = len(peak_J)
    peak_J[:] = -np.inf
    for start in range(0, len(score_R), stripe):
        for j in range(stripe):
            r = start + j
            front = (q0 * key_QR[0, r] + q1 * key_QR[1, r]) + (q2 * key_QR[2, r] + q3 * key_QR[3, r])
            back = (q4 * key_QR[4, r] + q5 * key_QR[5, r]) + (q6 * key_QR[6, r] + q7 * key_QR[7, r])
            value = hot_R[r] + (front + back)
            score_R[r] = value
            peak_J[j] = value if value > peak_J[j] else peak_J[j]


@njit(cache=True, nogil=True)
def _keep_above(score_R, peak_J, least, best_K, index_K):  # type: ignore[no-untyped-def]  # types are numba's
    """The K largest scores in falling order, of equal ones the first: all are at least the K-th largest peak."""
    last = len(best_K) - 1
    best_K[:] = -np.inf
    index_K[:] = -1
    for j in range(len(peak_J)):
        if peak_J[j] < least or peak_J[j] == -np.inf:
            continue
        for r in range(j, len(score_R), len(peak_J)):
            value = score_R[r]
            if value < least or value < best_K[last] or value == -np.inf:
                continue
            place = last
            if value == best_K[last] and r > index_K[last]:
                continue
            while place > 0 and (best_K[place - 1] < value or (best_K[place - 1] == value and index_K[place - 1] > r)):
                best_K[place] = best_K[place - 1]
                index_K[place] = index_K[place - 1]
                place -= 1
            best_K[place] = value
            index_K[place] = r


@njit(cache=True, nogil=True)
def _best_pairs(best_rows, best_columns, pair_score, pair):  # type: ignore[no-untyped-def]  # types are numba's
    """The largest sums: of pair (r, c) at least (r + 1)(c + 1) - 1 others are as large, so most need no look."""
    each = len(pair)
    pair_score[:] = -np.inf
    pair[:] = -1
    for r in range(len(best_rows)):
        for c in range(each // (r + 1)):
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
