"""Training along the steps of a trace: each dynamics does what it says, and inspection sees it.

Array letters: V window, L layer, E expert.
"""

from pathlib import Path
from typing import Any

import numpy as np

from moesim.trace.generate import TraceShape, generate_trace
from moesim.trace.inspect import inspect_trace
from moesim.trace.step_statistics import SAME_TOKENS, effective_experts


def _facts(path: Path, dynamics: str = "", steps: int = 8, repeat_tokens: bool = False, **knobs: Any) -> dict[str, Any]:
    generate_trace(
        path / "t.parquet",
        router="softmax_topk",
        shape=TraceShape(num_experts=16, top_k=2),
        num_tokens=steps * 500,
        num_steps=steps,
        seed=4,
        repeat_tokens=repeat_tokens,
        parameters={
            "sequence_tokens": 50,
            "topic_tokens": 5.0,
            **({"dynamics": dynamics} if dynamics else {}),
            **knobs,
        },
    )
    return inspect_trace(path / "t.parquet")


def test_collapse_leaves_few_experts(tmp_path: Path) -> None:
    """Rich get richer: some die, the effective number falls; a still gate does neither."""
    facts = _facts(tmp_path, "collapse:rate=1,most=6")
    assert facts["died_experts"][0] >= 3
    assert facts["collapse"][0] > 0.5
    assert facts["effective_last"][0] < 0.5 * facts["effective_first"][0]
    still = _facts(tmp_path)
    assert (0, True) == (still["died_experts"][0], abs(still["collapse"][0]) < 0.15)


def test_warm_up_begins_nearly_even(tmp_path: Path) -> None:
    """Noise spreads the first steps over all experts; a hot gate concentrates when it is gone."""
    facts = _facts(tmp_path, "warm_up:start=20,steps=6", hot=2.0)
    assert facts["effective_first"][0] > 14.0
    assert facts["collapse"][0] > 0.2


def test_a_balance_loss_spreads_the_load(tmp_path: Path) -> None:
    """Collapse is negative, the more so the stronger the loss."""
    found = [_facts(tmp_path, f"balance_loss:strength={s}", hot=2.0)["collapse"][0] for s in (0, 0.1, 2)]
    assert found[0] > found[1] > found[2]
    assert found[2] < -0.3


def test_flips_are_counted_on_repeated_tokens_only(tmp_path: Path) -> None:
    """A still gate flips nothing; a collapsing one does, and less than everything; other tokens have no flips."""
    still = _facts(tmp_path, repeat_tokens=True)
    assert [0.0] == still["flip_rate"]
    assert [0.0] == still["load_shift"]
    assert SAME_TOKENS in still["notes"]
    moving = _facts(tmp_path, "collapse:rate=0.3", repeat_tokens=True)["flip_rate"][0]
    assert 0.05 < moving < 0.6
    assert _facts(tmp_path)["flip_rate"] is None


def test_growth_and_dropout_mask_experts(tmp_path: Path) -> None:
    """Added experts idle until they exist; dropped ones change from step to step."""
    facts = _facts(tmp_path, "growth:start=4,added=4,every=2")
    assert facts["effective_first"][0] <= 4.0 < 10.0 < facts["effective_last"][0]
    assert _facts(tmp_path, "dropout:chance=0.3")["load_shift"][0] > 1.3 * _facts(tmp_path)["load_shift"][0]


def test_one_step_has_nothing_to_compare(tmp_path: Path) -> None:
    """All of it is None."""
    facts = _facts(tmp_path, steps=1)
    names = ("died_experts", "effective_first", "effective_last", "collapse", "load_shift", "flip_rate", "audit")
    assert [None] * 7 == [facts[name] for name in names]


def test_effective_experts_of_closed_cases() -> None:
    """Even over n = n; weights 1/2, 1/4, 1/4: 2 to the power 1.5."""
    load_LE = np.array([[2, 2, 2, 0], [4, 2, 2, 0]])
    assert np.allclose([3.0, 2**1.5], effective_experts(load_LE))
