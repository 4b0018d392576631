"""Router with hot experts: the expert of rank r is drawn in proportion to r ** -exponent, ranks shuffled per layer."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.trace.drawing import draw_layer_by_weight
from moesim.trace.gate import RouterLayer
from moesim.trace.token_batches import step_rng
from moesim.trace.token_groups import Route, check_between

STEEPEST = 20.0  # beyond, the weights of most experts vanish beside the first
StreamState = Mapping[str, Any]  # of a numpy generator


def build(layer: RouterLayer, *, exponent: float = 1.0) -> Route:
    """Distinct experts, drawn one after the other by weight; `exponent` 0..20, 0 is uniform.

    The seed fixes which experts are hot in each layer, so that they stay hot from step to step.
    """
    check_between("router zipf", "exponent", exponent, 0.0, STEEPEST)
    weight_E = np.arange(1, layer.num_experts + 1, dtype=np.float64) ** -exponent
    _shuffle(weight_E, layer)
    return lambda batch: draw_layer_by_weight(
        weight_E, len(batch), layer.top_k, int(step_rng(layer.seed, batch).integers(2**63)), layer.layer
    )


def _shuffle(weight_E: NDArray[np.float64], layer: RouterLayer) -> None:
    """Put the weights in the layer's own order, in place; layers take their orders one after the other from one stream."""
    states = _stream_states(layer.seed, layer.num_experts)
    while len(states) <= layer.layer:
        states.append(_shuffled(np.empty(layer.num_experts), states[-1]))
    after = _shuffled(weight_E, states[layer.layer])
    if len(states) == layer.layer + 1:
        states.append(after)


def _shuffled(values_E: NDArray[np.float64], state: StreamState) -> StreamState:
    """The state of the stream after it has shuffled the values."""
    rng = np.random.default_rng()
    rng.bit_generator.state = state
    rng.shuffle(values_E)
    return rng.bit_generator.state


@lru_cache(maxsize=8)
def _stream_states(seed: int, num_experts: int) -> list[StreamState]:
    """Where the stream stands before the order of each layer, as far as it is known: much smaller than the orders."""
    return [np.random.default_rng(seed).bit_generator.state]
