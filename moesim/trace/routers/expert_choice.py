"""Expert choice (Zhou et al. 2022, arXiv 2202.09368): every expert picks the same number of tokens of a group.

Array letters: T token, E expert, K most experts of a token.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.trace.gate import RouterLayer, make_gate
from moesim.trace.token_groups import Route, check_between, in_groups
from moesim.trace.token_stream import TokenBatch, TokenStream


def build(layer: RouterLayer, stream: TokenStream, *, mean_experts: float = 0.0, group_tokens: int = 1024) -> Route:
    """Every expert picks C = max(1, floor(T x mean_experts / E)) of the T tokens of a group of about
    `group_tokens`; rows end in -1.

    A token keeps at most top_k experts, those that weigh it most; an expert it refuses goes on to its next token (the
    paper's variant with a limit per token, as a stable matching). Exactly balanced wherever C x E <= (T - C) x top_k.
    `mean_experts` 0: half of top_k.
    """
    check_between("router expert_choice", "mean_experts", mean_experts, 0.0, layer.top_k)
    check_between("router expert_choice", "group_tokens", group_tokens, 1, 2**20)
    gate = make_gate(layer, stream)
    mean = mean_experts or layer.top_k / 2

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        logits_TE = gate.logits(batch).astype(np.float64)
        weight_TE = np.exp(logits_TE - logits_TE.max(axis=1, keepdims=True))
        weight_TE /= weight_TE.sum(axis=1, keepdims=True)
        capacity = max(1, int(len(batch) * mean / layer.num_experts))
        experts_TK = np.full((len(batch), layer.top_k), -1, np.int32)
        order_TE = np.argsort(-weight_TE, axis=0, kind="stable")
        _match(weight_TE, order_TE, min(capacity, len(batch)), experts_TK)
        return _by_weight(experts_TK, weight_TE)

    return lambda batch: in_groups(batch, group_tokens, route)


def _by_weight(experts_TK: NDArray[np.int32], weight_TE: NDArray[np.float64]) -> NDArray[np.int32]:
    """Rows in falling order of weight, -1 at the end."""
    weight_TK = np.take_along_axis(weight_TE, np.maximum(experts_TK, 0).astype(np.int64), axis=1)
    order_TK = np.argsort(np.where(experts_TK < 0, np.inf, -weight_TK), axis=1, kind="stable")
    return np.take_along_axis(experts_TK, order_TK, axis=1)


@njit(cache=True, nogil=True)
def _match(weight_TE, order_TE, capacity, experts_TK):  # type: ignore[no-untyped-def]  # types are numba's
    """Experts ask tokens in falling order of weight until they hold `capacity`; a full token keeps the larger ones."""
    num_tokens, num_experts = weight_TE.shape
    held_E, asked_E = np.zeros(num_experts, np.int64), np.zeros(num_experts, np.int64)
    waiting_E, num_waiting = np.arange(num_experts), num_experts
    is_waiting_E = np.ones(num_experts, np.bool_)
    while num_waiting:
        num_waiting -= 1
        expert = waiting_E[num_waiting]
        is_waiting_E[expert] = False
        while held_E[expert] < capacity and asked_E[expert] < num_tokens:
            token = order_TE[asked_E[expert], expert]
            asked_E[expert] += 1
            place = _weakest(weight_TE[token], experts_TK[token])
            other = experts_TK[token, place]
            if other >= 0 and weight_TE[token, other] >= weight_TE[token, expert]:
                continue
            experts_TK[token, place] = expert
            held_E[expert] += 1
            if other >= 0:
                held_E[other] -= 1
                if not is_waiting_E[other]:
                    waiting_E[num_waiting] = other
                    is_waiting_E[other] = True
                    num_waiting += 1


@njit(cache=True, nogil=True)
def _weakest(weight_E, row_K):  # type: ignore[no-untyped-def]  # types are numba's
    """The first free place of a row, else that of its smallest weight."""
    weakest = 0
    for k in range(len(row_K)):
        if row_K[k] < 0:
            return k
        if weight_E[row_K[k]] < weight_E[row_K[weakest]]:
            weakest = k
    return weakest
