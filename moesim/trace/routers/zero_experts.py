"""Zero-computation experts (LongCat-Flash, arXiv 2509.01322, 2.1): some of what the gate chooses costs nothing.

Array letters: T token, E expert, K top-k.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moesim.trace.gate import RouterLayer, make_gate, sample_batch, top_of
from moesim.trace.token_groups import Route, check_between, in_parts
from moesim.trace.token_stream import TokenBatch, TokenStream

_HALVINGS = 40


def build(layer: RouterLayer, stream: TokenStream, *, zero: int = 0, real: float = 0.0) -> Route:
    """The K of largest logit among num_experts real and `zero` zero experts; zero experts are left out, -1 at the end.

    The zero experts' common bias is such that a token has `real` real experts on average (LongCat steers it so).
    Zeros: half as many zero experts as real ones, and as many real choices as their share of all.
    """
    zero = zero or max(1, layer.num_experts // 2)
    check_between("router zero_experts", "zero", zero, 1, 2**16)
    check_between("router zero_experts", "real", real, 0.0, layer.top_k)
    real = real or layer.top_k * layer.num_experts / (layer.num_experts + zero)
    both = replace(layer, num_experts=layer.num_experts + zero)
    gate = make_gate(both, stream)
    zero_E = np.arange(both.num_experts) >= layer.num_experts
    gate.hot_E[zero_E] += _common_bias(gate.logits(sample_batch()), zero_E, layer.top_k, real)

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        chosen_TK = top_of(gate.logits(batch), layer.top_k)
        left_TK = (chosen_TK >= layer.num_experts) | (chosen_TK < 0)
        order_TK = np.argsort(left_TK, axis=1, kind="stable")
        return np.take_along_axis(np.where(left_TK, np.int32(-1), chosen_TK), order_TK, axis=1)

    return lambda batch: in_parts(batch, both.num_experts, route)


def _common_bias(logits_TE: NDArray[np.float32], zero_E: NDArray[np.bool_], top_k: int, real: float) -> float:
    """What to add to the zero experts' logits so that `real` of the K choices are real, by halving an interval."""
    low, high = -20.0, 20.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        chosen_TK = top_of(logits_TE + (middle * zero_E).astype(np.float32), top_k)
        is_low = (~zero_E[chosen_TK]).sum() / len(chosen_TK) > real
        low, high = (middle, high) if is_low else (low, middle)
    return (low + high) / 2
