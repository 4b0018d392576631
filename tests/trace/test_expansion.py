"""Counts expanded to tokens keep the load of every expert, and say the assumption they rest on.

Array letters: S step of the file, L layer, E expert, K top-k.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.routing import RoutingTrace
from moesim.trace.dealing import deal, num_dealt_steps
from moesim.trace.drawing import draw_by_share, draw_by_weight
from moesim.trace.expansion import expansion_note, shares_of
from moesim.trace.store import open_trace, write_trace
from tests.strategies.routing import counts_of

LOAD_SLE = np.array([[[70, 50, 40, 20, 20], [99, 1, 1, 1, 98]], [[1, 1, 1, 1, 0], [2, 2, 0, 0, 0]]])


@pytest.fixture
def counts(tmp_path: Path) -> RoutingTrace:
    write_trace(counts_of(LOAD_SLE), tmp_path / "c.parquet")
    return open_trace(tmp_path / "c.parquet")


def test_counted_tokens_fill_the_steps(counts: RoutingTrace) -> None:
    """100 tokens in the first step of the file make four dealt steps of 32, two in the second make a fifth."""
    steps = list(deal(counts, num_ranks=4, mode="decode", tokens_per_rank=8))
    assert 5 == num_dealt_steps(counts, num_ranks=4, mode="decode", tokens_per_rank=8)
    assert [32, 32, 32, 4, 2] == [step.num_tokens for step in steps]
    assert [1.0, 1.0, 1.0, 4 / 32, 2 / 32] == [step.fill for step in steps]
    assert [[8, 8, 8, 8], [1, 1, 1, 1], [1, 1, 0, 0]] == [
        np.bincount(steps[i].rank_T, minlength=4).tolist() for i in (0, 3, 4)
    ]
    assert {0, 1} == set(steps[4].experts_LTK[1].ravel().tolist())


def test_a_window_and_a_seed_give_the_same_steps(counts: RoutingTrace) -> None:
    """A dealt step depends on the seed and its number, not on the window."""
    whole = list(deal(counts, num_ranks=4, mode="decode", tokens_per_rank=8, seed=3))
    part = list(deal(counts, num_ranks=4, mode="decode", tokens_per_rank=8, seed=3, steps=(2, 5)))
    other = list(deal(counts, num_ranks=4, mode="decode", tokens_per_rank=8, seed=4))
    assert [step.experts_LTK.tolist() for step in whole[2:]] == [step.experts_LTK.tolist() for step in part]
    assert whole[0].experts_LTK.tolist() != other[0].experts_LTK.tolist()


def test_the_load_comes_out_as_it_was_counted() -> None:
    """An expert of 99 % of the tokens gets 99 % of the drawn ones: no thinning of hot experts."""
    share_LE = shares_of(LOAD_SLE[0] * 1000, 2, "test", (0, 1))
    drawn_LTK = draw_by_share(share_LE, 40_000, 2, seed=1)
    found_LE = np.stack([np.bincount(drawn_TK.ravel(), minlength=5) for drawn_TK in drawn_LTK]) / 40_000
    assert np.abs(found_LE - LOAD_SLE[0] * 2 / LOAD_SLE[0].sum(axis=1, keepdims=True)).max() < 0.01


@settings(max_examples=60)
@given(st.data(), st.integers(1, 6), st.integers(0, 2**63))
def test_draws_are_distinct_and_repeatable(data: st.DataObject, top_k: int, seed: int) -> None:
    """Both designs draw K distinct experts in range, the same for the same seed, and only experts with a share."""
    counts = st.lists(st.integers(1, 10**9), min_size=top_k, max_size=20)
    load_LE = np.array([[*data.draw(counts), 0]])
    share_LE = shares_of(load_LE, top_k, "test", (0,))
    assert np.isclose(top_k, share_LE.sum())
    assert 1.0 >= share_LE.max() >= share_LE.min() >= 0.0
    for draw in (
        lambda: draw_by_share(share_LE, 30, top_k, seed),
        lambda: draw_by_weight(load_LE + 1e-9, 30, top_k, seed),
    ):
        drawn_LTK = draw()
        assert (np.diff(np.sort(drawn_LTK, axis=2), axis=2) > 0).all()
        assert 0 <= drawn_LTK.min() <= drawn_LTK.max() < load_LE.shape[1]
        assert drawn_LTK.tolist() == draw().tolist()
    assert load_LE.shape[1] - 1 not in draw_by_share(share_LE, 30, top_k, seed)


def test_weights_draw_like_an_urn_without_replacement() -> None:
    """The second of two draws follows the weights of the experts that are left."""
    weight_E = np.array([4.0, 2.0, 1.0])
    drawn_TK = draw_by_weight(weight_E[None], 60_000, 2, seed=5)[0]
    for first in range(3):
        for second in range(3):
            expected = weight_E[first] / 7 * weight_E[second] / (7 - weight_E[first]) if first != second else 0.0
            found = ((drawn_TK[:, 0] == first) & (drawn_TK[:, 1] == second)).mean()
            assert abs(expected - found) < 0.01


def test_a_rare_rest_is_still_drawn() -> None:
    """When the drawn experts hold nearly all weight, the next are found among the rest, in proportion."""
    drawn_TK = draw_by_weight(np.array([[1e12, 1.0, 3.0]]), 20_000, 2, seed=5)[0]
    assert (drawn_TK[:, 0] == 0).all()
    assert abs(0.75 - (drawn_TK[:, 1] == 2).mean()) < 0.02


def test_shares_above_one_are_capped_and_handed_on() -> None:
    """A token can choose an expert once: what is above goes to the others in proportion."""
    assert [[1.0, 0.5, 0.5, 0.0]] == shares_of(np.array([[98, 1, 1, 0]]), 2, "test", (0,)).tolist()
    assert np.allclose([[1.0, 1.0, 0.0]], shares_of(np.array([[98, 1, 0]]), 2, "test", (0,)), rtol=1e-15)


def test_the_assumption_is_named(counts: RoutingTrace) -> None:
    """The note a result repeats."""
    assert "expanded to tokens by the assumption 'independent': sources uniform" in expansion_note(counts)


def test_what_counts_cannot_give_is_refused(tmp_path: Path, counts: RoutingTrace) -> None:
    """No number of tokens, too few experts in use, an unknown top-k, steps beyond."""
    with pytest.raises(InputError, match="holds counts; give tokens_per_rank"):
        deal(counts, num_ranks=4, mode="decode")
    with pytest.raises(InputError, match=r"not within the 5 steps \(0:5\)"):
        deal(counts, num_ranks=4, mode="decode", tokens_per_rank=8, steps=(4, 6))
    with pytest.raises(InputError, match="must be >= 1"):
        deal(counts, num_ranks=4, mode="decode", tokens_per_rank=0)
    write_trace(counts_of(np.array([[[5, 0, 0]]])), tmp_path / "few.parquet")
    with pytest.raises(InputError, match="step 0, layer 0: 1 experts have tokens, fewer than top_k=2"):
        list(deal(open_trace(tmp_path / "few.parquet"), num_ranks=1, mode="decode", tokens_per_rank=8))
    write_trace(counts_of(LOAD_SLE, top_k=0), tmp_path / "unknown.parquet")
    unknown = open_trace(tmp_path / "unknown.parquet")
    with pytest.raises(InputError, match="does not know its top-k"):
        deal(unknown, num_ranks=1, mode="decode", tokens_per_rank=8)
    assert 13 == num_dealt_steps(unknown, num_ranks=1, mode="decode", tokens_per_rank=8, top_k=2) - 1
