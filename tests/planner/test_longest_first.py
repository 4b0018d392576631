"""Water-filled copies and longest-first packing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from moesim.placement import slots_per_device
from moesim.planner import PlacementProblem, place
from moesim.planner.packing import pack_longest_first
from moesim.planner.water_fill import water_fill
from tests.strategies.placement import problems


def hand_out(load_E: NDArray[np.float64], slots: int, most: int) -> list[int]:
    """One slot after the other to the largest load per copy; fewer copies, then the lower index, among equals."""
    copies = [1] * load_E.size
    for _ in range(slots - load_E.size):
        open_experts = [expert for expert in range(load_E.size) if copies[expert] < most]
        expert = min(open_experts, key=lambda expert: (-load_E[expert] / copies[expert], copies[expert], expert))
        copies[expert] += 1
    return copies


@given(problems())
def test_small_problems_are_filled_as_by_hand(problem: PlacementProblem) -> None:
    """Slot by slot the greedy answer, which has the smallest possible largest load per copy."""
    load_E, slots, devices = problem.load_LE[0], problem.num_slots, problem.num_devices
    expected = hand_out(load_E, slots, max(devices, -(-slots // problem.num_experts)))
    assert expected == water_fill(load_E, slots, devices).tolist()


@pytest.mark.parametrize("devices", [7, 4000])
def test_many_extra_slots_are_filled_by_bisection_to_the_same_answer(devices: int) -> None:
    """3000 extra slots for 100 skewed experts, far more than are handed out one by one."""
    load_E = np.random.default_rng(0).lognormal(0, 2, 100)
    expected = hand_out(load_E, 3100, max(devices, 31))
    assert expected == water_fill(load_E, 3100, devices).tolist()


@given(problems())
def test_every_copy_is_packed_once_and_repeats_none(problem: PlacementProblem) -> None:
    """Slots hold exactly the copies; no device repeats an expert unless copies exceed devices."""
    copies_E = water_fill(problem.load_LE[0], problem.num_slots, problem.num_devices)
    slots_P = pack_longest_first(problem.load_LE[0], copies_E, problem.num_devices)
    assert copies_E.tolist() == np.bincount(slots_P, minlength=problem.num_experts).tolist()
    if copies_E.max() <= problem.num_devices:
        assert 0 == problem.placement(slots_P).same_device_duplicates


@given(st.integers(2, 8), st.integers(2, 12), st.integers(0, 2**32))
def test_repeats_are_swapped_away_for_any_copies(devices: int, experts: int, seed: int) -> None:
    """Also for counts that water-filling would never give: up to one copy on every device, heavy or idle."""
    rng = np.random.default_rng(seed)
    copies_E = rng.integers(1, devices + 1, experts)
    load_E = rng.integers(0, 5, experts).astype(np.float64)
    slots_P = pack_longest_first(load_E, copies_E, devices)
    first_D = np.cumsum(slots_per_device(slots_P.size, devices))[:-1]
    for held in np.split(slots_P, first_D):
        assert len(set(held.tolist())) == held.size


def test_longest_first_by_hand() -> None:
    """Loads 8 5 4 3 with an extra slot on devices of 3 and 2: expert 0 is halved; 5, 4 and 3 | 4 and 4."""
    placed = place("longest_first", PlacementProblem(np.array([[8.0, 5, 4, 3]]), 2, 2, 5)).placements[0]
    assert [[1, 0, 3], [0, 2]] == [placed.expert_of_slot_P[:3].tolist(), placed.expert_of_slot_P[3:].tolist()]


@pytest.mark.parametrize(("slots", "devices", "least"), [(288, 32, 0.99), (320, 64, 0.97), (288, 64, 0.90)])
def test_skewed_layers_are_balanced(slots: int, devices: int, least: float) -> None:
    """Eight layers of 256 experts under Zipf loads, also where the slots do not divide by the devices."""
    rng = np.random.default_rng(0)
    load_LE = np.stack([rng.permutation(1e6 / np.arange(1, 257)) for _ in range(8)])
    answer = place("longest_first", PlacementProblem(load_LE, devices, 8, slots))
    ratios = []
    for load_E, placement in zip(load_LE, answer.placements, strict=True):
        share_P = (load_E / placement.replicas_E)[placement.expert_of_slot_P]
        load_D = np.bincount(placement.device_of_slot_P, share_P, minlength=devices)
        ratios.append(load_D.mean() / load_D.max())
        assert 0 == placement.same_device_duplicates
    assert np.mean(ratios) > least
