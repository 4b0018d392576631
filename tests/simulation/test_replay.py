"""A replayed scenario: what adds up, what changes nothing, what must be slower."""

import json

import numpy as np
import pytest

import moesim
from moesim.errors import InputError
from moesim.result import PHASES
from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.study import simulate
from tests.strategies.scenario import tiny_scenario


@pytest.fixture(params=["bound", "fluid"])
def fidelity(request):
    return request.param


def run(folder, **sections):
    return simulate(make_scenario(tiny_scenario(folder, **sections)))


def test_phases_and_other_add_up_to_the_step(tmp_path, fidelity):
    """Layer phases on the slowest rank, waits included, plus other_s are the step time."""
    result = run(tmp_path, network={"fidelity": fidelity})
    phases = sum(layer.attention_s + layer.dispatch_s + layer.experts_s + layer.combine_s for layer in result.layers)
    assert result.step_time_s == pytest.approx(phases + result.other_s, rel=1e-12)
    assert result.other_s > 0


def test_the_step_time_is_the_mean_over_steps(tmp_path, fidelity):
    """Every step starts on a fresh clock."""
    result = run(tmp_path, network={"fidelity": fidelity})
    assert result.step_time_s == pytest.approx(np.mean([step.time_s for step in result.steps]), rel=1e-12)
    assert [0, 1] == [step.step for step in result.steps]


def test_spans_of_a_rank_follow_each_other_without_overlap(tmp_path, fidelity):
    """A rank does one thing at a time, and with no overlap it is never idle between its spans."""
    spans = run(tmp_path, network={"fidelity": fidelity}).tables.spans
    for rank in range(16):
        for step in range(2):
            mine = (spans.rank == rank) & (spans.step == step)
            order = np.argsort(spans.start_s[mine], kind="stable")
            start, end = spans.start_s[mine][order], spans.end_s[mine][order]
            assert end[:-1] == pytest.approx(start[1:], abs=1e-15)


def test_every_rank_passes_every_phase_of_every_layer(tmp_path):
    """Spans of ranks x layers x phases are all there, once."""
    spans = run(tmp_path).tables.spans
    inside = spans.layer >= 0
    cells = set(zip(spans.rank[inside], spans.step[inside], spans.layer[inside], spans.phase[inside], strict=True))
    phases = [PHASES.index(name) for name in ("attention", "dispatch", "combine")]
    assert {(r, s, layer, p) for r in range(16) for s in range(2) for layer in range(2) for p in phases} <= cells
    assert len(cells) == inside.sum()


def test_nobody_computes_experts_before_its_tokens_are_there(tmp_path, fidelity):
    """A rank's experts start after the attention of every rank that sends to it (all of them, with this routing)."""
    spans = run(tmp_path, network={"fidelity": fidelity}, trace={"tokens_per_rank": 200}).tables.spans
    first = (spans.step == 0) & (spans.layer == 0)
    attention_end = spans.end_s[first & (spans.phase == PHASES.index("attention"))].max()
    experts_start = spans.start_s[first & (spans.phase == PHASES.index("experts"))].min()
    assert experts_start > attention_end


def test_loads_of_all_devices_are_all_pairs(tmp_path):
    """Tokens x top-k (token, expert) pairs are computed, no more and no fewer."""
    result = run(tmp_path)
    assert [16 * 16 * 2.0] * 2 == result.tables.load_LD.sum(axis=1).tolist()
    assert 16 * 16 * 2 * 2 == result.tables.fanout_nodes_count.sum()


def test_same_scenario_same_bytes(tmp_path, fidelity):
    """Two runs agree to the last bit in everything but the wall clock."""
    one, two = (run(tmp_path, network={"fidelity": fidelity}) for _ in range(2))
    assert json.dumps(one.summary(wall_clock=False)) == json.dumps(two.summary(wall_clock=False))
    assert one.tables.spans.end_s.tobytes() == two.tables.spans.end_s.tobytes()


def test_a_slow_device_makes_the_bound_step_slower(tmp_path):
    """Halving one device's speed never helps the closed form on the clock."""
    even = run(tmp_path, network={"fidelity": "bound"})
    uneven = run(
        tmp_path,
        network={"fidelity": "bound"},
        cluster={"devices": [{"match": "node1.dev3", "speed": 0.2}]},
    )
    assert uneven.step_time_s > even.step_time_s


def test_a_pattern_names_whole_nodes(tmp_path):
    """`node1.*` is every device of node 1 and none of node 10."""
    section = {"topology": "dgx-h100-superpod", "nodes": 11, "devices": [{"match": "node1.*", "speed": 0.5}]}
    cluster = load_setting(make_scenario(tiny_scenario(tmp_path, cluster=section))).cluster
    assert {1} == {device.node for device in cluster.devices if device.speed == 0.5}


def test_bound_is_no_slower_than_fluid_for_simultaneous_ranks(tmp_path):
    """With equal devices and one dense layer, all ranks reach the first dispatch together: bound <= fluid there."""
    times = {}
    for name in ("bound", "fluid"):
        spans = run(tmp_path, network={"fidelity": name}).tables.spans
        first = (spans.step == 0) & (spans.layer == 0) & (spans.phase == PHASES.index("dispatch"))
        times[name] = spans.end_s[first].max()
    assert times["bound"] <= times["fluid"] * (1 + 1e-12)


def test_groups_of_ep_ranks_do_not_send_to_each_other(tmp_path):
    """With ep 8 on two nodes every token stays in its node: fan-out 1, no byte on a NIC."""
    result = run(tmp_path, parallel={"ep": 8}, cluster={"nodes": 2})
    assert 1.0 == result.fanout_nodes
    tiers = np.array(result.tables.link_tier)
    assert 0.0 == result.tables.link_bytes[tiers == "nic"].sum()


def test_extra_slots_hold_replicas(tmp_path):
    """One extra slot a device: 32 slots for 16 experts on 16 devices."""
    scenario = tiny_scenario(tmp_path, placement={"strategy": "longest_first", "slots": None})
    scenario["placement"] = {"strategy": "longest_first", "extra_slots_per_device": 1}
    assert 32 == load_setting(make_scenario(scenario)).num_slots
    assert simulate(make_scenario(scenario)).balancedness > run(tmp_path).balancedness


def test_memory_counts_the_fullest_device(tmp_path):
    """More slots need more memory, by the bytes of the experts in them."""
    few = run(tmp_path, placement={"slots": 16}).memory.max_device_bytes
    many = run(tmp_path, placement={"slots": 32}).memory.max_device_bytes
    assert 2 * 3 * 256 * 128 * 2 == pytest.approx(many - few, abs=1e5)


def test_the_bottleneck_share_is_a_share(tmp_path, fidelity):
    """0 < share <= 1, and the named link or device exists."""
    result = run(tmp_path, network={"fidelity": fidelity})
    assert 0 < result.bottleneck.share <= 1


def test_a_plan_file_replays_as_the_strategy_it_came_from(tmp_path):
    """plan -> file -> simulate equals simulating the strategy."""
    scenario = tiny_scenario(tmp_path, placement={"strategy": "longest_first", "slots": 32})
    path = moesim.plan(scenario).write(tmp_path / "plan.json")
    stored = {**scenario, "placement": {"plan": str(path)}}
    assert moesim.simulate(scenario).step_time_s == moesim.simulate(stored).step_time_s


def test_a_plan_for_another_model_is_refused(tmp_path):
    """Experts and layers must be the model's."""
    path = moesim.plan(tiny_scenario(tmp_path)).write(tmp_path / "plan.json")
    other = {**tiny_scenario(tmp_path), "model": "mixtral-8x7b", "placement": {"plan": str(path)}}
    with pytest.raises(InputError, match="plan again"):
        moesim.simulate(other)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"placement": {"slots": 8}}, "fewer than experts"),
        ({"parallel": {"ep": 12}}, "does not divide"),
        ({"parallel": {"tp": 2}}, "set them to 1"),
        ({"cluster": {"devices": [{"match": "gpu9", "speed": 0.5}]}}, "matches no device"),
        ({"weights": {"dtype": "fp7"}}, "fp7"),
        ({"dispatch": {"kernel": "pplx"}}, "no figures for kernel"),
        ({"dispatch": {"dtype": "fp7"}}, "fp7"),
        ({"dispatch": {"paths": "scenic"}}, "path policy"),
        ({"placement": {"strategy": "astrology"}}, "strategy"),
        ({"trace": {"router": "zipf", "exponent": 9.5, "tokens_per_rank": 10**9}}, "tokens_per_rank"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_sentence(tmp_path, sections, words):
    """The sentence names what does not fit."""
    with pytest.raises(InputError) as error:
        run(tmp_path, **sections)
    assert words in str(error.value) and "\n" not in str(error.value)
