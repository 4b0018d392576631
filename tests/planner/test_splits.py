"""Splits by linear program: never slower than even ones, written to a plan and replayed as planned."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.placement import ExpertPlacement
from moesim.plan_file import LayerSplit
from moesim.planner import PlacementProblem
from moesim.planner.objective import cost_tables
from moesim.planner.splits import best_split
from moesim.replica import choose_replicas
from tests.planner.test_objective import NODES, random_placement, random_step, whole_sketch, work_of
from tests.strategies.placement import placements


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """Two nodes, 24 slots for 16 experts, all tokens of two steps."""
    work = work_of(tmp_path_factory.mktemp("splits"), NODES, 16, (random_placement(16),) * 2, "nearest", {})
    steps = [random_step(number, 16, 64) for number in range(2)]
    sketch, costs = whole_sketch(steps, 16), cost_tables(work, np.full(16, 64.0))
    return PlacementProblem(np.ones((2, 16)), 16, 8, 24, sketch=sketch, costs=costs)


@pytest.mark.parametrize("seed", range(6))
def test_the_split_is_never_slower_than_even_splits(problem, seed):
    """On the objective, whatever the placement; shares of each expert sum to 1 from every node."""
    placement = random_placement(16, seed=seed)
    answer = best_split(problem, seed % 2, placement)
    assert answer.time_s <= answer.even_time_s
    assert placement.expert_of_slot_P.tolist() == answer.placement.expert_of_slot_P.tolist()
    for shares_P in answer.placement.split_NP:
        np.testing.assert_allclose(np.bincount(placement.expert_of_slot_P, weights=shares_P), 1.0)


def test_some_split_is_quicker_and_names_what_is_congested(problem):
    """Over six random placements at least one gains, and what is named is a link or a device."""
    answers = [best_split(problem, 0, random_placement(16, seed=seed)) for seed in range(6)]
    assert min(answer.time_s / answer.even_time_s for answer in answers) < 1.0
    assert {"link", "device"} >= {answer.resource[0] for answer in answers if answer.resource is not None}


def test_without_copies_there_is_nothing_to_split(problem):
    """Sixteen slots: the answer is the placement, with no resource named."""
    alone = PlacementProblem(np.ones((2, 16)), 16, 8, 16, sketch=problem.sketch, costs=problem.costs)
    answer = best_split(alone, 0, ExpertPlacement(np.arange(16), 16, 16))
    assert (answer.time_s, None) == (answer.even_time_s, answer.resource)


@given(st.integers(0, 2**32), placements(max_extra=8))
def test_a_split_read_from_a_plan_is_the_split_written(seed, placement):
    """To six decimals, scaled to sum to 1."""
    shares_NP = np.random.default_rng(seed).random((3, placement.num_slots)) + 0.01
    split = ExpertPlacement(
        placement.expert_of_slot_P, placement.num_experts, placement.num_devices, split_NP=shares_NP
    )
    table_NP = LayerSplit.of(split).table(placement.num_slots)
    again = ExpertPlacement(placement.expert_of_slot_P, placement.num_experts, placement.num_devices, split_NP=table_NP)
    np.testing.assert_allclose(split.split_NP, again.split_NP, atol=2e-6)


def test_tokens_follow_the_shares_of_their_node() -> None:
    """Of 20,000 tokens on each of two nodes, copies get their shares within five standard deviations; a 0 gets none."""
    shares_NP = np.array([[0.2, 0.8, 1.0], [1.0, 0.0, 1.0]])
    placement = ExpertPlacement(np.array([0, 0, 1]), 2, 4, split_NP=shares_NP)
    source_T = np.repeat(np.array([0, 2], np.int32), 20_000)
    slots_T = choose_replicas(np.zeros((40_000, 1), np.int32), source_T, placement, "split", 2, seed=3)[:, 0]
    first, second = np.bincount(slots_T[:20_000], minlength=3), np.bincount(slots_T[20_000:], minlength=3)
    assert abs(first[0] - 4000) < 5 * np.sqrt(20_000 * 0.2 * 0.8)
    assert [20_000, 0, 0] == second.tolist()


def test_a_split_that_cannot_be_is_refused() -> None:
    """No share at all, a negative one, the wrong width, a policy without shares."""
    slots_P = np.array([0, 0, 1])
    for shares, words in (
        ([[0.0, 0.0, 1.0]], "no slot of expert 0"),
        ([[-1.0, 1.0, 1.0]], "finite shares"),
        ([[1.0, 1.0]], "one share per source node and slot"),
    ):
        with pytest.raises(InputError, match=words):
            ExpertPlacement(slots_P, 2, 2, split_NP=np.array(shares))
    with pytest.raises(InputError, match="needs a plan with a split table"):
        choose_replicas(
            np.zeros((1, 1), np.int32), np.zeros(1, np.int32), ExpertPlacement(slots_P, 2, 2), "split", 1, 0
        )
