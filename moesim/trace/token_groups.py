"""Tokens routed together: how a batch is cut into groups, and what fits an expert's capacity in each.

Array letters: T token, K top-k, E expert.
"""

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.trace.token_stream import TokenBatch

_LOGITS_AT_ONCE = 2**21  # 8 MiB of float32: parts that stay in cache
Route = Callable[[TokenBatch], NDArray[np.int32]]  # [T, K] experts, distinct, -1 at the end of a row


def check_between(part: str, name: str, value: float, low: float, high: float) -> None:
    """Raise InputError naming the part (router zipf, dynamics collapse) unless low <= value <= high."""
    if not low <= value <= high:
        raise InputError(f"{part}: {name} must be {low:g}..{high:g}, got {value}")


def check_top_k(router: str, top_k: int, needed: int) -> None:
    """Raise InputError where a router that gives `needed` experts a token is asked for another number."""
    if top_k != needed:
        raise InputError(f"router {router} gives each token {needed}, got top_k={top_k}; take softmax_topk for others")


def in_parts(batch: TokenBatch, num_logits: int, route: Route) -> NDArray[np.int32]:
    """`route` over a batch in parts of a few MiB of logits, `num_logits` a token: for routers that see one token."""
    size = max(1, _LOGITS_AT_ONCE // num_logits)
    return np.concatenate([route(batch.part(at, min(at + size, len(batch)))) for at in range(0, len(batch), size)])


def in_groups(batch: TokenBatch, group_tokens: int, route: Route) -> NDArray[np.int32]:
    """`route` over a batch in consecutive groups of about `group_tokens` tokens, equal up to one token."""
    num_groups = max(1, round(len(batch) / group_tokens))
    ends = [len(batch) * number // num_groups for number in range(num_groups + 1)]
    return np.concatenate([route(batch.part(*ends[number : number + 2])) for number in range(num_groups)])


def keep_within(experts_TK: NDArray[np.int32], capacity: int, num_experts: int) -> NDArray[np.int32]:
    """Rows with the experts that had room: all first choices in token order, then all second ones, and so on.

    An expert takes at most `capacity` tokens; what it refuses is dropped and its row closed up, -1 at the end.
    """
    kept_TK = np.full_like(experts_TK, -1)
    _keep_within(experts_TK, capacity, np.zeros(num_experts, np.int64), np.zeros(len(experts_TK), np.int64), kept_TK)
    return kept_TK


@njit(cache=True, nogil=True)
def _keep_within(experts_TK, capacity, load_E, kept_T, kept_TK):  # type: ignore[no-untyped-def]  # types are numba's
    for k in range(experts_TK.shape[1]):
        for token in range(experts_TK.shape[0]):
            expert = experts_TK[token, k]
            if expert >= 0 and load_E[expert] < capacity:
                load_E[expert] += 1
                kept_TK[token, kept_T[token]] = expert
                kept_T[token] += 1
