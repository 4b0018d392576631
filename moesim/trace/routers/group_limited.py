"""Router of models that first choose groups of experts: `top_groups` of the model's groups, then experts inside them.

The balanced case: every group is as likely as any other, and every expert of the chosen groups too (the law of device-
or node-limited routing with an even load, DeepSeek-V2 and -V3: arXiv 2405.04434, 2412.19437).
"""

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.trace.drawing import draw_by_weight


def route(
    *,
    num_layers: int,
    num_tokens: int,
    num_experts: int,
    top_k: int,
    rng: np.random.Generator,
    seed: int = 0,
    num_groups: int = 1,
    top_groups: int = 1,
) -> NDArray[np.int32]:
    """[L, T, K] experts, distinct in a row, of at most `top_groups` groups of consecutive experts.

    Raises InputError where the groups do not divide the experts, or those chosen hold fewer than `top_k` of them.
    """
    size, left = divmod(num_experts, num_groups)
    if left or not 1 <= top_groups <= num_groups or top_groups * size < top_k:
        raise InputError(
            f"router group_limited: {top_groups} of {num_groups} groups of {num_experts} experts cannot give {top_k} each; "
            "take router uniform for a model without groups"
        )
    chosen_LTG = draw_by_weight(np.ones((num_layers, num_groups)), num_tokens, top_groups, int(rng.integers(2**63)))
    weight_LE = np.ones((num_layers, top_groups * size))
    experts_LTK = draw_by_weight(weight_LE, num_tokens, top_k, int(rng.integers(2**63)))
    for chosen_TG, experts_TK in zip(chosen_LTG, experts_LTK, strict=True):
        group_TK = np.take_along_axis(chosen_TG, experts_TK // size, axis=1)
        experts_TK %= size
        experts_TK += group_TK * np.int32(size)
    return experts_LTK
