"""Zero-computation experts (LongCat-Flash, arXiv 2509.01322, 2.1): some of what the gate chooses costs nothing.

Array letters: T token, E expert, K top-k.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moesim.trace.gate import RouterLayer, make_gate, sample_batch, top_of
from moesim.trace.token_groups import Route, check_between, in_parts
from moesim.trace.token_stream import TokenBatch, TokenStream

_FARTHEST = 100.0  # difference of two logits


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
    gate.hot_E[zero_E] += _common_bias(gate.logits(sample_batch()), layer.num_experts, layer.top_k, real)

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        chosen_TK = top_of(gate.logits(batch), layer.top_k)
        left_TK = (chosen_TK >= layer.num_experts) | (chosen_TK < 0)
        order_TK = np.argsort(left_TK, axis=1, kind="stable")
        return np.take_along_axis(np.where(left_TK, np.int32(-1), chosen_TK), order_TK, axis=1)

    return lambda batch: in_parts(batch, both.num_experts, route)


def _common_bias(logits_TE: NDArray[np.float32], num_real: int, top_k: int, real: float) -> float:
    """What to add to the zero experts' logits so that on average `real` of the K choices are real.

    At least j choices are real where the j-th largest real logit is above the (K - j + 1)-th largest of the others plus
    the bias: the bias is a quantile of these differences.
    """
    best = [_falling(part_TE, top_k) for part_TE in (logits_TE[:, :num_real], logits_TE[:, num_real:])]
    difference_TK = np.clip(best[0] - best[1][:, ::-1], -_FARTHEST, _FARTHEST)
    return float(np.quantile(difference_TK, 1.0 - real / top_k))


def _falling(logits_TE: NDArray[np.float32], top_k: int) -> NDArray[np.float64]:
    """[T, K] the K largest in falling order, very low where there are fewer."""
    chosen_TK = top_of(np.ascontiguousarray(logits_TE), top_k)
    value_TK = np.take_along_axis(logits_TE, np.maximum(chosen_TK, 0).astype(np.int64), axis=1).astype(np.float64)
    return np.where(chosen_TK >= 0, value_TK, -10.0 * _FARTHEST)
