"""Router with hot experts: the expert of rank r is drawn in proportion to r ** -exponent, ranks shuffled per layer."""

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.trace.drawing import draw_by_weight

STEEPEST = 20.0  # beyond, the weights of most experts vanish beside the first


def route(
    *,
    num_layers: int,
    num_tokens: int,
    num_experts: int,
    top_k: int,
    rng: np.random.Generator,
    seed: int = 0,
    exponent: float = 1.0,
) -> NDArray[np.int32]:
    """[L, T, K] experts, distinct in a row, drawn one after the other by weight.

    `seed` fixes which experts are hot in each layer, so that they stay hot from step to step; `exponent` 0 is uniform.
    Raises InputError for an exponent outside 0..20.
    """
    if not 0.0 <= exponent <= STEEPEST:
        raise InputError(f"router zipf: exponent must be 0..{STEEPEST:g}, got {exponent}")
    by_rank_E = np.arange(1, num_experts + 1, dtype=np.float64) ** -exponent
    shuffles = np.random.default_rng(seed)
    weight_LE = np.stack([shuffles.permutation(by_rank_E) for _ in range(num_layers)])
    return draw_by_weight(weight_LE, num_tokens, top_k, int(rng.integers(2**63)))
