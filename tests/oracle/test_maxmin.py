"""max_min_rates and the event loop against plain numpy versions."""

import numpy as np
import pytest
from hypothesis import given, settings

from moesim.errors import InputError
from moesim.network import simulate_flows
from moesim.network.maxmin import max_min_rates
from tests.network.naive import naive_finish, naive_rates
from tests.strategies.flows import Case, cases, star


@given(cases())
def test_rates_equal_those_of_filling_by_the_definition(case: Case) -> None:
    """The heap, stale keys and compensated sums change nothing about the rates."""
    csr = case.csr
    rates = max_min_rates(case.bandwidth, csr.offsets, csr.links, case.weight)
    np.testing.assert_allclose(rates, naive_rates(case.bandwidth, case.paths, case.weight), rtol=1e-11)


@settings(max_examples=150)
@given(cases(max_flows=20))
def test_finish_times_equal_those_of_sharing_anew_at_every_completion(case: Case) -> None:
    """Reopening only the links from a finished flow's owner on gives what filling from nothing gives."""
    csr = case.csr
    times = simulate_flows(case.bandwidth, csr.offsets, csr.links, case.size, weight=case.weight)
    expected = naive_finish(case.bandwidth, case.paths, case.size, case.weight, np.zeros(len(case.size)))
    np.testing.assert_allclose(times.finish_s, expected, rtol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_larger_random_networks_equal_the_plain_loop(seed: int) -> None:
    """With hundreds of flows the expected order of links goes wrong often: repair and the heap both take part."""
    rng = np.random.default_rng(seed)
    num_links, num_flows = 30, 160
    paths = tuple(tuple(rng.choice(num_links, rng.integers(1, 5), replace=False).tolist()) for _ in range(num_flows))
    case = Case(
        rng.choice([1.0, 2.0, 5.0], num_links),
        paths,
        rng.lognormal(0, 1, num_flows),
        rng.choice([1.0, 0.25, 3.0], num_flows) if seed % 2 else np.ones(num_flows),
    )
    csr = case.csr
    times = simulate_flows(case.bandwidth, csr.offsets, csr.links, case.size, weight=case.weight)
    expected = naive_finish(case.bandwidth, case.paths, case.size, case.weight, np.zeros(num_flows))
    np.testing.assert_allclose(times.finish_s, expected, rtol=1e-9)


def test_very_different_weights_keep_their_share() -> None:
    """A flow of weight 1 beside one of weight 1e12 gets what is left when the heavy one is held back elsewhere."""
    rates = max_min_rates([10.0, 4.0], [0, 2, 3], [0, 1, 0], [1e12, 1.0])
    assert rates.tolist() == [4.0, 6.0]


@pytest.mark.parametrize(
    ("bandwidth", "offsets", "links", "weight", "word"),
    [
        ([0.0], [0, 1], [0], None, "bandwidth"),
        ([np.nan], [0, 1], [0], None, "bandwidth"),
        ([1.0], [0, 1], [1], None, "outside"),
        ([1.0], [0, 1], [-1], None, "start at 0"),
        ([1.0], [0, 2, 1], [0], None, "fall"),
        ([1.0], [1, 1], [0], None, "start at 0"),
        ([1.0], [0, 2], [0, 0], None, "twice"),
        ([1.0], [0, 1], [0], [0.0], "weight"),
        ([1.0], [0, 1], [0], [1.0, 1.0], "weight"),
    ],
)
def test_input_that_is_no_network_is_refused(
    bandwidth: list, offsets: list, links: list, weight: list, word: str
) -> None:
    """Each fault has a sentence that names it."""
    with pytest.raises(InputError, match=word):
        max_min_rates(bandwidth, offsets, links, weight)


def test_star_of_unequal_flows_equals_the_plain_loop() -> None:
    """A dense all-to-all, where almost every link owns flows of every other."""
    case = star(12, seed=3)
    csr = case.csr
    times = simulate_flows(case.bandwidth, csr.offsets, csr.links, case.size)
    expected = naive_finish(case.bandwidth, case.paths, case.size, case.weight, np.zeros(len(case.size)))
    np.testing.assert_allclose(times.finish_s, expected, rtol=1e-9)
