"""Router by which every expert is as likely as any other: the balanced case."""

import numpy as np

from moesim.trace.drawing import draw_layer_by_weight
from moesim.trace.gate import RouterLayer
from moesim.trace.token_batches import step_rng
from moesim.trace.token_groups import Route


def build(layer: RouterLayer) -> Route:
    """Distinct experts, uniform; nothing stays the same from step to step."""
    weight_E = np.ones(layer.num_experts)
    return lambda batch: draw_layer_by_weight(
        weight_E, len(batch), layer.top_k, int(step_rng(layer.seed, batch).integers(2**63)), layer.layer
    )
