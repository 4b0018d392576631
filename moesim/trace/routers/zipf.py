"""Router with hot experts: the expert of rank r is drawn in proportion to r ** -exponent, ranks shuffled per layer."""

import numpy as np

from moesim.trace.drawing import draw_layer_by_weight
from moesim.trace.gate import RouterLayer
from moesim.trace.token_batches import step_rng
from moesim.trace.token_groups import Route, check_between

STEEPEST = 20.0  # beyond, the weights of most experts vanish beside the first


def build(layer: RouterLayer, *, exponent: float = 1.0) -> Route:
    """Distinct experts, drawn one after the other by weight; `exponent` 0..20, 0 is uniform.

    The seed fixes which experts are hot in each layer, so that they stay hot from step to step.
    """
    check_between("router zipf", "exponent", exponent, 0.0, STEEPEST)
    by_rank_E = np.arange(1, layer.num_experts + 1, dtype=np.float64) ** -exponent
    shuffles = np.random.default_rng(layer.seed)
    weight_E = [shuffles.permutation(by_rank_E) for _ in range(layer.layer + 1)][-1]
    return lambda batch: draw_layer_by_weight(
        weight_E, len(batch), layer.top_k, int(step_rng(layer.seed, batch).integers(2**63)), layer.layer
    )
