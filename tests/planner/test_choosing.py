"""One option per layer: the least risk over cases within a budget, against trying all."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.planner.choosing import choose, risk


@settings(max_examples=20)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5, 0.75, 1.0]), st.booleans())
def test_the_choice_has_the_least_risk_of_all_choices(seed, level, limited):
    """Brute force over 3 layers x 3 options and 4 cases finds nothing better, to the solver's millionths."""
    rng = np.random.default_rng(seed)
    seconds_LCK, weight_K = rng.random((3, 3, 4)), np.ones(4)
    amount_LC, budget = rng.integers(0, 10, (3, 3)), None
    if limited:
        budget = int(amount_LC.min(axis=1).sum()) + 3
    chosen = choose(seconds_LCK, weight_K, level, amount_LC=amount_LC, budget=budget)

    def value(options):
        return risk(seconds_LCK[np.arange(3), list(options)].sum(axis=0), weight_K, level)

    allowed = [
        options
        for options in itertools.product(range(3), repeat=3)
        if budget is None or amount_LC[np.arange(3), list(options)].sum() <= budget
    ]
    assert "optimal" == chosen.status
    assert tuple(chosen.option_L) in allowed
    assert value(chosen.option_L) == pytest.approx(min(map(value, allowed)), rel=1e-3)


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=6), st.floats(0.0, 1.0))
def test_risk_lies_between_the_mean_and_the_worst_and_grows_with_its_level(times, level):
    """mean <= cvar <= worst."""
    seconds, even = np.array(times), np.ones(len(times))
    low, middle, high = (risk(seconds, even, at) for at in (0.0, level, 1.0))
    assert low - 1e-9 <= middle <= high + 1e-9
