"""Laws of max-min fair sharing, and the two sentences that look like laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.network import simulate_flows
from moesim.network.bound import bound_completion, link_load, upper_bound
from moesim.network.maxmin import max_min_rates
from tests.strategies.flows import Case, cases, paths_of, star


def finish(case: Case) -> np.ndarray:
    csr = case.csr
    return simulate_flows(case.bandwidth, csr.offsets, csr.links, case.size, weight=case.weight).finish_s


@given(cases())
def test_no_link_carries_more_than_its_bandwidth(case: Case) -> None:
    """Rates are feasible."""
    csr = case.csr
    rates = max_min_rates(case.bandwidth, csr.offsets, csr.links, case.weight)
    crossing = np.where(np.isinf(rates), 0.0, rates)
    assert (link_load(csr, crossing, len(case.bandwidth)) <= case.bandwidth * (1 + 1e-12)).all()


@given(cases())
def test_every_flow_crosses_a_full_link_on_which_none_has_more(case: Case) -> None:
    """The bottleneck theorem: this marks the max-min fair rates among all feasible ones."""
    csr = case.csr
    rates = max_min_rates(case.bandwidth, csr.offsets, csr.links, case.weight)
    level = rates / case.weight
    load = link_load(csr, np.where(np.isinf(rates), 0.0, rates), len(case.bandwidth))
    for flow, path in enumerate(case.paths):
        assert not path or any(
            load[link] >= case.bandwidth[link] * (1 - 1e-12)
            and all(level[other] <= level[flow] * (1 + 1e-12) for other, p in enumerate(case.paths) if link in p)
            for link in path
        )


@given(cases())
def test_bytes_are_conserved_on_every_flow(case: Case) -> None:
    """Integrating the rates over the intervals between completions gives each flow its bytes."""
    csr, end = case.csr, finish(case)
    sent, before = np.zeros(len(end)), 0.0
    for instant in np.unique(end):
        running = np.flatnonzero(end >= instant)
        paths = paths_of(tuple(case.paths[flow] for flow in running))
        rate = max_min_rates(case.bandwidth, paths.offsets, paths.links, case.weight[running])
        if instant > before:
            sent[running] += rate * (instant - before)
        before = instant
    crossing = np.diff(csr.offsets) > 0
    np.testing.assert_allclose(sent[crossing], case.size[crossing], rtol=1e-9, atol=1e-9)


@given(cases(), st.lists(st.floats(0.0, 3.0), min_size=14, max_size=14))
def test_completion_lies_between_the_bounds(case: Case, latencies: list[float]) -> None:
    """bound <= fluid <= UB, with latencies after the last byte."""
    latency = np.array(latencies[: len(case.size)])
    flows = case.flows(latency)
    completion = float((finish(case) + latency).max(initial=0.0))
    assert bound_completion(flows, case.bandwidth) <= completion * (1 + 1e-12)
    assert completion <= upper_bound(flows, case.bandwidth) * (1 + 1e-12)


@given(cases(max_links=5))
def test_fluid_meets_the_bound_where_one_link_is_on_every_path(case: Case) -> None:
    """A link that all flows cross, no wider than any other, is busy until the end."""
    width = float(case.bandwidth.min())
    shared = len(case.bandwidth)
    paths = tuple((*path, shared) for path in case.paths)
    joined = Case(np.append(case.bandwidth, width), paths, case.size, case.weight)
    completion = float(finish(joined).max(initial=0.0))
    assert completion == pytest.approx(bound_completion(joined.flows(), joined.bandwidth), rel=1e-12)


@given(cases(), st.sampled_from([1e-6, 0.5, 3.0, 1e9]))
def test_all_bandwidths_times_c_divides_all_times_by_c(case: Case, factor: float) -> None:
    """Only ratios matter."""
    faster = Case(case.bandwidth * factor, case.paths, case.size, case.weight)
    np.testing.assert_allclose(finish(faster) * factor, finish(case), rtol=1e-9)


@given(cases(), st.integers(0, 6))
def test_bound_is_monotone_in_every_bandwidth(case: Case, which: int) -> None:
    """Widening a link never raises the bound."""
    wider = case.bandwidth.copy()
    wider[which % len(wider)] *= 1.7
    assert bound_completion(case.flows(), wider) <= bound_completion(case.flows(), case.bandwidth)


@given(cases(), st.randoms(use_true_random=False))
def test_relabelling_links_and_flows_changes_nothing(case: Case, random: object) -> None:
    """Names of links and the order of flows have no meaning."""
    links = list(range(len(case.bandwidth)))
    flows = list(range(len(case.size)))
    random.shuffle(links)  # type: ignore[attr-defined]
    random.shuffle(flows)  # type: ignore[attr-defined]
    bandwidth = np.empty(len(links))
    bandwidth[links] = case.bandwidth
    paths = tuple(tuple(links[link] for link in case.paths[flow]) for flow in flows)
    relabelled = Case(bandwidth, paths, case.size[flows], case.weight[flows])
    np.testing.assert_allclose(finish(relabelled), finish(case)[flows], rtol=1e-9)


@given(cases())
def test_same_input_same_bits(case: Case) -> None:
    """Nothing depends on anything but the input."""
    assert finish(case).tobytes() == finish(case).tobytes()


@pytest.mark.parametrize("num_hosts", [2, 5, 33])
def test_direct_all_to_all_on_a_switch_takes_n_minus_one_messages(num_hosts: int) -> None:
    """(n - 1) B / bw for B bytes per pair on a non-blocking switch."""
    case = star(num_hosts, seed=None)
    assert finish(case).max() == pytest.approx((num_hosts - 1) * 2**20 / 50e9, rel=1e-12)


@pytest.mark.parametrize(("width", "end"), [(0.25, 2.0), (1.0, 2.5)])
def test_a_wider_link_can_slow_the_whole(width: float, end: float) -> None:
    """Not a law: widening Q1 and Q2 lets A1 and A2 crowd B out of L, and B, which also needs P, ends later."""
    bandwidth = np.array([1.0, 0.5, width, width])  # L, P, Q1, Q2
    case = Case(bandwidth, ((0, 1), (0, 2), (0, 3)), np.array([1.0, 0.5, 0.5]), np.ones(3))
    assert finish(case).max() == pytest.approx(end, rel=1e-12)


@pytest.mark.parametrize(("ingress", "end"), [(10.0, 1.40), (20.0, 1.55)])
def test_a_wider_host_can_slow_a_star(ingress: float, end: float) -> None:
    """Not a law either: doubling the ingress of host 2 turns 1.40 into 1.55."""
    pairs = {(0, 2): 5, (0, 3): 8, (1, 2): 6, (2, 0): 4, (2, 1): 3, (2, 3): 6, (3, 0): 6, (3, 1): 5, (3, 2): 3}
    bandwidth = np.full(8, 10.0)
    bandwidth[4 + 2] = ingress
    paths = tuple((source, 4 + target) for source, target in pairs)
    case = Case(bandwidth, paths, np.array(list(pairs.values()), float), np.ones(len(pairs)))
    assert finish(case).max() == pytest.approx(end, rel=1e-12)
