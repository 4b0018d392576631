"""Synthetic routers draw distinct experts by their law, the same for the same seed.

Array letters: L layer, T token, K top-k.
"""

from typing import Any

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.routing import DealtStep
from moesim.trace.synthetic import make_router, synthetic_steps
from moesim.trace.token_stream import MOST_TOPICS

SIZES: dict[str, Any] = {"num_layers": 2, "num_experts": 16, "top_k": 4, "num_ranks": 3, "tokens_per_rank": 50}


def _load(steps: list[DealtStep], layer: int) -> Any:
    return np.bincount(np.concatenate([step.experts_LTK[layer].ravel() for step in steps]), minlength=16)


@pytest.mark.parametrize("router", ["group_limited", "hash", "softmax_topk", "uniform", "zipf"])
def test_steps_are_full_and_repeatable(router: str) -> None:
    """Every rank sends all its tokens, each to K distinct experts; a window of steps is a part of the whole."""
    whole = list(synthetic_steps(router, **SIZES, steps=(0, 4), seed=7))
    part = list(synthetic_steps(router, **SIZES, steps=(2, 4), seed=7))
    for step in whole:
        assert ((2, 150, 4), 1.0, [50, 50, 50]) == (
            step.experts_LTK.shape,
            step.fill,
            np.bincount(step.rank_T).tolist(),
        )
        assert (np.diff(np.sort(step.experts_LTK, axis=2), axis=2) > 0).all()
    assert [step.experts_LTK.tolist() for step in whole[2:]] == [step.experts_LTK.tolist() for step in part]
    assert whole[0].experts_LTK.tolist() != whole[1].experts_LTK.tolist()
    other = next(synthetic_steps(router, **SIZES, seed=8))
    assert whole[0].experts_LTK.tolist() != other.experts_LTK.tolist()


def test_uniform_loads_all_experts_alike() -> None:
    """No expert is more than a tenth off the mean over 15,000 tokens."""
    load_E = _load(list(synthetic_steps("uniform", **SIZES, steps=(0, 100))), 0)
    assert np.abs(load_E / load_E.mean() - 1).max() < 0.1


def test_zipf_keeps_its_hot_experts_from_step_to_step() -> None:
    """Loads of two windows agree in order of heat; layers differ; a larger exponent is more skewed."""
    early = list(synthetic_steps("zipf", **SIZES, steps=(0, 50)))
    late = list(synthetic_steps("zipf", **SIZES, steps=(50, 100)))
    assert np.corrcoef(_load(early, 0), _load(late, 0))[0, 1] > 0.98
    assert np.corrcoef(_load(early, 0), _load(early, 1))[0, 1] < 0.9
    steep = list(synthetic_steps("zipf", **SIZES, steps=(0, 50), exponent=2.0))
    assert _load(steep, 0).std() > 1.3 * _load(early, 0).std()
    flat = list(synthetic_steps("zipf", **SIZES, steps=(0, 50), exponent=0.0))
    assert _load(flat, 0).std() < 0.2 * _load(early, 0).std()


def test_all_experts_and_one_expert_are_ordinary_cases() -> None:
    """K = E chooses everything; E = 1 chooses the one."""
    (step,) = synthetic_steps("zipf", **(SIZES | {"num_experts": 4}), exponent=3.0)
    assert [[0, 1, 2, 3]] * 150 == np.sort(step.experts_LTK[0], axis=1).tolist()
    (step,) = synthetic_steps("uniform", **(SIZES | {"num_experts": 1, "top_k": 1}))
    assert {0} == set(step.experts_LTK.ravel().tolist())


@pytest.mark.parametrize(
    ("router", "change", "sentence"),
    [
        ("zipff", {}, "unknown router 'zipff'; did you mean 'zipf'"),
        ("zipf", {"exponnent": 1.0}, "unknown parameter of router zipf 'exponnent'; did you mean 'exponent'"),
        ("zipf", {"exponent": float("nan")}, "exponent must be 0..20"),
        ("zipf", {"exponent": -1.0}, "exponent must be 0..20"),
        ("uniform", {"top_k": 17}, "top_k=17 is more than num_experts=16"),
        ("uniform", {"tokens_per_rank": 0}, "tokens_per_rank must be >= 1, got 0"),
        ("uniform", {"tokens_per_rank": 10**13}, "is more than 2147483648"),
        ("uniform", {"steps": (3, 3)}, "steps 3:3 must be a range"),
        ("uniform", {"seed": -1}, "seed must be >= 0"),
        ("uniform", {"structure": 0.5}, "unknown parameter of router uniform 'structure'"),
        ("softmax_topk", {"structure": 1.5}, "structure must be 0..1, got 1.5"),
        ("softmax_topk", {"structure": float("nan")}, "structure must be 0..1, got nan"),
        ("softmax_topk", {"topics": 2.5}, "topics must be a whole number, got '2.5'"),
        ("softmax_topk", {"topics": float("nan")}, "topics must be a whole number"),
        ("softmax_topk", {"preset": "gpt"}, "unknown preset 'gpt'"),
        ("softmax_topk", {"preset": 3.0}, "preset must be text"),
        ("softmax_topk", {"tasks": 2, "task": 2}, "task=2 must be below tasks=2"),
        ("softmax_topk", {"dynamics": "colapse"}, "unknown dynamics 'colapse'; did you mean 'collapse'"),
        ("softmax_topk", {"dynamics": "collapse:rat=1"}, "unknown parameter of dynamics collapse 'rat'"),
        ("softmax_topk", {"dynamics": "collapse:rate=x"}, "rate='x' is not a number"),
        ("softmax_topk", {"dynamics": "dropout:chance=nan"}, "chance must be 0..1, got nan"),
        ("product_key", {"dynamics": "collapse"}, "router product_key has no flat gate"),
        ("product_key", {"num_experts": 20}, "num_experts=20 is not a product"),
        ("product_key", {"rows": 3}, "rows that divide it"),
        ("product_key", {"heads": 3}, "heads=3 does not divide top_k=4"),
        ("product_key", {"heads": 4, "top_k": 20}, "top_k=20 .4 heads x 5. is more than num_experts=16"),
        ("noisy_topk", {"num_experts": 2**18}, "4096 tokens to balance the gate on x num_experts=262144 are more than"),
        (
            "expert_choice",
            {"num_experts": 2**20, "num_layers": 1, "tokens_per_rank": 1024},
            "1024 tokens routed together x num_experts=1048576 are more than 134217728 logits; take fewer",
        ),
        ("switch_top1", {}, "gives each token 1, got top_k=4"),
        ("hierarchical", {"groups": 5}, "groups must divide the experts"),
        ("modality", {"pools": 8}, "a pool has 2 of num_experts=16"),
        ("group_limited_sigmoid_bias", {"num_groups": 3}, "groups must divide the experts"),
    ],
)
def test_wrong_requests_are_refused(router: str, change: dict[str, Any], sentence: str) -> None:
    """In one sentence."""
    with pytest.raises(InputError, match=sentence):
        list(synthetic_steps(router, **(SIZES | change)))


def test_topics_grow_with_experts_up_to_what_a_stream_holds() -> None:
    """A topic for 256 experts; 67,108,864 experts have as many topics as there may be, and are not refused."""
    for experts, topics in ((1 << 20, 1 << 12), (1 << 26, MOST_TOPICS)):
        router = make_router("product_key", num_layers=1, num_experts=experts, top_k=16, parameters={"heads": 1})
        assert topics == router.knobs.topics
