"""BASE layers (Lewis et al. 2021, arXiv 2103.16716): the balanced assignment of tokens to experts of largest summed score.

Array letters: T token, E expert.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from moesim.trace.gate import RouterLayer, make_gate
from moesim.trace.token_groups import Route, check_between, check_top_k, in_groups
from moesim.trace.token_stream import TokenBatch, TokenStream


def build(layer: RouterLayer, stream: TokenStream, *, group_tokens: int = 512) -> Route:
    """One expert a token; of a group of T tokens every expert gets T / E, rounded up for those most wanted.

    Solved exactly; the time for a token grows with the square of `group_tokens` (1..8192), about 20 us at 512.
    """
    check_top_k("base_assignment", layer.top_k, 1)
    check_between("router base_assignment", "group_tokens", group_tokens, 1, 8192)
    gate = make_gate(layer, stream)

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        logits_TE = gate.logits(batch).astype(np.float64)
        logits_TE[np.isneginf(logits_TE)] = -1e6  # experts that cannot be chosen still take their even part
        every, extra = divmod(len(batch), layer.num_experts)
        wanted_E = np.argsort(-logits_TE.mean(axis=0), kind="stable")
        expert_of_slot = np.concatenate([np.repeat(np.arange(layer.num_experts), every), np.sort(wanted_E[:extra])])
        _, slot_T = linear_sum_assignment(logits_TE[:, expert_of_slot], maximize=True)
        expert_T: NDArray[np.int32] = expert_of_slot[slot_T].astype(np.int32)
        return expert_T[:, None]

    return lambda batch: in_groups(batch, group_tokens, route)
