"""The planner's objective against the simulator's closed form, and its incremental kernels against themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.placement import ExpertPlacement
from moesim.planner.objective import (
    cost_tables,
    layer_time,
    make_state,
    phase_times,
    replace,
    swap,
    try_replace,
    try_swap,
)
from moesim.planner.objective_state import tiles_table
from moesim.planner.problem import TokenSketch
from moesim.routing import DealtStep
from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.step_bound import collective_time
from moesim.step_work import StepWork
from moesim.study.work_plan import make_work_plan
from tests.strategies.scenario import tiny_scenario


def whole_sketch(steps: list[DealtStep], group_size: int) -> TokenSketch:
    """Every token of the steps, a window each; indices as the simulator numbers them in its groups."""
    index = []
    for step in steps:
        within = np.zeros(step.rank_T.size, dtype=np.int64)
        for group in np.unique(step.rank_T // group_size):
            mine = step.rank_T // group_size == group
            within[mine] = np.arange(mine.sum())
        index.append(step.step * step.rank_T.size + within)
    tokens = [step.rank_T.size for step in steps]
    return TokenSketch(
        experts_LTK=np.concatenate([step.experts_LTK for step in steps], axis=1),
        source_T=np.concatenate([step.rank_T for step in steps]),
        weight_T=np.ones(sum(tokens)),
        window_T=np.repeat(np.arange(len(steps), dtype=np.int32), tokens),
        window_weight_W=np.full(len(steps), 1 / len(steps)),
        token_T=np.concatenate(index),
        whole=True,
    )


def random_step(number: int, ranks: int, tokens: int, layers: int = 2, seed: int = 0) -> DealtStep:
    """Enough skewed tokens that every pair of devices has traffic."""
    rng = np.random.default_rng((seed, number))
    load = 1.0 / np.arange(1, 17)
    keys = rng.random((layers, ranks * tokens, 16)) ** (1 / load)
    experts = np.argsort(-keys, axis=-1)[..., :2].astype(np.int32)
    return DealtStep(number, np.repeat(np.arange(ranks, dtype=np.int32), tokens), experts, None, 1.0)


def random_placement(devices: int, slots: int = 24, seed: int = 0, nodes: int = 2) -> ExpertPlacement:
    rng = np.random.default_rng(seed)
    experts = rng.permutation(np.concatenate([np.arange(16), rng.integers(0, 16, slots - 16)]))
    return ExpertPlacement(experts, 16, devices, split_NP=rng.random((nodes, slots)) + 0.01)


def simulator_phases(work, dealt):
    """Per layer: dispatch, experts, combine and layer time by step_bound's own functions."""
    rows = []
    for ordinal in range(2):
        layer = StepWork(plan=work, dealt=dealt).layer(ordinal)
        dispatch, combine = (collective_time(c, work.builder.links) for c in (layer.dispatch, layer.combine))
        experts = float(layer.experts.time_s.max())
        hidden = min(float(layer.shared.time_s.max()), dispatch) if work.overlap == "shared_expert" else 0.0
        rows.append((dispatch, experts, combine, dispatch + experts + combine - hidden))
    return np.array(rows)


NODES = {"topology": "dgx-h100-superpod", "nodes": 2}
SLOW = {**NODES, "devices": [{"match": "node1.*", "speed": 0.5}]}
TORUS = {"topology": "tpu-v4-pod", "shape": "4x2x2"}
EXACT, LATENCY = 1e-9, 2e-3  # relative: a torus link's smallest latency may be that of a pair without traffic
CASES = [
    (NODES, 16, {"dispatch": {"algorithm": "direct"}}, EXACT),
    (NODES, 16, {"dispatch": {"algorithm": "per_device"}}, EXACT),
    (NODES, 16, {"dispatch": {"algorithm": "node_dedup"}}, EXACT),
    (NODES, 8, {"dispatch": {"algorithm": "node_dedup"}}, EXACT),
    (NODES, 16, {"dispatch": {"algorithm": "all_gather"}}, EXACT),
    (NODES, 16, {"dispatch": {"kernel": "deepep-normal"}, "mode": {"kind": "prefill"}}, EXACT),
    (SLOW, 16, {"mode": {"overlap": "shared_expert"}}, EXACT),
    (TORUS, 16, {"dispatch": {"algorithm": "torus"}}, LATENCY),
    (TORUS, 16, {"dispatch": {"algorithm": "torus", "paths": "minimal_adaptive"}}, LATENCY),
]


def work_of(folder, cluster, ep, placements, policy, sections, profile=None):
    scenario = {**tiny_scenario(folder, parallel={"ep": ep}, **sections), "cluster": cluster, "profile": profile}
    return make_work_plan(load_setting(make_scenario(scenario)), placements, policy)


@pytest.mark.parametrize(("cluster", "ep", "sections", "tolerance"), CASES)
@pytest.mark.parametrize("policy", ["nearest", "even", "split"])
def test_with_every_token_the_objective_is_the_simulators_bound(tmp_path, cluster, ep, sections, tolerance, policy):
    """Same step, same placement, same replica policy: dispatch, experts, combine and layer time are equal."""
    nodes = 4 if cluster is TORUS else ep // 8
    placements = tuple(random_placement(ep, seed=seed, nodes=nodes) for seed in range(2))
    work = work_of(tmp_path, cluster, ep, placements, policy, sections)
    steps = [random_step(number, 16, 96) for number in range(2)]
    costs = cost_tables(work, np.full(16, 96.0))
    expected = np.array([simulator_phases(work, step) for step in steps])
    for ordinal in range(2):
        state = make_state(costs, whole_sketch(steps, ep), ordinal, placements[ordinal], policy, work.seed)
        np.testing.assert_allclose(phase_times(costs, state), expected[:, ordinal, :3], rtol=tolerance)
        assert expected[:, ordinal, 3].mean() == pytest.approx(layer_time(costs, state, 0.0), rel=tolerance)


FITTED = [
    (NODES, "h100-sxm", "bf16"),
    (SLOW, "h200-sxm", "bf16"),
    (NODES, "h200-sxm", "fp8"),
    (NODES, "gb200-nvl72", "bf16"),
]


@pytest.mark.parametrize(("cluster", "profile", "dtype"), FITTED)
@pytest.mark.parametrize("tokens", [3, 96])
def test_with_fitted_expert_curves_the_objective_is_still_the_simulators(tmp_path, cluster, profile, dtype, tokens):
    """No correction, one axis, two axes, half-speed devices; few tokens (some devices idle) and many."""
    placements = tuple(random_placement(16, seed=seed) for seed in range(2))
    work = work_of(tmp_path, cluster, 16, placements, "even", {"weights": {"dtype": dtype}}, profile)
    assert dtype in work.rates.experts
    steps = [random_step(number, 16, tokens) for number in range(2)]
    costs = cost_tables(work, np.full(16, float(tokens)))
    expected = np.array([simulator_phases(work, step) for step in steps])
    for ordinal in range(2):
        state = make_state(costs, whole_sketch(steps, 16), ordinal, placements[ordinal], "even", work.seed)
        np.testing.assert_allclose(phase_times(costs, state)[:, 1], expected[:, ordinal, 1], rtol=1e-9)


@pytest.fixture(scope="module")
def dedup(tmp_path_factory):
    """Costs of node_dedup on two nodes, and a sketch."""
    folder = tmp_path_factory.mktemp("objective")
    work = work_of(folder, NODES, 16, (random_placement(16),) * 2, "nearest", {"dispatch": {"algorithm": "node_dedup"}})
    return cost_tables(work, np.full(16, 24.0)), whole_sketch([random_step(n, 16, 24) for n in range(2)], 16)


@given(st.data(), st.sampled_from(["nearest", "even"]), st.integers(0, 5))
@settings(max_examples=20)
def test_a_state_that_was_changed_is_the_state_made_anew(dedup, data, policy, seed):
    """After any swaps and replacements times equal those of a fresh state of the same slots; tries change nothing."""
    costs, sketch = dedup
    state = make_state(costs, sketch, 0, random_placement(16, seed=seed), policy, 0)
    for _ in range(data.draw(st.integers(1, 6))):
        first, second = data.draw(st.integers(0, 23)), data.draw(st.integers(0, 23))
        before = layer_time(costs, state, 0.3)
        if data.draw(st.booleans()):
            tried = try_swap(costs, state, first, second, 0.3)
            assert before == pytest.approx(layer_time(costs, state, 0.3), rel=1e-12)
            swap(costs, state, first, second)
        elif state.copies_E[state.expert_P[first]] > 1:
            expert = data.draw(st.integers(0, 15))
            tried = try_replace(costs, state, first, expert, 0.3)
            assert before == pytest.approx(layer_time(costs, state, 0.3), rel=1e-12)
            replace(costs, state, first, expert)
        else:
            tried = before
        assert tried == pytest.approx(layer_time(costs, state, 0.3), rel=1e-12)
    fresh = make_state(costs, sketch, 0, ExpertPlacement(state.expert_P, 16, 16), policy, 0)
    np.testing.assert_allclose(phase_times(costs, state), phase_times(costs, fresh), rtol=1e-12)
    assert fresh.slot_X.tolist() == state.slot_X.tolist()


def test_a_sample_estimates_the_whole(tmp_path):
    """A quarter of the tokens with weight four: every phase within a fifth of the whole's."""
    placement = random_placement(16)
    work = work_of(tmp_path, NODES, 16, (placement,) * 2, "even", {"dispatch": {"algorithm": "node_dedup"}})
    step = random_step(0, 16, 400)
    whole = whole_sketch([step], 16)
    kept = np.arange(0, step.rank_T.size, 4)
    sample = TokenSketch(
        experts_LTK=whole.experts_LTK[:, kept],
        source_T=whole.source_T[kept],
        weight_T=np.full(kept.size, 4.0),
        window_T=whole.window_T[kept],
        window_weight_W=np.ones(1),
        token_T=whole.token_T[kept],
        whole=False,
    )
    costs = cost_tables(work, np.full(16, 400.0))
    times = [phase_times(costs, make_state(costs, sketch, 0, placement, "even", 0))[0] for sketch in (whole, sample)]
    np.testing.assert_allclose(times[0], times[1], rtol=0.2)


def test_expected_tiles_are_those_of_drawn_numbers() -> None:
    """Against a million Poisson draws."""
    draws = np.random.default_rng(0).poisson(48.0, 1_000_000)
    assert (-(-draws // 64) * 64).mean() == pytest.approx(tiles_table(64)[12], rel=1e-3)
