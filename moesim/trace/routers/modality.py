"""Experts of their own for every modality (Lin et al. 2024, MoMa, arXiv 2407.21770; ERNIE 4.5 VL): disjoint pools.

Array letters: T token, E expert, P pool.
"""

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.trace.gate import RouterLayer, make_gate, top_of
from moesim.trace.token_groups import Route, check_between, in_parts
from moesim.trace.token_stream import Knobs, TokenBatch, TokenStream

_MOST_POOLS = 64


def build(
    layer: RouterLayer, stream: TokenStream, *, pools: int = 2, run_tokens: float = 128.0, pool_skew: float = 1.0
) -> Route:
    """The K of largest logit in the pool of the token's modality; pools are `pools` equal stretches of the experts.

    Sequences change modality every `run_tokens` tokens on average; modality i has tokens in proportion to 1 / i **
    `pool_skew`, in an order that the seed draws. Raises InputError where a pool has fewer experts than top_k.
    """
    check_between("router modality", "pools", pools, 1, _MOST_POOLS)
    start_P = np.arange(pools + 1) * layer.num_experts // pools
    if np.diff(start_P).min() < layer.top_k:
        raise InputError(
            f"router modality: a pool has {np.diff(start_P).min()} of num_experts={layer.num_experts}, fewer than top_k="
            f"{layer.top_k}; take fewer pools"
        )
    gate = make_gate(layer, stream)
    kinds = Knobs(topics=pools, topic_tokens=run_tokens, topic_skew=pool_skew, focus=0.0)
    modalities = TokenStream(kinds, stream.seed + 1)
    pool_E = np.repeat(np.arange(pools), np.diff(start_P))

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        logits_TE = gate.logits(batch)
        logits_TE[pool_E != modalities.topics(batch)[:, None]] = -np.inf
        return top_of(logits_TE, layer.top_k)

    return lambda batch: in_parts(batch, layer.num_experts, route)
