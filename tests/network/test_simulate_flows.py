"""simulate_flows: ordinary small cases, refused input, reference answers, and what a tolerance guarantees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.network import simulate_flows
from moesim.network.bound import bound_completion, upper_bound
from moesim.network.simulate import run_flows
from tests.conftest import SHARED
from tests.strategies.flows import Case, cases, star

REFERENCE = sorted(path.stem for path in (SHARED / "reference").glob("*.npz")) or ["absent"]


def run(case: Case, tolerance: float = 0.0):
    csr = case.csr
    return simulate_flows(case.bandwidth, csr.offsets, csr.links, case.size, weight=case.weight, tolerance=tolerance)


@pytest.mark.shared
@pytest.mark.parametrize("name", REFERENCE)
def test_reference_answers_are_reproduced_per_flow(shared_data, name: str) -> None:
    """An independent flow-level simulator agrees within 1e-9 on every flow of every case."""
    with np.load(shared_data / "reference" / f"{name}.npz", allow_pickle=False) as z:
        times = simulate_flows(z["link_capacity_Bps"], z["route_ptr"], z["route_links"], z["bytes"])
        np.testing.assert_allclose(times.finish_s, z["finish_s"], rtol=1e-9)


def test_no_flows_take_no_time() -> None:
    """An empty set of flows is an ordinary case."""
    times = simulate_flows([1.0], [0], [], [])
    assert (times.finish_s.tolist(), times.completion_s, times.solves) == ([], 0.0, 0)


def test_no_links_and_local_flows_take_no_time() -> None:
    """An empty path crosses nothing, however many bytes it carries."""
    assert simulate_flows([], [0, 0, 0], [], [5.0, 0.0]).finish_s.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("tolerance", [0.0, 0.1])
def test_zero_bytes_end_at_once_and_take_no_share(tolerance: float) -> None:
    """A flow without bytes neither runs forever nor slows another."""
    times = simulate_flows([2.0], [0, 1, 2], [0, 0], [0.0, 4.0], tolerance=tolerance)
    assert times.finish_s.tolist() == [0.0, 2.0]


def test_flows_that_end_together_are_one_completion() -> None:
    """Equal flows, and unequal ones whose ends only rounding could tell apart, need one solve each time."""
    equal = run(star(24, seed=None))
    thirds = simulate_flows([0.1, 0.3, 0.7], [0, 1, 2, 3], [0, 1, 2], [0.1 / 3, 0.3 / 3, 0.7 / 3])
    assert (equal.solves, thirds.solves) == (1, 1)


def test_an_almost_empty_flow_ends() -> None:
    """Thirty orders of magnitude between two flows on one link: both end, in their order."""
    times = simulate_flows([1e11], [0, 1, 2], [0, 0], [1e-18, 1e12])
    np.testing.assert_allclose(times.finish_s, [2e-29, 10.0], rtol=1e-12)


def test_weights_divide_a_link() -> None:
    """Weight 3 beside weight 1 gets three quarters."""
    times = simulate_flows([4.0], [0, 1, 2], [0, 0], [6.0, 2.0], weight=[3.0, 1.0])
    assert times.finish_s.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e6])
def test_only_ratios_of_weights_matter(scale: float) -> None:
    """All weights times c change no time."""
    case = star(6, seed=1)
    csr = case.csr
    times = simulate_flows(case.bandwidth, csr.offsets, csr.links, case.size, weight=np.full(len(case.size), scale))
    assert times.finish_s.tobytes() == run(case).finish_s.tobytes()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (([1.0], [0, 1], [0], [np.nan]), "flow bytes 0 is nan"),
        (([1.0], [0, 1], [0], [np.inf]), "flow bytes 0 is inf"),
        (([1.0], [0, 1], [0], [-1.0]), "flow bytes 0 is -1"),
        (([1.0], [0, 1], [0], [1.0, 2.0]), "2 entries for 1 flows"),
        (([-1.0], [0, 1], [0], [1.0]), "link bandwidth 0 is -1"),
        (([np.inf], [0, 1], [0], [1.0]), "link bandwidth 0 is inf"),
        (([1.0], [0, 1], [3], [1.0]), "outside 0..0"),
        (([1.0], [0, 1, 0], [0], [1.0, 1.0]), "fall"),
        (([1.0], [0, 5], [0], [1.0]), "end at 5"),
        (([1.0], [0.0, 1.0], [0], [1.0]), "whole numbers"),
        (([[1.0]], [0, 1], [0], [1.0]), "one dimension"),
        (("x", [0, 1], [0], [1.0]), "list of numbers"),
    ],
)
def test_unusable_input_is_refused_in_a_sentence(arguments: tuple, word: str) -> None:
    """The message has the name, the value and the bound."""
    with pytest.raises(InputError, match=word):
        simulate_flows(*arguments)


@pytest.mark.parametrize("tolerance", [-0.1, 1.5, np.nan, True])
def test_a_tolerance_is_a_fraction(tolerance: float) -> None:
    """Outside 0..1 there is no meaning."""
    with pytest.raises(InputError, match="tolerance"):
        simulate_flows([1.0], [0, 1], [0], [1.0], tolerance=tolerance)


@settings(max_examples=150)
@given(cases(max_flows=20), st.sampled_from([0.01, 0.05, 0.3]))
def test_error_bound_holds_for_the_exact_answer(case: Case, tolerance: float) -> None:
    """The merged and the exact completion both lie in LB..(1 + error_bound) LB, and the merged one not below LB."""
    lower = bound_completion(case.flows(), case.bandwidth)
    merged, exact = run(case, tolerance), run(case)
    assert lower * (1 - 1e-9) <= min(merged.completion_s, exact.completion_s)
    assert max(merged.completion_s, exact.completion_s) <= (1 + merged.error_bound) * lower * (1 + 1e-9)
    upper = upper_bound(case.flows(), case.bandwidth)
    assert lower == 0.0 or merged.error_bound >= max(merged.completion_s, upper) / lower - 1 - 1e-9


@settings(max_examples=150)
@given(cases(max_flows=20), st.sampled_from([0.01, 0.05, 0.3]))
def test_a_merged_answer_is_exact_for_bytes_within_the_backward_error(case: Case, tolerance: float) -> None:
    """Give each flow the bytes the merged run sent for it: the exact run ends when the merged one did."""
    merged = run(case, tolerance)
    busy = bound_busy(case)
    fluid = run_flows(
        case.bandwidth, case.csr, case.size, case.weight, window=tolerance * busy.max(initial=0.0), floor_s=busy
    )
    sent = case.size + fluid.flow["excess"][:-1]
    relative = np.abs(sent - case.size)[case.size > 0] / case.size[case.size > 0]
    assert relative.max(initial=0.0) == pytest.approx(merged.backward_error, rel=1e-6, abs=1e-12)
    again = run(Case(case.bandwidth, case.paths, sent, case.weight))
    np.testing.assert_allclose(again.finish_s, merged.finish_s, rtol=1e-9)


def bound_busy(case: Case) -> np.ndarray:
    from moesim.network.bound import link_busy_s

    return link_busy_s(case.csr, case.size, case.bandwidth)


@pytest.mark.parametrize("tolerance", [0.01, 0.05])
def test_a_tolerance_saves_solves_and_costs_little(tolerance: float) -> None:
    """On a skewed star of 48 hosts: far fewer solves, a completion within the tolerance of the exact one."""
    case = star(48, seed=0)
    merged, exact = run(case, tolerance), run(case)
    assert merged.solves < 3 / tolerance < exact.solves
    assert merged.completion_s == pytest.approx(exact.completion_s, rel=tolerance)


def test_exact_answers_claim_no_error() -> None:
    """Both errors are 0 at tolerance 0."""
    times = run(star(8, seed=2))
    assert (times.error_bound, times.backward_error) == (0.0, 0.0)
