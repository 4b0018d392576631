"""What every placement strategy of the registry keeps when it is given tokens and costs, not loads alone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import Declined
from moesim.planner import STRATEGIES, PlacementProblem, place, replica_policy
from moesim.planner.objective import layer_time, make_state
from moesim.planner.sketch import make_sketch
from moesim.planner.strategies.risk_window import risk
from moesim.planner.windows import window_loads
from moesim.routing import DealtStep
from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.step_bound import step_phases
from moesim.step_work import StepWork
from moesim.study.bounding import lower_bound
from moesim.study.posing import layer_costs
from moesim.study.work_plan import make_work_plan
from tests.strategies.scenario import tiny_scenario

EXPERTS, DEVICES, LAYERS, TOKENS = 16, 16, 2, 6
every_strategy = pytest.mark.parametrize("name", STRATEGIES.names())


def random_steps(seed: int) -> list[DealtStep]:
    """Three steps; each layer has its own skew and experts follow each other."""
    rng = np.random.default_rng(seed)
    heat_LE = rng.lognormal(0, 1, (LAYERS, 1, EXPERTS))
    keys = [rng.random((LAYERS, DEVICES * TOKENS, EXPERTS)) ** (1 / heat_LE) for _ in range(3)]
    source_T = np.repeat(np.arange(DEVICES, dtype=np.int32), TOKENS)
    return [
        DealtStep(number, source_T, np.argsort(-key, axis=-1)[..., :2].astype(np.int32), None, 1.0)
        for number, key in enumerate(keys)
    ]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """The tiny model on two nodes of eight devices, node_dedup."""
    return load_setting(make_scenario(tiny_scenario(tmp_path_factory.mktemp("steps"), parallel={"ep": DEVICES})))


@pytest.fixture(scope="module")
def costs(setting):
    """Cost tables of a step."""
    loads = PlacementProblem(np.ones((LAYERS, EXPERTS)), DEVICES, 8, 20)
    return layer_costs(
        setting, make_work_plan(setting, place("contiguous", loads).placements, "nearest"), random_steps(0)
    )


def posed(costs, seed: int, slots_D=None, num_slots: int = 20) -> PlacementProblem:
    """Steps of that seed as a problem with tokens and little solver work."""
    steps = random_steps(seed)
    load_LE = np.stack(
        [sum(np.bincount(s.experts_LTK[layer].ravel(), minlength=EXPERTS) for s in steps) for layer in range(LAYERS)]
    )
    return PlacementProblem(
        load_LE,
        DEVICES,
        8,
        num_slots,
        sketch=make_sketch(steps, DEVICES),
        costs=costs,
        slots_D=slots_D,
        work_limit=0.02,
    )


def answered(name: str, problem: PlacementProblem):
    """The placements, or skips the test where the strategy declines."""
    try:
        return place(name, problem).placements
    except Declined as declined:
        assert str(problem.num_slots) in str(declined)
        pytest.skip(str(declined))


@every_strategy
def test_uneven_slots_are_kept_and_every_expert_is_placed(costs, name):
    """Devices with three slots, with one, with none (no memory left); strategies of the usual rule ignore or decline it."""
    slots_D = np.array([3, 0, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 2, 1])
    for placement in answered(name, posed(costs, 1, slots_D, 20)):
        assert np.unique(placement.expert_of_slot_P).size == EXPERTS
        if placement.slots_D is not None:
            assert np.array_equal(slots_D, np.bincount(placement.device_of_slot_P, minlength=DEVICES))


@every_strategy
def test_the_same_steps_have_the_same_answer(costs, name):
    """Placements, splits and notes repeat."""
    answered(name, posed(costs, 2))
    assert place(name, posed(costs, 2)) == place(name, posed(costs, 2))


@every_strategy
def test_no_plan_beats_the_lower_bound(setting, costs, name):
    """The closed form of the judged steps themselves is at or above what is proven, whatever placed the experts."""
    problem = posed(costs, 3)
    work = make_work_plan(setting, answered(name, problem), replica_policy(name))
    steps = random_steps(3)
    bound_s, names = lower_bound(setting, problem, work, costs, steps)
    predicted_s = np.mean([step_phases(StepWork(plan=work, dealt=step)).step_s for step in steps])
    assert 0 < bound_s <= predicted_s * (1 + 1e-9)
    assert {"dispatch", "experts", "combine"} == set(names)


def largest(problem: PlacementProblem, layer: int, placement) -> float:
    """The largest load of a device, even split."""
    share_P = (problem.load_LE[layer] / placement.replicas_E)[placement.expert_of_slot_P]
    return float(np.bincount(placement.device_of_slot_P, weights=share_P).max())


def largest_risk(problem: PlacementProblem, layer: int, placement) -> float:
    """The largest mean + z sigma of a device over windows, even split."""
    load_WE, weight_W = window_loads(problem, layer)
    load_WD = np.zeros((len(weight_W), DEVICES))
    np.add.at(load_WD.T, placement.device_of_slot_P, (load_WE / placement.replicas_E)[:, placement.expert_of_slot_P].T)
    return float(risk(load_WD, weight_W).max())


def seconds(problem: PlacementProblem, layer: int, placement) -> float:
    """The objective, by the split shipped."""
    policy = "nearest" if placement.split_NP is None else "split"
    return float(layer_time(problem.costs, make_state(problem.costs, problem.sketch, layer, placement, policy, 0), 0.0))


MINIMISED = {
    "balanced": largest,
    "longest_first": largest,
    "eplb_global": largest,
    "routing_ilp": largest,
    "risk_window": largest_risk,
    "topology": seconds,
}


@pytest.mark.parametrize("name", sorted(MINIMISED))
@given(seed=st.integers(0, 1000))
@settings(max_examples=4)
def test_what_a_strategy_minimises_is_never_more_than_in_order(costs, name, seed):
    """Loads, risk or seconds, layer by layer, against `contiguous` on the same slots."""
    problem = posed(costs, seed, num_slots=32 if name.startswith("eplb") else 20)
    judge = MINIMISED[name]
    for layer, (ours, theirs) in enumerate(
        zip(place(name, problem).placements, place("contiguous", problem).placements, strict=True)
    ):
        assert judge(problem, layer, ours) <= judge(problem, layer, theirs) * (1 + 1e-9)


@pytest.mark.parametrize("name", ["balanced", "longest_first", "eplb_global", "risk_window", "affinity"])
@given(seed=st.integers(0, 1000))
@settings(max_examples=5)
def test_names_of_experts_do_not_matter(costs, name, seed):
    """Relabelled experts get the same devices: every device holds the same loads (loads differ, so that no tie decides)."""
    problem = posed(costs, seed, num_slots=32)
    distinct_LE = problem.load_LE + np.linspace(0.01, 0.2, EXPERTS)
    problem = dataclasses.replace(problem, load_LE=distinct_LE)
    label_E = np.random.default_rng(seed).permutation(EXPERTS)
    load_LE = np.empty_like(distinct_LE)
    load_LE[:, label_E] = distinct_LE
    sketch = dataclasses.replace(problem.sketch, experts_LTK=label_E[problem.sketch.experts_LTK].astype(np.int32))
    renamed = dataclasses.replace(problem, load_LE=load_LE, sketch=sketch)
    for layer in range(LAYERS):
        ours, theirs = (place(name, posed).placements[layer] for posed in (problem, renamed))
        if name == "affinity":
            held, again = (np.sort(label_E[ours.expert_of_slot_P])), np.sort(theirs.expert_of_slot_P)
            assert np.array_equal(held, again)
        else:
            judge = MINIMISED[name]
            assert judge(problem, layer, ours) == pytest.approx(judge(renamed, layer, theirs), rel=0.02)


def test_affinity_follows_tokens(costs):
    """Experts that only one device's tokens visit, one after the other, are on that device's node in both layers."""
    source_T = np.repeat(np.arange(DEVICES, dtype=np.int32), 4)
    experts_LTK = np.stack([source_T, (source_T + 5) % EXPERTS])[:, :, None].astype(np.int32)
    step = DealtStep(0, source_T, experts_LTK, None, 1.0)
    load_LE = np.full((LAYERS, EXPERTS), 4.0)
    problem = PlacementProblem(load_LE, DEVICES, 8, 16, sketch=make_sketch([step], DEVICES), costs=costs)
    first, second = place("affinity", problem).placements
    assert list(range(16)) == first.expert_of_slot_P.tolist()
    assert [(device + 5) % 16 for device in range(16)] == second.expert_of_slot_P.tolist()


def test_risk_window_parts_experts_that_peak_together(costs):
    """Two that peak in the first step and two in the second: pairs that peak apart share a device."""
    experts = [[[0, 1]] * 4 + [[2, 3]], [[2, 3]] * 4 + [[0, 1]]]
    steps = [DealtStep(w, np.zeros(5, np.int32), np.array([experts[w]], np.int32), None, 1.0) for w in range(2)]
    problem = PlacementProblem(np.full((1, 4), 5.0), 2, 2, 4, sketch=make_sketch(steps, 2))
    slots = place("risk_window", problem).placements[0].expert_of_slot_P.reshape(2, 2)
    assert all(len({0, 1} & set(held)) == 1 for held in slots.tolist())


def test_routing_ilp_keeps_bundles_near_their_tokens(costs):
    """Each device asks for two experts of its own: equal loads, and no token leaves its device."""
    source_T = np.repeat(np.arange(DEVICES, dtype=np.int32), 2)
    step = DealtStep(0, source_T, np.stack([source_T[:, None]] * LAYERS).astype(np.int32), None, 1.0)
    problem = PlacementProblem(
        np.full((LAYERS, EXPERTS), 2.0), DEVICES, 8, 16, sketch=make_sketch([step], DEVICES), costs=costs
    )
    assert all(
        list(range(16)) == placed.expert_of_slot_P.tolist() for placed in place("routing_ilp", problem).placements
    )


def test_routing_ilp_says_what_is_too_large() -> None:
    """With the size, the limit and what to take instead."""
    with pytest.raises(Declined, match="up to 2048 experts x devices; this one has 256 x 32"):
        place("routing_ilp", PlacementProblem(np.ones((1, 256)), 32, 8, 288))
