"""contiguous, round_robin, random and hash: worked examples, and what the seed changes."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moesim.planner import PlacementProblem, place
from moesim.planner.strategies.hash import _ascending


def slots(name: str, experts: int, devices: int, num_slots: int, seed: int = 0, layers: int = 1) -> list[list[int]]:
    problem = PlacementProblem(np.ones((layers, experts)), devices, 8, num_slots, seed=seed)
    return [placement.expert_of_slot_P.tolist() for placement in place(name, problem).placements]


def test_contiguous_counts_on_and_starts_again() -> None:
    """Four experts in six slots: 0 1 2 3 0 1."""
    assert [[0, 1, 2, 3, 0, 1]] == slots("contiguous", 4, 2, 6)
    assert [[0, 1, 2]] * 2 == slots("contiguous", 3, 5, 3, layers=2)


def test_round_robin_deals_to_devices_in_turn() -> None:
    """Five experts, three devices, eight slots 3 3 2: device d gets entries d, d+3, d+6 of 0 1 2 3 4 0 1 2."""
    assert [[0, 3, 1, 1, 4, 2, 2, 0]] == slots("round_robin", 5, 3, 8)
    assert [[0, 4, 1, 5, 2, 3]] == slots("round_robin", 6, 4, 6)


@given(st.integers(1, 12), st.integers(0, 20), st.integers(1, 7), st.integers(0, 9))
def test_load_blind_strategies_place_the_same_copies(experts: int, extra: int, devices: int, seed: int) -> None:
    """Extra slot j >= E repeats expert (j - E) mod E, whatever the order."""
    expected = sorted([*range(experts), *((j - experts) % experts for j in range(experts, experts + extra))])
    for name in ("contiguous", "round_robin", "random", "hash"):
        assert expected == sorted(slots(name, experts, devices, experts + extra, seed)[0])


def test_random_differs_by_seed_and_layer() -> None:
    """Each layer is shuffled anew."""
    first, second = slots("random", 64, 8, 64, seed=0, layers=2)
    assert first != second
    assert first == slots("random", 64, 8, 64, seed=0)[0]
    assert first != slots("random", 64, 8, 64, seed=1)[0]


def test_hashes_are_taken_from_the_smallest_up_and_equal_ones_as_they_stand() -> None:
    """As by a stable sort, though hashes that are equal hardly ever come."""
    for hashes in ([5, 3, 5, 3, 5, 0] * 40, list(range(200, 0, -1)), [7]):
        assert sorted(range(len(hashes)), key=hashes.__getitem__) == _ascending(np.array(hashes, np.uint64)).tolist()


def test_hash_differs_by_seed_and_is_no_known_order() -> None:
    """Neither in order nor equal under another seed; the same in every layer."""
    first, second = slots("hash", 64, 8, 64, layers=2)
    assert first == second
    assert first != list(range(64))
    assert first != slots("hash", 64, 8, 64, seed=1)[0]
    assert 12 > sum(left + 1 == right for left, right in itertools.pairwise(first))
