"""Router of models that first choose groups of experts: `top_groups` of the model's groups, then experts inside them.

The balanced case: every group is as likely as any other, and every expert of the chosen groups too (the law of device-
or node-limited routing with an even load, DeepSeek-V2 and -V3: arXiv 2405.04434, 2412.19437).
"""

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.trace.drawing import draw_layer_by_weight
from moesim.trace.gate import RouterLayer
from moesim.trace.token_batches import step_rng
from moesim.trace.token_groups import Route
from moesim.trace.token_stream import TokenBatch


def build(layer: RouterLayer, *, num_groups: int = 1, top_groups: int = 1) -> Route:
    """Distinct experts of at most `top_groups` of `num_groups` groups of consecutive experts.

    Raises InputError where the groups do not divide the experts, or those chosen hold fewer than top_k of them.
    """
    size, left = divmod(layer.num_experts, max(num_groups, 1))
    if left or not 1 <= top_groups <= num_groups or top_groups * size < layer.top_k:
        raise InputError(
            f"router group_limited: {top_groups} of {num_groups} groups of {layer.num_experts} experts cannot give "
            f"{layer.top_k} each; take router uniform for a model without groups"
        )
    even_G, even_E = np.ones(num_groups), np.ones(top_groups * size)

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        of_groups, of_experts = step_rng(layer.seed, batch).integers(2**63, size=2).tolist()
        chosen_TG = draw_layer_by_weight(even_G, len(batch), top_groups, of_groups, layer.layer)
        experts_TK = draw_layer_by_weight(even_E, len(batch), layer.top_k, of_experts, layer.layer)
        group_TK = np.take_along_axis(chosen_TG, experts_TK // size, axis=1)
        return experts_TK % size + group_TK * np.int32(size)

    return route
