"""GShard's gate (Lepikhin et al. 2020, arXiv 2006.16668, algorithm 1): the best expert, a second by chance, a capacity."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.trace.counter_noise import root_key, subkey, unit
from moesim.trace.gate import RouterLayer, make_gate, top_of
from moesim.trace.token_groups import Route, check_between, check_top_k, in_groups, keep_within
from moesim.trace.token_stream import TokenBatch, TokenStream


def build(layer: RouterLayer, stream: TokenStream, *, capacity_factor: float = 1.0, group_tokens: int = 1024) -> Route:
    """At most two experts a token; the second is asked with chance min(1, 2 x its share of the two gate weights).

    An expert takes at most ceil(2 T / E x capacity_factor) of the T tokens of a group, all first
    choices before any second; groups are of about `group_tokens` (GShard: the tokens of a device).
    """
    check_top_k("gshard_top2", layer.top_k, 2)
    check_between("router gshard_top2", "capacity_factor", capacity_factor, 1e-6, 1e6)
    check_between("router gshard_top2", "group_tokens", group_tokens, 1, 2**20)
    gate = make_gate(layer, stream)
    key = root_key(layer.seed, 24, layer.layer)

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        logits_TE = gate.logits(batch)
        experts_TK = top_of(logits_TE, 2)
        if layer.num_experts > 1:
            best_TK = np.take_along_axis(logits_TE, experts_TK.astype(np.int64), axis=1).astype(np.float64)
            share_T = 1.0 / (1.0 + np.exp(best_TK[:, 0] - best_TK[:, 1]))
            experts_TK[2.0 * share_T <= _chances(batch, key), 1] = -1
        capacity = math.ceil(2 * len(batch) / layer.num_experts * capacity_factor)
        return keep_within(experts_TK, capacity, layer.num_experts)

    return lambda batch: in_groups(batch, group_tokens, route)


def _chances(batch: TokenBatch, key: np.uint64) -> NDArray[np.float64]:
    """[T] uniform numbers of the tokens, in whatever batch they come."""
    chance_T = np.empty(len(batch))
    _draw(batch.sequence_T, batch.position_T, key, chance_T)
    return chance_T


@njit(cache=True, nogil=True)
def _draw(sequence_T, position_T, key, chance_T):  # type: ignore[no-untyped-def]  # types are numba's
    for token in range(len(chance_T)):
        chance_T[token] = unit(subkey(subkey(key, sequence_T[token]), position_T[token]))
