"""Sketches of planning windows: what is kept, what it stands for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.planner.sketch import every_so_manyth, join_sketches, make_sketch, select_windows, shuffled_sources
from moesim.routing import DealtStep


def step(number: int, tokens_R: list[int], seed: int = 0) -> DealtStep:
    rank_T = np.repeat(np.arange(len(tokens_R), dtype=np.int32), tokens_R)
    experts = np.random.default_rng((seed, number)).integers(0, 8, (2, rank_T.size, 2), dtype=np.int32)
    return DealtStep(number, rank_T, experts, None, 1.0)


@given(st.lists(st.lists(st.integers(1, 40), min_size=4, max_size=4), min_size=1, max_size=6), st.integers(1, 200))
def test_a_sketch_stands_for_all_tokens_of_its_steps(tokens_SR, most):
    """Per window and rank the weights add up to the rank's tokens, thinned or not; `whole` says which."""
    steps = [step(number, tokens_R) for number, tokens_R in enumerate(tokens_SR)]
    sketch = make_sketch(steps, 4, most_tokens=most)
    total_WR = np.zeros((len(steps), 4))
    np.add.at(total_WR, (sketch.window_T, sketch.source_T), sketch.weight_T)
    seen = total_WR > 0
    np.testing.assert_allclose(total_WR[seen], np.array(tokens_SR)[seen])
    assert sketch.whole == (sketch.num_tokens == sum(map(sum, tokens_SR)))
    assert not sketch.whole or seen.all()
    assert 1.0 == pytest.approx(sketch.window_weight_W.sum())


def test_windows_are_evenly_spaced_and_tokens_numbered_within_their_group():
    """Of five steps three are kept: first, middle, last; indices count from the step's own first, group by group."""
    sketch = make_sketch([step(n, [2, 1, 1, 2]) for n in range(5)], 4, group_size=2, most_windows=3)
    assert 3 == sketch.num_windows
    assert [0, 1, 2, 0, 1, 2] == sketch.token_T[:6].tolist()
    assert [12, 13, 14, 12, 13, 14] == sketch.token_T[6:12].tolist()


def test_shuffled_sources_keep_tokens_together_and_joined_sketches_keep_weights():
    """Ranks are renamed one to one in each window; two sketches joined have all windows of both, at their weights."""
    sketch = make_sketch([step(n, [3, 1, 2, 4]) for n in range(2)], 4)
    shuffled = shuffled_sources(sketch, 4, seed=1)
    for window in range(2):
        mine = sketch.window_T == window
        pairs = {(int(a), int(b)) for a, b in zip(sketch.source_T[mine], shuffled.source_T[mine], strict=True)}
        assert 4 == len(pairs) == len({b for _, b in pairs})
    both = join_sketches([sketch, shuffled], [3.0, 1.0])
    assert [0.375, 0.375, 0.125, 0.125] == both.window_weight_W.tolist()
    again = select_windows(both, [0, 1])
    assert np.array_equal(again.source_T, sketch.source_T)
    assert [0.5, 0.5] == again.window_weight_W.tolist()


def test_no_steps_are_refused():
    """A planning window needs a step."""
    with pytest.raises(InputError, match="no steps to plan on"):
        make_sketch([], 4)


@given(st.lists(st.lists(st.integers(10, 40), min_size=4, max_size=4), min_size=1, max_size=4), st.integers(10, 200))
def test_every_so_manyth_token_stands_for_its_windows_others(tokens_SR, most):
    """Windows keep the tokens they stand for, at most so many are left; few enough are left alone."""
    sketch = make_sketch([step(number, tokens_R) for number, tokens_R in enumerate(tokens_SR)], 4)
    few = every_so_manyth(sketch, most)
    assert few.num_tokens <= most or few is sketch
    per_window = [np.bincount(one.window_T, weights=one.weight_T).tolist() for one in (sketch, few)]
    assert per_window[0] == pytest.approx(per_window[1])
    assert few.whole == (few is sketch)
    assert every_so_manyth(sketch, sketch.num_tokens) is sketch
