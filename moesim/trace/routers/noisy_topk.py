"""Noisy top-k gating of Shazeer et al. 2017 (arXiv 1701.06538, 2.1 and 4): logits + normal x softplus, then the K largest.

Array letters: T token, D width of a query, E expert.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moesim.trace.counter_noise import root_key
from moesim.trace.gate import Evolution, GateState, RouterLayer, add_noise, make_gate, raw_logits, top_of
from moesim.trace.token_groups import Route, check_between, in_parts
from moesim.trace.token_stream import TokenBatch, TokenStream


def build(layer: RouterLayer, stream: TokenStream, *, balance: float = 0.8, noise: float = 1.0) -> Route:
    """`noise` 0..100 scales the noise. `balance` 0..1: what the importance and load losses achieved together.

    0: the gate as drawn; 1: the bias at which every expert is as likely as any other is fully in force.
    """
    check_between("router noisy_topk", "balance", balance, 0.0, 1.0)
    check_between("router noisy_topk", "noise", noise, 0.0, 100.0)
    gate = make_gate(
        replace(layer, evolutions=(_balanced_by(balance), *layer.evolutions)), stream, balanced=balance > 0
    )
    rng = np.random.default_rng([layer.seed, 22, layer.layer])
    width = stream.knobs.width
    noise_DE = (0.3 * rng.standard_normal((width, layer.num_experts)) / width**0.5).astype(np.float32)

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        logits_TE = gate.logits(batch)
        if noise:
            drawn_TE = np.zeros_like(logits_TE)
            add_noise(drawn_TE, batch.first, root_key(layer.seed, 23, layer.layer, batch.step), np.ones(1, np.float32))
            logits_TE += (
                np.float32(noise)
                * drawn_TE
                * np.log1p(np.exp(raw_logits(stream.queries(batch, layer.layer), noise_DE)))
            )
        return top_of(logits_TE, layer.top_k)

    return lambda batch: in_parts(batch, layer.num_experts, route)


def _balanced_by(balance: float) -> Evolution:
    def evolve(step: int, state: GateState) -> GateState:
        return replace(state, balance=balance)

    return evolve
