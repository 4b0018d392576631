"""Drawing K distinct experts for every token of every layer: two sampling designs without replacement, seeded.

Each layer has its own generator (splitmix64, keyed by seed and layer), so layers run on any number of threads with the
same result. Array letters: L layer, T token, E expert, K top-k.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import get_num_threads, njit
from numpy.typing import NDArray

_TRIES = 32  # rejected draws before one is made among the rest of the experts instead; the law of the draw is the same


def draw_by_share(share_LE: NDArray[np.float64], num_tokens: int, top_k: int, seed: int) -> NDArray[np.int32]:
    """[L, T, K] distinct experts; expert e is among a token's K with probability exactly share_LE[l, e].

    Shares lie in 0..1 and sum to K in every layer. Madow's systematic sampling with the experts shuffled anew for each
    token: a uniform start, then every expert whose stretch of the summed shares holds start + 0, 1, ... K-1.
    Cost: about 1 us a token, layer and 256 experts on one core.
    """
    experts_LTK = np.empty((share_LE.shape[0], num_tokens, top_k), np.int32)
    _each_layer(lambda layer: _by_share(share_LE[layer], experts_LTK[layer], _layer_key(seed, layer)), len(share_LE))
    return experts_LTK


def draw_by_weight(weight_LE: NDArray[np.float64], num_tokens: int, top_k: int, seed: int) -> NDArray[np.int32]:
    """[L, T, K] distinct experts, drawn one after the other in proportion to the weights of those not drawn yet.

    Weights are positive. Frequent experts come out less often than in proportion to their weight, more so as K grows.
    Where those not drawn yet weigh less than about 1e-12 of all, rounding decides among them.
    Cost: linear in experts, and at most K for a draw, however skewed the weights are.
    """
    experts_LTK = np.empty((weight_LE.shape[0], num_tokens, top_k), np.int32)
    _each_layer(lambda layer: _by_weight(weight_LE[layer], experts_LTK[layer], _layer_key(seed, layer)), len(weight_LE))
    return experts_LTK


def draw_layer_by_weight(
    weight_E: NDArray[np.float64], num_tokens: int, top_k: int, seed: int, layer: int
) -> NDArray[np.int32]:
    """[T, K]: layer `layer` of `draw_by_weight` alone."""
    experts_TK = np.empty((num_tokens, top_k), np.int32)
    _by_weight(weight_E, experts_TK, _layer_key(seed, layer))
    return experts_TK


def _each_layer(draw: Callable[[int], None], num_layers: int) -> None:
    with ThreadPoolExecutor(get_num_threads()) as threads:  # the kernels hold no interpreter lock
        list(threads.map(draw, range(num_layers)))


def _layer_key(seed: int, layer: int) -> np.uint64:
    return np.uint64(np.random.SeedSequence([seed % 2**64, layer]).generate_state(1, np.uint64)[0])


@njit(cache=True, nogil=True, inline="always")
def _advance(state):  # type: ignore[no-untyped-def]  # types are numba's
    return state + np.uint64(0x9E3779B97F4A7C15)


@njit(cache=True, nogil=True)
def _mix(state):  # type: ignore[no-untyped-def]  # types are numba's
    mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@njit(cache=True, nogil=True)
def _unit(state):  # type: ignore[no-untyped-def]  # types are numba's
    """A float in 0..1, 1 excluded, from the top 53 bits."""
    return (_mix(state) >> np.uint64(11)) * 2.0**-53


@njit(cache=True, nogil=True)
def _below(state, end):  # type: ignore[no-untyped-def]  # types are numba's
    """An integer in 0..end-1; uneven by at most end / 2**32."""
    return np.int64(((_mix(state) >> np.uint64(32)) * np.uint64(end)) >> np.uint64(32))


@njit(cache=True, nogil=True)
def _by_share(share_E, experts_TK, state):  # type: ignore[no-untyped-def]  # types are numba's
    num_tokens, top_k = experts_TK.shape
    order = np.flatnonzero(share_E)
    for token in range(num_tokens):
        for last in range(len(order) - 1, 0, -1):
            state = _advance(state)
            other = _below(state, last + 1)
            order[last], order[other] = order[other], order[last]
        state = _advance(state)
        mark, reached, num_drawn = _unit(state), 0.0, 0
        for index in range(len(order)):
            reached += share_E[order[index]]
            # Rounding may leave the last mark just above the sum of all shares: then the last experts fill the row.
            if num_drawn < top_k and (reached > mark or len(order) - index <= top_k - num_drawn):
                experts_TK[token, num_drawn] = order[index]
                num_drawn += 1
                mark += 1.0


@njit(cache=True, nogil=True)
def _by_weight(weight_E, experts_TK, state):  # type: ignore[no-untyped-def]  # types are numba's
    num_tokens, top_k = experts_TK.shape
    num_experts = len(weight_E)
    summed_E = np.cumsum(weight_E)
    # Where to start looking for a point of the summed weights: a few steps to go, however many experts there are.
    start_E = np.empty(num_experts, np.int32)  # by one sweep: searching each point takes 4 to 8 times as long
    first = 0
    for at in range(num_experts):
        while first < num_experts and summed_E[first] <= at * (summed_E[-1] / num_experts):
            first += 1
        start_E[at] = first
    drawn_by_E = np.full(num_experts, -1, np.int32)
    sorted_K = np.empty(top_k, np.int32)  # the experts drawn for a token, ascending, once they are needed so
    for token in range(num_tokens):
        drawn_weight = 0.0
        num_sorted = 0
        for k in range(top_k):
            expert = -1
            for _ in range(_TRIES):
                state = _advance(state)
                point = _unit(state)
                found = min(start_E[int(point * num_experts)], num_experts - 1)
                while found < num_experts - 1 and summed_E[found] <= point * summed_E[-1]:
                    found += 1
                if drawn_by_E[found] != token:
                    expert = found
                    break
            if expert < 0:
                for place in range(num_sorted, k):
                    _insert(sorted_K, place, experts_TK[token, place])
                num_sorted = k
                state = _advance(state)
                expert = _undrawn(summed_E, sorted_K[:k], _unit(state) * (summed_E[-1] - drawn_weight))
            drawn_by_E[expert] = token
            drawn_weight += weight_E[expert]
            experts_TK[token, k] = expert


@njit(cache=True, nogil=True)
def _insert(sorted_K, count, expert):  # type: ignore[no-untyped-def]  # types are numba's
    """Put `expert` in its place among the first `count` numbers, which ascend."""
    place = count
    while place > 0 and sorted_K[place - 1] > expert:
        sorted_K[place] = sorted_K[place - 1]
        place -= 1
    sorted_K[place] = expert


@njit(cache=True, nogil=True)
def _undrawn(summed_E, sorted_K, point):  # type: ignore[no-untyped-def]  # types are numba's
    """The expert at `point` of the summed weights of those not in `sorted_K`, the last of them if the point is beyond.

    Goes from one drawn expert to the next and searches the stretch between two of them that holds the point.
    """
    last, first, before = -1, 0, 0.0
    for k in range(len(sorted_K) + 1):
        stop = sorted_K[k] if k < len(sorted_K) else len(summed_E)
        if first < stop:
            weight = summed_E[stop - 1] - before
            if point < weight:
                return min(first + np.searchsorted(summed_E[first:stop], before + point, side="right"), stop - 1)
            point -= weight
            last = stop - 1
        if stop < len(summed_E):
            first, before = stop + 1, summed_E[stop]
    return last
