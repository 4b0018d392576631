"""Expert choice (Zhou et al. 2022, arXiv 2202.09368): every expert picks the same number of tokens of a group.

Array letters: T token, E expert, K most experts of a token.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.trace.gate import RouterLayer, make_gate
from moesim.trace.token_groups import Route, check_between, in_groups
from moesim.trace.token_stream import TokenBatch, TokenStream


def build(
    layer: RouterLayer, stream: TokenStream, *, mean_experts: float = 0.0, group_tokens: int = 1024
) -> Route:
    """Every expert picks C = max(1, floor(T x mean_experts / E)) of the T tokens of a group; rows end in -1.

    A token keeps at most top_k experts, those that weigh it most; an expert it refuses goes on to its next token (the
    paper's variant with a limit per token, as a stable matching). Exactly balanced wherever C x E <= (T - C) x top_k.
    `mean_experts` 0: half of top_k.
    """
    check_between("expert_choice", "mean_experts", mean_experts, 0.0, layer.top_k)
    check_between("expert_choice", "group_tokens", group_tokens, 1, 2**20)
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
    """Experts ask tokens in falling order of weight until they hold `capacity`; a full token swaps for a larger one."""
    num_tokens, num_experts = weight_TE.shape
    held_E, asked_E = np.zeros(num_experts, np.int64), np.zeros(num_experts, np.int64)
    for start in range(num_experts):
        expert = start
        while expert >= 0:
            refused = -1
            while held_E[expert] < capacity and asked_E[expert] < num_tokens and refused < 0:
                token = order_TE[asked_E[expert], expert]
                asked_E[expert] += 1
                weakest = 0
                for k in range(experts_TK.shape[1]):
                    if experts_TK[token, k] < 0:
                        weakest = k
                        break
                    if weight_TE[token, experts_TK[token, k]] < weight_TE[token, experts_TK[token, weakest]]:
                        weakest = k
                other = experts_TK[token, weakest]
                if other < 0 or weight_TE[token, other] < weight_TE[token, expert]:
                    experts_TK[token, weakest] = expert
                    held_E[expert] += 1
                    if other >= 0:
                        held_E[other] -= 1
                        refused = other
            if refused >= 0 and held_E[expert] < capacity:
                # Both still have tokens to ask: the one put out goes first, this one is served again from the start.
                expert, refused = refused, expert
                start_again = True
            else:
                expert = refused
