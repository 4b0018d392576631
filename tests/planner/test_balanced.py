"""Water-filled copies, longest first, then swaps: how even the loads come out, and that swaps never break a placement."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.placement import slots_per_device
from moesim.planner import PlacementProblem, place
from moesim.planner.packing import pack_longest_first
from moesim.planner.swapping import level_by_swaps
from moesim.planner.water_fill import water_fill

LAYERS, EXPERTS = 58, 256


def loads(kind: str) -> np.ndarray:
    """58 layers of Zipf 1.0 (shuffled) or lognormal 1 loads, seeded."""
    rng = np.random.default_rng(0)
    if kind == "zipf":
        return np.array([rng.permutation(1e6 / np.arange(1, EXPERTS + 1)) for _ in range(LAYERS)])
    return rng.lognormal(0.0, 1.0, (LAYERS, EXPERTS)) * 1000


def device_loads(problem: PlacementProblem, layer: int, placement) -> np.ndarray:
    share_P = (problem.load_LE[layer] / placement.replicas_E)[placement.expert_of_slot_P]
    return np.bincount(placement.device_of_slot_P, weights=share_P, minlength=problem.num_devices)


@pytest.mark.parametrize(
    ("slots", "devices", "zipf", "lognormal"),
    [(288, 32, 0.9998, 0.9995), (320, 64, 0.999, 0.998), (288, 64, 0.92, 0.97)],
)
def test_balancedness_of_58_layers_of_256_experts(slots, devices, zipf, lognormal):
    """Mean of mean/max device load is at least the target, no device repeats an expert, a second is enough."""
    for kind, target in (("zipf", zipf), ("lognormal", lognormal)):
        problem = PlacementProblem(loads(kind), devices, 8, slots)
        place("balanced", PlacementProblem(np.ones((1, 4)), 2, 1, 6))  # compiles
        began = time.process_time()
        answer = place("balanced", problem)
        seconds = time.process_time() - began
        load_LD = np.array([device_loads(problem, i, placement) for i, placement in enumerate(answer.placements)])
        assert (load_LD.mean(axis=1) / load_LD.max(axis=1)).mean() >= target
        assert [0] * LAYERS == [placement.same_device_duplicates for placement in answer.placements]
        assert seconds < 1.0


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(2, 20), st.integers(0, 12))
def test_swaps_keep_the_copies_and_never_raise_the_largest_load(seed, devices, experts, extra):
    """The same copies of each expert before and after, no new repeat on a device, the largest load / speed not above."""
    rng = np.random.default_rng(seed)
    load_E, slots = rng.lognormal(0, 1, experts), experts + extra
    slots_D, speed_D = slots_per_device(slots, devices), rng.choice([1.0, 0.5], devices)
    copies_E = water_fill(load_E, slots, devices)
    before_P = pack_longest_first(load_E, copies_E, devices, slots_D, speed_D)
    after_P = level_by_swaps(before_P, load_E / copies_E, slots_D, speed_D)
    device_P = np.repeat(np.arange(devices), slots_D)
    repeats, largest = [], []
    for slots_P in (before_P, after_P):
        assert copies_E.tolist() == np.bincount(slots_P, minlength=experts).tolist()
        repeats.append(slots - np.unique(device_P * experts + slots_P).size)
        load_D = np.bincount(device_P, weights=(load_E / copies_E)[slots_P], minlength=devices)
        largest.append((load_D / speed_D).max())
    assert repeats[1] <= repeats[0]
    assert largest[1] <= largest[0] * (1 + 1e-9)


def test_a_slow_device_gets_less() -> None:
    """Two devices of speeds 1 and 0.5 share equal experts two to one."""
    problem = PlacementProblem(np.ones((1, 6)), 2, 2, 8, speed_D=np.array([1.0, 0.5]), slots_D=np.array([5, 3]))
    load_D = device_loads(problem, 0, place("balanced", problem).placements[0])
    assert (load_D / [1.0, 0.5]).max() <= 4.5
