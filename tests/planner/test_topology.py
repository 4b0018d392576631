"""The topology strategy: its state counts what the simulator counts, its search never worsens, its answers repeat."""

import dataclasses

import numpy as np
import pytest

from moesim.planner import PlacementProblem, place
from moesim.planner.held_out import time_of
from moesim.planner.local_search import improve
from moesim.planner.neighbourhood import improve_neighbourhoods
from moesim.planner.objective import cost_tables, make_state
from moesim.planner.problem import first_alike
from moesim.planner.search_costs import search_costs
from moesim.planner.search_state import (
    copies_of,
    count,
    layer_tokens,
    slots_filled,
    source_split,
    start_state,
    value,
    worst_value,
)
from moesim.planner.sketch import make_sketch, select_windows
from moesim.planner.source_tables import nearest_sources
from moesim.planner.starts import by_eplb, by_load, by_node, by_one_copy
from moesim.planner.survival import fewest_domains
from moesim.routing import DealtStep
from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.study.work_plan import make_work_plan
from tests.strategies.scenario import tiny_scenario

EXPERTS, DEVICES, LAYERS = 16, 16, 2


def random_step(number: int) -> DealtStep:
    """Skewed tokens; each layer has its own hot experts."""
    rng = np.random.default_rng((5, number))
    keys = rng.random((LAYERS, 16 * 12, EXPERTS)) ** np.arange(1, EXPERTS + 1)
    keys[1] = keys[1][:, ::-1]
    experts = np.argsort(-keys, axis=-1)[..., :2].astype(np.int32)
    return DealtStep(number, np.repeat(np.arange(16, dtype=np.int32), 12), experts, None, 1.0)


@pytest.fixture(scope="module")
def problem(tmp_path_factory) -> PlacementProblem:
    """Two nodes of eight devices, 16 experts in 24 slots, three steps of tokens, node_dedup."""
    folder = tmp_path_factory.mktemp("topology")
    setting = load_setting(make_scenario(tiny_scenario(folder, parallel={"ep": DEVICES})))
    steps = [random_step(number) for number in range(3)]
    load_LE = np.stack(
        [sum(np.bincount(s.experts_LTK[layer].ravel(), minlength=EXPERTS) for s in steps) for layer in range(LAYERS)]
    )
    loads = PlacementProblem(load_LE, DEVICES, 8, 24)
    work = make_work_plan(setting, place("contiguous", loads).placements, "nearest")
    costs = cost_tables(work, np.full(16, 12.0))
    return dataclasses.replace(loads, sketch=make_sketch(steps, 16), costs=costs, work_limit=0.25)


def state_of(problem, holds_ED, layer=0):
    tokens = layer_tokens(problem.sketch, layer, problem.load_LE[layer])
    table_ED = nearest_sources(holds_ED, problem.devices_per_node)
    return tokens, start_state(search_costs(problem.costs), tokens, holds_ED, problem.slots_of_devices, table_ED)


def placement_of(problem, state):
    placement = problem.placement(slots_filled(state.holds_ED, problem.slots_of_devices))
    split = source_split(state, placement.expert_of_slot_P, placement.device_of_slot_P)
    return dataclasses.replace(placement, split_NP=split)


def test_the_state_loads_links_and_devices_as_the_objective_does(problem):
    """Copies on every link, and tokens on every device, of the tables shipped as a split."""
    tokens, state = state_of(problem, by_load(problem, 0))
    improve(search_costs(problem.costs), tokens, state, 2e5, 1)
    placement = placement_of(problem, state)
    theirs = make_state(problem.costs, problem.sketch, 0, placement, "split", 0)
    np.testing.assert_allclose(state.load_WR, theirs.load_WR, atol=1e-6)
    rows_WD = state.rows_EDV.sum(axis=0).T
    for device in range(DEVICES):
        mine = placement.device_of_slot_P == device
        np.testing.assert_allclose(rows_WD[:, device], theirs.load_WGP[:, 0, mine].sum(axis=1))


def test_the_search_keeps_its_books_and_never_worsens(problem):
    """After the search every count equals one made anew, no device has more copies than slots, the value fell."""
    tokens, state = state_of(problem, by_load(problem, 0))
    before = value(tokens, state)
    reached = improve(search_costs(problem.costs), tokens, state, 5e5, 3)
    assert reached < before
    assert (state.holds_ED.sum(axis=0) <= problem.slots_of_devices).all()
    assert np.array_equal(state.fill_D, state.holds_ED.sum(axis=0))
    assert np.array_equal(state.copies_E, state.holds_ED.sum(axis=1))
    assert state.holds_ED[np.arange(EXPERTS)[:, None], state.device_ED].all()
    loads, rows = state.load_WR.copy(), state.rows_EDV.copy()
    count(search_costs(problem.costs), tokens, state)
    np.testing.assert_allclose(loads, state.load_WR, atol=1e-6)
    np.testing.assert_allclose(rows, state.rows_EDV, atol=1e-6)
    assert reached == pytest.approx(value(tokens, state))
    assert worst_value(search_costs(problem.costs), tokens, state) <= value(tokens, state)


def test_a_neighbourhood_never_worsens_and_keeps_slots(problem):
    """CP-SAT's dealing is kept only where the layer's value falls; devices keep their numbers of copies."""
    holds_ED = copies_of(place("contiguous", problem).placements[0])
    tokens, state = state_of(problem, holds_ED)
    before = value(tokens, state)
    assert improve_neighbourhoods(search_costs(problem.costs), tokens, state, 1.0) <= before * (1 + 1e-9)
    assert np.array_equal(holds_ED.sum(axis=0), state.holds_ED.sum(axis=0))
    assert state.holds_ED[np.arange(EXPERTS)[:, None], state.device_ED].all()


def test_starts_hold_every_expert_within_the_slots(problem):
    """Copies by load and by node; on devices of unlike slots too."""
    uneven = dataclasses.replace(problem, slots_D=np.array([3, 0] + [1] * 7 + [2] * 7), num_slots=24)
    for posed in (problem, uneven):
        for holds_ED in (by_load(posed, 0), by_node(posed, posed.sketch, 0)):
            assert holds_ED.any(axis=1).all()
            assert (holds_ED.sum(axis=0) <= posed.slots_of_devices).all()


def test_one_copy_of_each_expert_goes_to_devices_by_their_speed(problem):
    """Two devices at double speed hold twice the others' experts where slots allow; nobody holds a second copy."""
    fast = dataclasses.replace(
        problem, speed_D=np.array([1.0] * 2 + [0.5] * 14), slots_D=np.array([3, 3] + [1] * 10 + [0] * 2 + [4] * 2)
    )
    for posed in (problem, fast):
        holds_ED = by_one_copy(posed, 0)
        assert (holds_ED.sum(axis=1) == 1).all()
        assert (holds_ED.sum(axis=0) <= posed.slots_of_devices).all()
    assert [2, 2] == holds_ED.sum(axis=0)[:2].tolist()


def test_topology_is_no_slower_than_eplb_on_its_window_and_repeats_itself(problem):
    """On the objective, layer by layer, against EPLB on the slots it accepts; the same problem has the same plan."""
    problem = dataclasses.replace(problem, sketch=select_windows(problem.sketch, [0]))  # no other to try a plan on
    answer = place("topology", problem)
    for layer, placement in enumerate(answer.placements):
        published = by_eplb(problem, layer, hierarchical=False)
        ours, theirs = (time_of(problem, problem.sketch, layer, plan) for plan in (placement, published))
        assert ours <= theirs
        assert 24 == placement.num_slots
        assert 0 == placement.same_device_duplicates
    assert answer == place("topology", problem)
    assert any("quicker than EPLB" in note for note in answer.notes)


def test_topology_without_tokens_places_by_load_and_says_so(problem):
    """Loads alone are no reason to fail, with failure domains neither."""
    blind = dataclasses.replace(problem, sketch=None, costs=None)
    answer = place("topology", blind)
    assert "knows only loads" in answer.notes[0]
    assert [24, 24] == [placement.num_slots for placement in answer.placements]
    twice = dataclasses.replace(blind, survive=1, num_slots=2 * blind.num_experts)
    for placement in place("topology", twice).placements:
        assert 2 <= fewest_domains(twice, placement.expert_of_slot_P)[1]


def test_a_window_without_tokens_is_an_ordinary_case(problem):
    """Every expert is placed all the same."""
    empty = make_sketch([DealtStep(0, np.zeros(0, np.int32), np.zeros((LAYERS, 0, 2), np.int32), None, 0.0)], 16)
    answer = place("topology", dataclasses.replace(problem, sketch=empty, load_LE=np.zeros((LAYERS, EXPERTS))))
    assert [24, 24] == [placement.num_slots for placement in answer.placements]


def test_where_little_is_gained_on_seen_and_unseen_steps_the_answer_is_the_published_plan(problem):
    """By the mode that is quicker, and it says so; this problem's devices all hold one expert, whatever is done."""
    loose = dataclasses.replace(problem, num_slots=32)
    answer = place("topology", loose)
    assert ["not worth it"] == [note.partition(":")[0] for note in answer.notes]
    for layer, placement in enumerate(answer.placements):
        assert (
            by_eplb(loose, layer, hierarchical=False).expert_of_slot_P.tolist() == placement.expert_of_slot_P.tolist()
        )


def test_layers_of_the_same_tokens_are_placed_once(problem):
    """A routing that repeats has repeated placements; one expert that goes elsewhere makes another layer of it."""
    sketch = dataclasses.replace(problem.sketch, experts_LTK=problem.sketch.experts_LTK[[0, 1, 0]])
    sketch = select_windows(sketch, [0])  # nothing to try a plan on: what was searched is the answer
    repeated = dataclasses.replace(problem, load_LE=problem.load_LE[[0, 1, 0]], sketch=sketch)
    assert [0, 1, 0] == first_alike(repeated, sketch)
    first, second, third = place("topology", repeated).placements
    assert first.expert_of_slot_P.tolist() == third.expert_of_slot_P.tolist() != second.expert_of_slot_P.tolist()
    changed = sketch.experts_LTK.copy()
    changed[2, 0] = changed[2, 0, ::-1]
    assert [0, 1, 2] == first_alike(repeated, dataclasses.replace(sketch, experts_LTK=changed))
