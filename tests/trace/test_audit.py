"""The audit of a trace: stationary traces raise few alarms, an expert that misbehaves is named.

Array letters: V window, U unit, L layer, E expert.
"""

from typing import Any

import numpy as np
import pytest

from moesim.trace.audit import audit
from moesim.trace.synthetic import make_router, route_step
from moesim.trace.token_batches import TokenDeal

WINDOWS, UNITS, LAYERS, EXPERTS = 8, 16, 2, 32


def _counts(seed: int, **knobs: Any) -> tuple[Any, Any]:
    """Counts of 8 steps of 16 sequences of 100 tokens on two layers."""
    deal = TokenDeal(num_tokens=WINDOWS * UNITS * 100, num_steps=WINDOWS, num_ranks=1, sequence_tokens=100)
    parameters = {"sequence_tokens": 100, "topics": 8, "topic_tokens": 20.0, **knobs}
    router = make_router(
        "softmax_topk", num_layers=LAYERS, num_experts=EXPERTS, top_k=4, seed=seed, parameters=parameters
    )
    count_VULE = np.zeros((WINDOWS, UNITS, LAYERS, EXPERTS), np.int32)
    for step in range(WINDOWS):
        for layer in range(LAYERS):
            for unit, rows in enumerate(route_step(router, layer, deal, step).reshape(UNITS, 100, 4)):
                count_VULE[step, unit, layer] = np.bincount(rows.ravel(), minlength=EXPERTS)
    return count_VULE, np.full((WINDOWS, UNITS, LAYERS), 100)


def test_few_stationary_traces_raise_an_alarm() -> None:
    """At most 1 of 10 traces whose topics differ from sequence to sequence but whose gate stands still."""
    alarms = 0
    for seed in range(5):
        for knobs in ({"structure": 0.3, "repeat": 0.0}, {"structure": 0.8, "repeat": 0.5, "focus": 0.8}):
            found = audit(*_counts(seed, **knobs), (0, 1))
            assert found is not None
            alarms += found["flagged"] > 0
    assert alarms <= 1


def test_topics_that_change_are_not_an_alarm() -> None:
    """Inputs that drift explain loads that drift."""
    flagged = [audit(*_counts(seed, drift=0.1, topic_skew=1.5), (0, 1))["flagged"] for seed in range(3)]  # type: ignore[index]
    assert sum(flagged) <= 1


@pytest.mark.parametrize("sign", [1, -1], ids=["busy", "idle"])
def test_an_expert_that_misbehaves_is_named(sign: int) -> None:
    """Half as many tokens again, or half of its own gone, in one step: first in the table, with its layer index and step."""
    count_VULE, tokens_VUL = _counts(1)
    expert = int(count_VULE[5, :, 1].sum(axis=0).argmax())
    count_VULE[5, :, 1, expert] += (sign * count_VULE[5, :, 1, expert] * 0.5).astype(np.int32)
    found = audit(count_VULE, np.maximum(tokens_VUL, count_VULE.max(axis=3)), (0, 9))
    assert found is not None
    worst = found["table"][0]
    assert (5, 9, expert) == (worst["window"], worst["layer"], worst["expert"])
    assert worst["z"] * sign > found["threshold"]
    assert (worst["tokens"] - worst["expected"]) * sign > 0


def test_too_little_to_judge_by_is_no_audit() -> None:
    """Three windows, or too few units with tokens."""
    count_VULE, tokens_VUL = _counts(1)
    assert audit(count_VULE[:3], tokens_VUL[:3], (0, 1)) is None
    assert audit(count_VULE[:, :2], tokens_VUL[:, :2], (0, 1)) is None
