"""Hash layers (Roller et al. 2021, arXiv 2106.04426): experts by the token's vocabulary id alone, or some by a gate too.

Array letters: T token, K top-k.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.trace.counter_noise import below, root_key, subkey
from moesim.trace.gate import RouterLayer, make_gate, top_of
from moesim.trace.token_groups import Route, check_between, in_parts
from moesim.trace.token_stream import TokenBatch, TokenStream


def build(layer: RouterLayer, stream: TokenStream, *, gated: int = 0, vocabulary: int = 32768) -> Route:
    """K distinct experts: the first `gated` by largest logit, the others by hash of one of `vocabulary` words.

    The same word always hashes to the same experts of a layer (where the gate has not taken them). Words are Zipf, so
    loads are skewed.
    """
    check_between("router hash", "gated", gated, 0, layer.top_k)
    check_between("router hash", "vocabulary", vocabulary, 1, 2**24)
    gate = make_gate(layer, stream) if gated else None
    key = root_key(layer.seed, 25, layer.layer)

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        experts_TK = np.full((len(batch), layer.top_k), -1, np.int32)
        if gate is not None:
            experts_TK[:, :gated] = top_of(gate.logits(batch), gated)
        _fill(stream.words(batch, vocabulary), key, layer.num_experts, experts_TK)
        return experts_TK

    return lambda batch: in_parts(batch, layer.num_experts, route)


@njit(cache=True, nogil=True)
def _fill(word_T, key, num_experts, experts_TK):  # type: ignore[no-untyped-def]  # types are numba's
    """Fill what is -1: the expert a word and place hash to, or the next one after it that the row has not yet."""
    for token in range(experts_TK.shape[0]):
        row_K = experts_TK[token]
        word = subkey(key, word_T[token])
        for k in range(len(row_K)):
            if row_K[k] >= 0:
                continue
            expert = below(subkey(word, k), num_experts)
            while np.any(row_K == expert):
                expert = (expert + 1) % num_experts
            row_K[k] = expert
