"""Drawing by weight: a few operations a draw however skewed the weights are, and the same law.

Array letters: E expert, T token, K top-k.
"""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.trace.drawing import _undrawn, draw_by_weight, draw_layer_by_weight
from moesim.trace.gate import RouterLayer
from moesim.trace.routers import zipf
from moesim.trace.token_stream import TokenBatch


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
def test_a_point_falls_on_the_expert_that_a_scan_of_those_left_finds(weights: list[int], data: st.DataObject) -> None:
    """Whole weights, exact sums: the first expert not drawn at which the summed weights exceed the point."""
    drawn = sorted(data.draw(st.sets(st.integers(0, len(weights) - 1), max_size=len(weights) - 1)))
    left = [expert for expert in range(len(weights)) if expert not in drawn]
    point = data.draw(st.integers(-1, sum(weights[expert] for expert in left)))
    reached = [sum(weights[other] for other in left if other <= expert) for expert in left]
    expected = next((expert for expert, sum_here in zip(left, reached, strict=True) if point < sum_here), left[-1])
    found = _undrawn(np.cumsum(np.array(weights, np.float64)), np.array(drawn, np.int32), float(point))
    assert expected == found


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_pairs_of_experts_are_as_frequent_as_drawing_one_by_one_says(exponent: float) -> None:
    """P(first, then second) = w1 / sum x w2 / (sum - w1), whether a draw is repeated or made among those left."""
    weight_E, tokens = np.arange(1.0, 7.0) ** -exponent * 100.0 ** (np.arange(6) == 2), 40_000
    experts_TK = draw_by_weight(weight_E[None], tokens, 2, seed=4)[0]
    seen_EE = np.bincount(experts_TK[:, 0] * 6 + experts_TK[:, 1], minlength=36).reshape(6, 6) / tokens
    share_E = weight_E / weight_E.sum()
    expected_EE = share_E[:, None] * share_E / (1 - share_E)[:, None] * (1 - np.eye(6))
    assert np.abs(seen_EE - expected_EE).max() < 5 * np.sqrt(0.25 / tokens)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 20.0])
def test_a_million_experts_cost_no_scan_for_a_draw(exponent: float) -> None:
    """512 tokens x 128 of 1,048,576 experts in seconds of one core: rows of distinct experts; a scan takes minutes."""
    weight_E = np.random.default_rng(0).permutation(np.arange(1.0, 2**20 + 1) ** -exponent)
    draw_layer_by_weight(weight_E[:4], 1, 1, 0, 0)  # compiled
    started = time.process_time()
    experts_TK = draw_layer_by_weight(weight_E, 512, 128, 0, 0)
    assert time.process_time() - started < 5.0
    assert (np.diff(np.sort(experts_TK, axis=1), axis=1) > 0).all()
    assert 0 <= experts_TK.min() and experts_TK.max() < 2**20


def test_layers_take_their_order_of_heat_from_one_stream_in_whatever_order_they_are_made() -> None:
    """A steep exponent shows the hottest expert of layer n: where the n-th shuffle of the seed's stream puts rank 0."""
    rng = np.random.default_rng(9)
    hottest = [int(np.argmin(rng.permutation(50))) for _ in range(4)]
    index_T = np.arange(20)
    for layer in (2, 0, 3, 1, 3):
        route = zipf.build(RouterLayer(num_experts=50, top_k=1, layer=layer, seed=9), exponent=20.0)
        experts_TK = route(TokenBatch(0, 0, index_T, index_T, index_T))
        assert {hottest[layer]} == set(experts_TK.ravel().tolist())
