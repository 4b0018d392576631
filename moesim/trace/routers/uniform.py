"""Router by which every expert is as likely as any other: the balanced case."""

import numpy as np
from numpy.typing import NDArray

from moesim.trace.drawing import draw_by_weight


def route(
    *, num_layers: int, num_tokens: int, num_experts: int, top_k: int, rng: np.random.Generator, seed: int = 0
) -> NDArray[np.int32]:
    """[L, T, K] experts, distinct in a row, uniform; `seed` is not used: nothing stays the same from step to step."""
    weight_E = np.ones(num_experts)
    weight_LE = np.broadcast_to(weight_E, (num_layers, num_experts))
    return draw_by_weight(weight_LE, num_tokens, top_k, int(rng.integers(2**63)))
