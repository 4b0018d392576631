"""Bounds against brute force on tiny problems, and against the plans of every strategy that needs loads only."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from moesim.errors import Declined
from moesim.planner import PlacementProblem, place
from moesim.planner.bounds import load_bounds


def best_by_trying_all(load_E, slots_D, speed_D):
    """The least largest load / speed over all sets of experts on every device and all splits (a linear program each)."""
    experts, devices = len(load_E), len(slots_D)
    choices = [list(itertools.combinations(range(experts), min(int(slots), experts))) for slots in slots_D]
    best = np.inf
    for sets in itertools.product(*choices):
        if len(set().union(*sets)) < experts:
            continue
        cells = [(e, d) for d in range(devices) for e in sets[d]]
        served = [[1.0 * (cell[0] == e) for cell in cells] + [0.0] for e in range(experts)]
        within = [[1.0 * (cell[1] == d) for cell in cells] + [-speed_D[d]] for d in range(devices)]
        answer = linprog([0.0] * len(cells) + [1.0], A_ub=within, b_ub=[0.0] * devices, A_eq=served, b_eq=load_E)
        best = min(best, answer.fun)
    return best


@st.composite
def tiny(draw):
    """Up to 5 experts on up to 3 devices of any slots and two speeds."""
    experts, devices = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    slots_D = np.array(draw(st.lists(st.integers(1, 3), min_size=devices, max_size=devices)))
    load_E = np.array(draw(st.lists(st.integers(0, 20), min_size=experts, max_size=experts)), dtype=np.float64)
    speed_D = np.array(draw(st.lists(st.sampled_from([1.0, 0.5]), min_size=devices, max_size=devices)))
    return load_E, slots_D, speed_D


@given(tiny())
@settings(max_examples=40)
def test_no_placement_and_split_beats_a_load_bound(problem):
    """Every bound is at most the best of all placements and splits."""
    load_E, slots_D, speed_D = problem
    if slots_D.sum() < load_E.size:
        return
    best = best_by_trying_all(load_E, slots_D, speed_D)
    for name, bound in load_bounds(load_E, slots_D, speed_D).items():
        assert bound <= best * (1 + 1e-9) + 1e-9, name


@given(tiny())
@settings(max_examples=15)
def test_exact_is_the_best_of_all_placements(problem):
    """The largest load / speed under the answer's split is that of brute force, to a thousandth of the total."""
    load_E, slots_D, speed_D = problem
    if slots_D.sum() < load_E.size or load_E.sum() == 0:
        return
    posed = PlacementProblem(
        load_E[None, :], slots_D.size, 1, int(slots_D.sum()), speed_D=speed_D / speed_D.max(), slots_D=slots_D
    )
    answer = place("exact", posed)
    placement = answer.placements[0]
    load_P = load_E[placement.expert_of_slot_P] * placement.split_NP[0]
    reached = (np.bincount(placement.device_of_slot_P, weights=load_P, minlength=slots_D.size) / posed.speeds).max()
    best = best_by_trying_all(load_E, slots_D, posed.speeds)
    assert answer.proven
    assert best == pytest.approx(reached, abs=2e-3 * load_E.sum())


@pytest.mark.parametrize("name", ["contiguous", "eplb_global", "longest_first", "balanced"])
@given(st.integers(0, 2**32))
@settings(max_examples=10)
def test_load_bounds_are_below_every_plan(name, seed):
    """Even splits of any strategy's placement leave some device at or above each bound."""
    rng = np.random.default_rng(seed)
    problem = PlacementProblem(rng.lognormal(0, 1.5, (1, 24)), 5, 2, 30)
    try:
        placement = place(name, problem).placements[0]
    except Declined:
        return
    share_P = (problem.load_LE[0] / placement.replicas_E)[placement.expert_of_slot_P]
    largest = np.bincount(placement.device_of_slot_P, weights=share_P).max()
    slots_D = np.bincount(placement.device_of_slot_P, minlength=5)
    assert max(load_bounds(problem.load_LE[0], slots_D, np.ones(5)).values()) <= largest * (1 + 1e-9)


def test_exact_declines_a_large_problem() -> None:
    """With the size and what to take instead."""
    with pytest.raises(Declined, match="up to 64 experts x devices"):
        place("exact", PlacementProblem(np.ones((1, 64)), 8, 8, 64))
