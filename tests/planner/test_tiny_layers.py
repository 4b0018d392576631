"""Tiny layers: climbs on the objective reach the best of all plans, and never leave a better one."""

import dataclasses
import itertools

import numpy as np
import pytest

from moesim.planner import PlacementProblem, place
from moesim.planner.held_out import time_of
from moesim.planner.objective import cost_tables
from moesim.planner.sketch import make_sketch
from moesim.planner.tiny_layers import climb, is_tiny, main_sources, merge_alike, placed
from moesim.routing import DealtStep
from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.study.work_plan import make_work_plan
from tests.strategies.scenario import tiny_scenario

TOKENS = 24  # of a device


def tiny_problem(folder, experts, devices, slots, seed, steps=1, algorithm="torus") -> PlacementProblem:
    """Skewed tokens on devices of a 2 x 2 torus, its links in use whatever the placement."""
    torus = {"topology": "tpu-v4-pod", "shape": "2x2x1"}
    scenario = tiny_scenario(folder, parallel={"ep": devices}, dispatch={"algorithm": algorithm})
    setting = load_setting(make_scenario({**scenario, "cluster": torus}))
    layers = setting.model.num_moe_layers
    loads = PlacementProblem(np.ones((layers, 16)), devices, 1, 16)
    work = make_work_plan(setting, place("contiguous", loads).placements, "nearest")
    costs = cost_tables(work, np.full(work.num_devices, float(TOKENS)))
    rng = np.random.default_rng(seed)
    skew_E = rng.lognormal(0, 1, experts)
    dealt = []
    for number in range(steps):
        keys = rng.random((1, costs.num_ranks * TOKENS, experts)) ** (1 / skew_E)
        ids = np.argsort(-keys, axis=-1)[..., :2].astype(np.int32)
        dealt.append(DealtStep(number, np.repeat(np.arange(costs.num_ranks, dtype=np.int32), TOKENS), ids, None, 1.0))
    load_E = sum(np.bincount(step.experts_LTK.ravel(), minlength=experts) for step in dealt).astype(float)
    sketch = make_sketch(dealt, costs.num_ranks)
    return PlacementProblem(load_E[None], devices, costs.devices_per_node, slots, sketch=sketch, costs=costs)


def every_plan(problem):
    """All sets of experts on devices, and for each all choices of a copy by source and expert."""
    slots_D, experts, devices = problem.slots_of_devices, problem.num_experts, problem.num_devices
    for sets in itertools.product(*(itertools.combinations(range(experts), int(slots)) for slots in slots_D)):
        expert_P = np.concatenate(sets).astype(np.int32)
        if np.unique(expert_P).size < experts:
            continue
        choices = [itertools.product(np.flatnonzero(expert_P == expert), repeat=devices) for expert in range(experts)]
        for slots_ED in itertools.product(*map(list, choices)):
            split_DP = np.zeros((devices, expert_P.size))
            for slot_D in slots_ED:
                split_DP[np.arange(devices), slot_D] = 1.0
            yield problem.placement(expert_P, split_DP)


@pytest.mark.parametrize(
    ("experts", "devices", "slots", "steps", "algorithm", "seed"),
    [(4, 4, 5, 1, "torus", 1), (5, 4, 6, 1, "torus", 2), (5, 2, 8, 2, "direct", 0), (6, 4, 6, 1, "direct", 0)],
)
def test_topology_is_the_best_of_all_plans_of_a_tiny_problem(tmp_path, experts, devices, slots, steps, algorithm, seed):
    """Every placement with every choice of a copy for each source, tried one by one, is no quicker."""
    problem = tiny_problem(tmp_path, experts, devices, slots, seed, steps, algorithm)
    best = min(time_of(problem, problem.sketch, 0, plan) for plan in every_plan(problem))
    ours = time_of(problem, problem.sketch, 0, place("topology", problem).placements[0])
    assert best == pytest.approx(ours, rel=1e-9)


def test_a_climb_never_ends_slower_than_it_starts_and_repeats_itself(tmp_path):
    """From contiguous experts with even shares, with hardly any work and with all of it; slots are kept."""
    problem = tiny_problem(tmp_path, 5, 4, 9, 3)
    start = place("contiguous", problem).placements[0]
    before = time_of(problem, problem.sketch, 0, start)
    for work in (0.001, 0.1):
        limited = dataclasses.replace(problem, work_limit=work)
        found = climb(limited, 0, start)
        assert before >= time_of(problem, problem.sketch, 0, found)
        assert 9 == found.num_slots
        assert found == climb(limited, 0, start)
        before = time_of(problem, problem.sketch, 0, found)


def test_merged_tokens_cost_what_they_cost_apart(tmp_path):
    """Same source, window and experts in any order: one token with their weights' sum, fewer tokens, the same seconds."""
    problem = tiny_problem(tmp_path, 5, 4, 6, 4, steps=2)
    merged = merge_alike(problem.sketch, 0)
    assert merged.num_tokens < problem.sketch.num_tokens
    assert merged.weight_T.sum() == problem.sketch.weight_T.sum()
    rng = np.random.default_rng(0)
    for _ in range(5):
        table_ED = rng.permutation(5)[:, None] % 4 + np.zeros((1, 4), dtype=np.int64)
        plan = placed(problem, table_ED)
        assert time_of(problem, problem.sketch, 0, plan) == pytest.approx(time_of(problem, merged, 0, plan))
        assert table_ED.tolist() == main_sources(plan).tolist()


def test_only_tiny_layers_are_climbed(tmp_path):
    """Eight experts on four devices are, nine are not."""
    problem = tiny_problem(tmp_path, 8, 4, 8, 0)
    assert is_tiny(problem)
    assert not is_tiny(dataclasses.replace(problem, load_LE=np.ones((1, 9)), num_slots=9))


def test_a_gain_below_three_percent_of_a_layer_with_its_attention_is_not_worth_it(tmp_path):
    """Attention, which every plan shares, dilutes what a plan gains over EPLB's: 4 % of a layer are little of a step."""
    problem = tiny_problem(tmp_path, 5, 2, 8, 1, steps=2, algorithm="direct")
    assert not any("not worth it" in note for note in place("topology", problem).notes)
    slow = dataclasses.replace(problem, costs=problem.costs._replace(attention_s=1.0))
    assert any(note.startswith("not worth it: a gain of 0.0%") for note in place("topology", slow).notes)
