"""Two-level gates (Shazeer et al. 2017, arXiv 1701.06538, appendix B): groups first, then experts inside each of them.

Array letters: G group, B experts of a group, D width of a query, T token, K top-k.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.trace.gate import RouterLayer, keep_top
from moesim.trace.token_groups import Route
from moesim.trace.token_stream import TokenBatch, TokenStream

_MOST_WEIGHTS = 2**29


def build(layer: RouterLayer, stream: TokenStream, *, groups: int = 0, top_groups: int = 0) -> Route:
    """The `top_groups` of `groups` groups of largest logit, and in each the top_k / top_groups experts of largest logit.

    Zeros: the largest divisor of num_experts up to its square root, and of top_k up to its own. 131,072 experts are
    512 x 256. Raises InputError where groups do not divide the experts or hold too few.
    """
    groups = groups or _divisor(layer.num_experts)
    top_groups = top_groups or _divisor(layer.top_k)
    size, left = divmod(layer.num_experts, max(groups, 1))
    each, rest = divmod(layer.top_k, max(top_groups, 1))
    if left or rest or not 1 <= top_groups <= groups or each > size:
        raise InputError(
            f"router hierarchical: {top_groups} of groups={groups} cannot give top_k={layer.top_k} of num_experts="
            f"{layer.num_experts}: groups must divide the experts, top_groups top_k, and a group hold its part"
        )
    width = stream.knobs.width
    if layer.num_experts * width > _MOST_WEIGHTS:
        raise InputError(
            f"router hierarchical: num_experts={layer.num_experts} x width={width} is over {_MOST_WEIGHTS}"
        )
    rng = np.random.default_rng([layer.seed, 26, layer.layer])
    scale = np.float32(width**-0.5)
    outer_DG = rng.standard_normal((width, groups), np.float32) * scale
    inner_GDB = rng.standard_normal((groups, width, size), np.float32) * scale
    hot_G = (stream.knobs.hot * rng.standard_normal(groups)).astype(np.float32)
    hot_GB = (stream.knobs.hot * rng.standard_normal((groups, size))).astype(np.float32)

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        experts_TK = np.empty((len(batch), layer.top_k), np.int32)
        _route(stream.queries(batch, layer.layer), outer_DG, inner_GDB, hot_G, hot_GB, top_groups, experts_TK)
        return experts_TK

    return route


def _divisor(number: int) -> int:
    return next(part for part in range(math.isqrt(number), 0, -1) if number % part == 0)


@njit(cache=True, nogil=True)
def _route(query_TD, outer_DG, inner_GDB, hot_G, hot_GB, top_groups, experts_TK):  # type: ignore[no-untyped-def]  # types are numba's
    each, size = experts_TK.shape[1] // top_groups, inner_GDB.shape[2]
    logit_G, logit_B = np.empty(len(hot_G), np.float32), np.empty(size, np.float32)
    best_groups, group_of = np.empty(top_groups, np.float32), np.empty(top_groups, np.int32)
    best, expert_of = np.empty(each, np.float32), np.empty(each, np.int32)
    for token in range(query_TD.shape[0]):
        _logits(query_TD[token], outer_DG, hot_G, logit_G)
        keep_top(logit_G, best_groups, group_of)
        for number in range(top_groups):
            group = group_of[number]
            _logits(query_TD[token], inner_GDB[group], hot_GB[group], logit_B)
            keep_top(logit_B, best, expert_of)
            for k in range(each):
                experts_TK[token, number * each + k] = group * size + expert_of[k]


@njit(cache=True, nogil=True)
def _logits(query_D, weight_DB, hot_B, logit_B):  # type: ignore[no-untyped-def]  # types are numba's
    logit_B[:] = hot_B
    for d in range(len(query_D)):
        number, weight_B = query_D[d], weight_DB[d]
        for expert in range(len(logit_B)):
            logit_B[expert] += number * weight_B[expert]
