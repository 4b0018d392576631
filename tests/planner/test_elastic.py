"""Splits that level loads, and copies placed so that they can do so after a drift."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from moesim.errors import Declined
from moesim.planner import PlacementProblem, place
from moesim.planner.levelling import level_shares

DEVICES = 32


def largest(placement, load_E, speed_D, share_P):
    """Largest load / speed of a device under these shares."""
    load_P = load_E[placement.expert_of_slot_P] * share_P
    return float((np.bincount(placement.device_of_slot_P, weights=load_P, minlength=speed_D.size) / speed_D).max())


def least_largest(placement, load_E, speed_D):
    """The same under the best shares there are, by a linear program over tokens of slots and the largest."""
    slots = placement.num_slots
    on_device, of_expert = np.zeros((speed_D.size, slots + 1)), np.zeros((load_E.size, slots + 1))
    on_device[placement.device_of_slot_P, np.arange(slots)] = 1.0
    on_device[:, slots] = -speed_D
    of_expert[placement.expert_of_slot_P, np.arange(slots)] = 1.0
    cost = np.append(np.zeros(slots), 1.0)
    return float(linprog(cost, on_device, np.zeros(speed_D.size), of_expert, load_E, method="highs").fun)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_levelled_shares_are_the_best_there_are(data):
    """The linear program finds nothing better; every expert's shares add up to 1, whatever the speeds and loads."""
    experts, devices = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 5))
    seed, slots = data.draw(st.integers(0, 99)), data.draw(st.integers(experts, 3 * experts))
    rng = np.random.default_rng(seed)
    load_E, speed_D = rng.integers(0, 50, experts).astype(float), rng.choice([0.5, 1.0], devices)
    problem = PlacementProblem(np.ones((1, experts)), devices, 1, slots, seed=seed)
    [placement] = place("random", problem).placements
    share_P = level_shares(placement, load_E, speed_D)
    assert np.allclose(np.bincount(placement.expert_of_slot_P, weights=share_P, minlength=experts), 1.0)
    best = least_largest(placement, load_E, speed_D)
    assert best == pytest.approx(largest(placement, load_E, speed_D, share_P), rel=1e-3)


def test_after_a_drift_a_split_solved_anew_levels_what_elastic_placed():
    """Zipf on 288 slots, 32 devices, then lognormal 0.3 on every expert: >= .92 with a new split, EPLB evenly below .80."""
    rng = np.random.default_rng(3)
    now_LE = np.stack([rng.permutation(np.arange(1, 257) ** -1.0) for _ in range(2)])
    next_LE = now_LE * rng.lognormal(0.0, 0.3, now_LE.shape)
    problem = PlacementProblem(now_LE, DEVICES, 8, 288, work_limit=0.7)
    even = np.ones(DEVICES)
    level, fixed = [], []
    for placement, load_E in zip(place("elastic", problem).placements, next_LE, strict=True):
        assert placement.split_NP is not None
        mean = load_E.sum() / DEVICES
        level.append(mean / largest(placement, load_E, even, level_shares(placement, load_E, even)))
        fixed.append(mean / largest(placement, load_E, even, placement.split_NP[0]))
    eplb = [
        load_E.sum()
        / DEVICES
        / largest(placement, load_E, even, 1.0 / placement.replicas_E[placement.expert_of_slot_P])
        for placement, load_E in zip(place("eplb_global", problem).placements, next_LE, strict=True)
    ]
    assert np.mean(fixed) < np.mean(level) and np.mean(eplb) < 0.8
    assert np.mean(level) >= 0.92


def test_elastic_declines_failure_domains():
    """It would move copies out of their domains."""
    with pytest.raises(Declined, match="survive=1, slots=8; take balanced"):
        place("elastic", PlacementProblem(np.ones((1, 4)), 2, 1, 8, survive=1))
