"""Bounds against brute force on tiny problems, and against the plans of every strategy that needs loads only."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from moesim.compute import expert_cost
from moesim.errors import Declined
from moesim.planner import PlacementProblem, bounds, place
from moesim.planner.bounds_aggregate import fewest_far
from moesim.planner.bounds_fitted import expert_floor
from moesim.planner.bounds_load import load_bounds
from moesim.planner.objective import cost_tables
from tests.planner.test_objective import NODES, random_placement, work_of


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
@settings(max_examples=20)
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


def test_patterns_see_what_a_device_cannot_hold_together() -> None:
    """The heavy expert must share its device with one of three others: 6, where every other bound says 5."""
    bounds = load_bounds(np.array([5.0, 1.0, 1.0, 1.0]), np.array([2, 2]), np.ones(2))
    assert bounds.pop("patterns of few slots") == pytest.approx(6.0, rel=1e-4)
    assert max(bounds.values()) == pytest.approx(5.0)


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=30)
def test_the_aggregate_is_the_best_of_all_placements_on_nodes(seed, experts, nodes):
    """Fewest pairs that leave their node: equal to trying every set of experts on every node."""
    rng = np.random.default_rng(seed)
    pairs_NE = rng.integers(0, 9, (nodes, experts)).astype(np.float64)
    slots_N = rng.integers(1, experts + 1, nodes)
    choices = [list(itertools.combinations(range(experts), int(slots))) for slots in slots_N]
    near = [
        sum(pairs_NE[node, list(held)].sum() for node, held in enumerate(sets))
        for sets in itertools.product(*choices)
        if len(set().union(*sets)) == experts
    ]
    if near:
        assert pairs_NE.sum() - max(near) == pytest.approx(fewest_far(pairs_NE, slots_N), abs=1e-6)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Costs of one node of eight devices, one at half speed, under fitted curves with corrections."""
    cluster = {**NODES, "nodes": 1, "devices": [{"match": "node0.dev0", "speed": 0.5}]}
    placements = (random_placement(8, nodes=1),) * 2
    work = work_of(tmp_path_factory.mktemp("fitted"), cluster, 8, placements, "even", {}, "h200-sxm")
    return work, cost_tables(work, np.full(8, 8.0))


@given(st.integers(0, 2**32))
@settings(max_examples=20)
def test_no_copies_and_split_beat_the_floor_of_a_fitted_curve(fitted, seed):
    """Any loads cut into any copies on any devices: the weighted mean over ranks is at least the bound."""
    work, costs = fitted
    rng = np.random.default_rng(seed)
    load_P = rng.multinomial(int(rng.integers(1, 400)), rng.dirichlet(np.full(24, 0.3)))
    expert_P = random_placement(8, seed=seed % 1000, nodes=1).expert_of_slot_P
    time_D = expert_cost(load_P, np.repeat(np.arange(8), 3), work.rates, work.model, "bf16", expert_P).time_s
    load_E = np.bincount(expert_P, weights=load_P, minlength=16).astype(np.int64)
    for weight_S in (np.full(8, 0.125), costs.curve.speed_S / costs.curve.speed_S.sum()):
        for typical_E in (load_E, np.full(16, 25)):  # prices chosen for other loads hold as well
            floor = expert_floor(costs, weight_S, np.full(8, 3), typical_E[None, :], 400)
            assert 0 <= floor.seconds(load_E[None, :]) <= float(weight_S @ time_D) * (1 + 1e-9)


@pytest.mark.parametrize("tokens", [1, 64, 400])
def test_the_floor_of_level_loads_is_near_what_level_devices_take(fitted, tokens):
    """Two experts of so many tokens on each of eight devices, no slot spare: nothing is left but how curves bend."""
    work, costs = fitted
    load_E, weight_S = np.full(16, tokens), np.full(8, 0.125)
    time_D = expert_cost(load_E, np.repeat(np.arange(8), 2), work.rates, work.model, "bf16", np.arange(16)).time_s
    floor = expert_floor(costs, weight_S, np.full(8, 2), load_E[None, :], 400)
    assert 0.9 * float(weight_S @ time_D) < floor.seconds(load_E[None, :]) <= float(weight_S @ time_D) * (1 + 1e-9)


def test_exact_declines_a_large_problem() -> None:
    """With the size and what to take instead."""
    with pytest.raises(Declined, match="up to 64 experts x devices"):
        place("exact", PlacementProblem(np.ones((1, 64)), 8, 8, 64))


def test_own_slots_serve_the_most_wanted_experts_of_each_rank() -> None:
    """Pairs that occur are counted as a table of ranks by experts would count them."""
    rng = np.random.default_rng(0)
    for ranks, experts, pairs, slots in ((1, 1, 5, 1), (4, 7, 60, 2), (5, 9, 40, 12), (3, 50, 0, 4)):
        rank, expert = rng.integers(0, ranks, pairs), rng.integers(0, experts, pairs)
        table = np.zeros((ranks, experts), dtype=np.int64)
        np.add.at(table, (rank, expert), 1)
        assert np.sort(table, axis=1)[:, ::-1][:, :slots].sum() == bounds._served(rank, expert, slots)
