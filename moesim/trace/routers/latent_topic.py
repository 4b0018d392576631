"""Router without a gate: each topic has its own popularity of experts, tokens draw from their topic's.

Array letters: Z topic, E expert, T token, K top-k.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.trace.counter_noise import gumbel, root_key, subkey
from moesim.trace.gate import RouterLayer, keep_top
from moesim.trace.token_groups import Route, check_between, in_parts
from moesim.trace.token_stream import TokenBatch, TokenStream

_MOST_CELLS = 2**26  # topics x experts: 512 MiB


def build(layer: RouterLayer, stream: TokenStream, *, contrast: float = 1.5) -> Route:
    """K distinct experts, drawn one after the other in proportion to structure x topic's + (1 - structure) x layer's.

    The two popularities are lognormal with standard deviation `contrast` (0..20) and `hot`. Raises InputError.
    """
    check_between("router latent_topic", "contrast", contrast, 0.0, 20.0)
    knobs = stream.knobs
    if knobs.topics * layer.num_experts > _MOST_CELLS:
        raise InputError(
            f"router latent_topic: topics={knobs.topics} x num_experts={layer.num_experts} is more than {_MOST_CELLS}"
        )
    rng = np.random.default_rng([layer.seed, 20, layer.layer])
    common_E = _shares(knobs.hot * rng.standard_normal((1, layer.num_experts)))
    topic_ZE = _shares(contrast * rng.standard_normal((knobs.topics, layer.num_experts)))
    with np.errstate(divide="ignore"):  # a share may round to 0; such an expert is not drawn
        score_ZE = np.log(knobs.structure * topic_ZE + (1.0 - knobs.structure) * common_E)
    key = root_key(layer.seed, 21, layer.layer)

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        experts_TK = np.empty((len(batch), layer.top_k), np.int32)
        _draw(score_ZE, stream.topics(batch), batch.sequence_T, batch.position_T, key, experts_TK)
        return experts_TK

    return lambda batch: in_parts(batch, layer.num_experts, route)


def _shares(exponent_ZE: NDArray[np.float64]) -> NDArray[np.float64]:
    weight_ZE = np.exp(exponent_ZE - exponent_ZE.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = weight_ZE / weight_ZE.sum(axis=1, keepdims=True)
    return shares


@njit(cache=True, nogil=True)
def _draw(score_ZE, topic_T, sequence_T, position_T, key, experts_TK):  # type: ignore[no-untyped-def]  # types are numba's
    """The K largest of score + Gumbel are K draws without replacement (Efraimidis, Spirakis 2006)."""
    value_E, best_K = np.empty(score_ZE.shape[1]), np.empty(experts_TK.shape[1])
    for token in range(len(topic_T)):
        own = subkey(subkey(key, sequence_T[token]), position_T[token])
        for expert in range(len(value_E)):
            value_E[expert] = score_ZE[topic_T[token], expert] + gumbel(subkey(own, expert))
        keep_top(value_E, best_K, experts_TK[token])
