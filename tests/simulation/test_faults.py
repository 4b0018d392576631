"""Scenarios in which something breaks, from the start of the step or in its course."""

import json

import numpy as np
import pytest

import moesim
from moesim.errors import InputError, UnknownName
from moesim.placement import device_of_slot
from moesim.result import PHASES
from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.simulation.run import run_step
from moesim.step_bound import step_phases
from moesim.step_work import StepWork
from moesim.study import simulate
from moesim.study.placing import placed
from tests.strategies.scenario import tiny_scenario

LINKS = ["node1.nic2.up", "node1.nic2.down", "node0.dev1.scale_up.out", "unit0.leaf2.up"]


@pytest.fixture(params=["bound", "fluid"])
def fidelity(request):
    return request.param


def scenario(folder, faults, **sections):
    return make_scenario({**tiny_scenario(folder, **sections), "faults": faults})


def run(folder, faults, **sections):
    return simulate(scenario(folder, faults, **sections))


def told(result):
    """What a run says beside its words about faults and its number of events."""
    summary = result.summary(wall_clock=False)
    return json.dumps({k: v for k, v in summary.items() if k not in ("faults", "assumptions", "provenance", "events")})


def work_of(folder, faults, **sections):
    setting = load_setting(scenario(folder, faults, **sections))
    return StepWork(plan=placed(setting, None)[1], dealt=next(iter(setting.steps())))


@pytest.mark.parametrize("at", [0.0, 1e-5])
def test_a_factor_of_one_changes_no_byte(tmp_path, fidelity, at):
    """Slow by nothing, from the start or later: the same result to the last bit, the number of events too."""
    faults = [
        {"kind": "slow_device", "device": 3, "factor": 1.0, "at": at},
        {"kind": "slow_link", "link": LINKS[0], "factor": 1.0, "at": at},
    ]
    base, result = (run(tmp_path, each, network={"fidelity": fidelity}) for each in ([], faults))
    assert (told(base), base.events) == (told(result), result.events)
    assert base.tables.spans.end_s.tobytes() == result.tables.spans.end_s.tobytes()
    assert (base.step_time_s, 0.0) == (result.faults.step_time_without_s, result.faults.cost)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "slow_device", "device": 3, "factor": 0.5},
        {"kind": "slow_link", "link": LINKS[0], "factor": 0.5},
        {"kind": "link_down", "link": LINKS[0]},
        {"kind": "device_down", "device": 3},
    ],
)
def test_a_fault_after_the_step_is_no_fault(tmp_path, fidelity, fault):
    """What breaks at 1e9 s, long after the last rank has ended, changes nothing."""
    base, late = (run(tmp_path, each, network={"fidelity": fidelity}) for each in ([], [{**fault, "at": 1e9}]))
    assert told(base) == told(late)


def test_slow_from_the_start_is_an_uneven_cluster(tmp_path, fidelity):
    """slow_device without `at` is the same as the device's speed in the cluster section."""
    network = {"fidelity": fidelity}
    fault = run(tmp_path, [{"kind": "slow_device", "device": 5, "factor": 0.5}], network=network)
    uneven = run(tmp_path, [], network=network, cluster={"devices": [{"match": "node0.dev5", "speed": 0.5}]})
    assert uneven.step_time_s == fault.step_time_s > fault.faults.step_time_without_s


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_a_device_that_slows_down_goes_on_with_what_is_left(tmp_path, share):
    """One device by itself (ep 1): the compute it had left at time t takes 1 / factor as long, its fixed costs as before."""
    alone = {"parallel": {"ep": 1}, "cluster": {"nodes": 1}}
    base = run_step(work_of(tmp_path, [], **alone), fidelity="bound", tolerance=0.0)
    at, factor = share * base.end_D[2], 0.3
    faults = [{"kind": "slow_device", "device": 2, "factor": factor, "at": at}]
    slow_D = run_step(work_of(tmp_path, faults, **alone), fidelity="bound", tolerance=0.0).end_D
    spans = base.spans
    computes = (spans.rank == 2) & ~np.isin(spans.phase, [PHASES.index("dispatch"), PHASES.index("combine")])
    left_s = (spans.end_s - np.maximum(spans.start_s, at))[computes & (spans.end_s > at)].sum()
    expected_D = base.end_D.copy()
    expected_D[2] += left_s * (1 / factor - 1)
    assert 0 < left_s < base.end_D[2] - at + 1e-15
    assert slow_D == pytest.approx(expected_D, rel=1e-12)


@pytest.mark.parametrize("algorithm", ["direct", "per_device", "node_dedup"])
@pytest.mark.parametrize("kind", ["slow_device", "slow_link", "link_down"])
def test_a_fault_is_never_faster_under_bound(tmp_path, algorithm, kind):
    """The closed form and the step on the clock, from the start and in its course, for devices and links of every kind."""
    sections = {"dispatch": {"algorithm": algorithm}, "network": {"fidelity": "bound"}}
    base = work_of(tmp_path, [], **sections)
    base_s = run_step(base, fidelity="bound", tolerance=0.0).time_s
    targets = [{"device": 0}, {"device": 11}] if kind == "slow_device" else [{"link": link} for link in LINKS]
    factor = {} if kind == "link_down" else {"factor": 0.2}
    for target in targets:
        for at in (0.0, 0.3 * base_s, 0.6 * base_s):
            work = work_of(tmp_path, [{"kind": kind, **target, **factor, "at": at}], **sections)
            assert step_phases(base).step_s <= step_phases(work).step_s * (1 + 1e-12)
            assert base_s <= run_step(work, fidelity="bound", tolerance=0.0).time_s * (1 + 1e-12)


def test_a_link_that_dies_later_costs_less(tmp_path, fidelity):
    """A dead NIC from the start, from a third of the step on, and never: each is faster than the one before."""
    sections = {"network": {"fidelity": fidelity}}
    base = run(tmp_path, [], **sections)
    down = {"kind": "link_down", "link": LINKS[0]}
    early, late = (run(tmp_path, [{**down, "at": at}], **sections) for at in (0.0, base.steps[0].time_s / 3))
    assert base.step_time_s < late.step_time_s < early.step_time_s
    assert f"the faults cost {early.faults.cost:+.1%}" in early.assumptions[-1]
    assert early.faults.cost == pytest.approx(early.step_time_s / base.step_time_s - 1)


def test_a_dead_link_carries_nothing_and_its_bytes_go_elsewhere(tmp_path):
    """With `direct` the next device's NIC carries the load of both."""
    sections = {"dispatch": {"algorithm": "direct"}}
    base, down = (run(tmp_path, faults, **sections) for faults in ([], [{"kind": "link_down", "link": LINKS[0]}]))
    names = list(base.tables.link_names)
    dead, other = names.index("node1.nic2.up"), names.index("node1.nic3.up")
    before, after = base.tables.link_bytes, down.tables.link_bytes
    assert (0.0, before[dead] + before[other]) == (after[dead], after[other])


def lost_by_hand(setting, dead):
    """Tokens on the dead device; pairs of those, or of experts all of whose slots are there."""
    pairs = tokens = 0
    placements = placed(setting, None)[1].placements
    for dealt in setting.steps():
        mine_T = dealt.rank_T == dead
        tokens += int(mine_T.sum())
        for experts_TK, placement in zip(dealt.experts_LTK, placements, strict=True):
            slots = placement.expert_of_slot_P
            alive = slots[device_of_slot(len(slots), 16) != dead]
            pairs += int((mine_T[:, None] | ~np.isin(experts_TK, alive)).sum())
    return tokens, pairs


@pytest.mark.parametrize("slots", [16, 20, 32])
@pytest.mark.parametrize("strategy", ["contiguous", "longest_first"])
def test_a_dead_device_loses_its_tokens_and_experts_without_another_copy(tmp_path, fidelity, strategy, slots):
    """Nothing else: experts with a copy elsewhere are computed there."""
    sections = {"network": {"fidelity": fidelity}, "placement": {"strategy": strategy, "slots": slots}}
    asked = scenario(tmp_path, [{"kind": "device_down", "device": 5}], **sections)
    result = simulate(asked)
    routed = 2 * 2 * 16 * 16 * 2  # steps, layers, ranks, tokens, top-k
    assert lost_by_hand(load_setting(asked), 5) == (result.lost_tokens, result.lost_pairs)
    assert result.lost_pairs / routed == pytest.approx(result.drop_rate, rel=1e-12)
    assert routed - result.lost_pairs == pytest.approx(2 * result.tables.load_LD.sum(), rel=1e-12)
    assert 0.0 == result.tables.load_LD[:, 5].sum()


@pytest.mark.parametrize("algorithm", ["direct", "node_dedup", "all_gather"])
@pytest.mark.parametrize("overlap", ["none", "shared_expert", "two_batch"])
def test_a_device_that_dies_in_the_course_stops_and_nobody_waits(tmp_path, fidelity, algorithm, overlap):
    """Its rank ends then; the others finish, and what is lost lies between nothing and a death at the start."""
    sections = {"dispatch": {"algorithm": algorithm}, "mode": {"overlap": overlap}}
    base_s = run_step(work_of(tmp_path, [], **sections), fidelity=fidelity, tolerance=0.0).time_s
    down = {"kind": "device_down", "device": 5}
    start = run_step(work_of(tmp_path, [down], **sections), fidelity=fidelity, tolerance=0.0)
    before = None
    for at in (0.2 * base_s, 0.5 * base_s, 0.8 * base_s):
        ended = run_step(work_of(tmp_path, [{**down, "at": at}], **sections), fidelity=fidelity, tolerance=0.0)
        lost = sum(layer.lost_pairs for layer in ended.layers)
        assert at == ended.end_D[5] and (np.delete(ended.end_D, 5) > 0.8 * base_s).all()
        assert 16 == ended.lost_tokens == start.lost_tokens
        assert 0 < lost <= (sum(layer.lost_pairs for layer in start.layers) if before is None else before)
        assert ended.spans.end_s[ended.spans.rank == 5].max() <= at
        before = lost


def test_several_devices_of_a_node_may_die_one_after_the_other(tmp_path, fidelity):
    """All of node 1 in four strokes, of which the first is at the start: the others finish by themselves."""
    faults = [{"kind": "device_down", "device": 8 + i, "at": (i // 2) * 6e-6} for i in range(8)]
    result = run(tmp_path, faults, network={"fidelity": fidelity})
    assert 2 * 16 * 8 == result.lost_tokens
    assert result.tables.spans.end_s[result.tables.spans.rank == 15].max() < result.steps[0].time_s * 2


def test_groups_lose_only_their_own_experts(tmp_path):
    """ep 8 on two nodes: a dead device of the second group leaves the first group's experts alone."""
    asked = scenario(tmp_path, [{"kind": "device_down", "device": 9}], parallel={"ep": 8})
    result, setting = simulate(asked), load_setting(asked)
    expected = 0
    for dealt in setting.steps():
        dead_T, group_T = dealt.rank_T == 9, dealt.rank_T >= 8
        for experts_TK in dealt.experts_LTK:
            on_dead = (experts_TK // 2 == 1) & group_T[:, None]
            expected += int((dead_T[:, None] | on_dead).sum())
    assert expected == result.lost_pairs


def test_padding_of_lost_experts_is_not_computed(tmp_path):
    """Capacity `pad`: buffers of live experts are filled, those of a dead device are gone with it."""
    sections = {"capacity": {"policy": "pad", "factor": 2.0, "scope": "group"}}
    result = run(tmp_path, [{"kind": "device_down", "device": 5}], **sections)
    load_D = result.tables.load_LD[0]
    assert 0.0 == load_D[5] and len(np.unique(np.delete(load_D, 5))) == 1


def test_same_faults_same_bytes(tmp_path, fidelity):
    """Two runs with faults in their course agree to the last bit."""
    faults = [
        {"kind": "device_down", "device": 5, "at": 8e-6},
        {"kind": "link_down", "link": LINKS[0], "at": 1.2e-5},
        {"kind": "slow_device", "device": 1, "factor": 0.5, "at": 4e-6},
    ]
    one, two = (run(tmp_path, faults, network={"fidelity": fidelity}) for _ in range(2))
    assert json.dumps(one.summary(wall_clock=False)) == json.dumps(two.summary(wall_clock=False))


def test_faults_are_said_in_words_and_in_the_record(tmp_path):
    """The assumptions name what breaks; the scenario in the provenance repeats it."""
    faults = [{"kind": "slow_link", "link": LINKS[0], "factor": 0.5, "at": "10 us"}]
    result = run(tmp_path, faults)
    assert "fault: link node1.nic2.up has 0.5 of its bandwidth, from 10 us into each step" in result.assumptions
    again = moesim.simulate({**result.provenance["scenario"], "model": str(tmp_path / "tiny.yaml")})
    assert result.step_time_s == again.step_time_s


def test_strategies_are_compared_under_faults(tmp_path):
    """Replicas help when a device dies: fewer pairs are lost than with one copy of each expert."""
    asked = scenario(tmp_path, [{"kind": "device_down", "device": 5}])
    few, many = (
        moesim.study.compare(asked, ["eplb_global"], slots=slots).results["eplb_global"].lost_pairs
        for slots in (16, 48)
    )
    assert many < few


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ({"kind": "device_down", "device": 99}, InputError, "nearest is device 15"),
        ({"kind": "link_down", "link": "node1.nic2.upp"}, UnknownName, "did you mean 'node1.nic2.up'"),
        ({"kind": "slow_device", "device": 1, "factor": 0}, InputError, "outside (0, 1]"),
        ({"kind": "slow_device", "device": 1, "factor": 1.01}, InputError, "outside (0, 1]"),
        ({"kind": "slow_device", "device": 1, "factor": float("nan")}, InputError, "factor"),
        ({"kind": "slow_device", "device": 1.5, "factor": 0.5}, InputError, "device"),
        ({"kind": "slow_device", "factor": 0.5}, InputError, "give the key device"),
        ({"kind": "meteor", "device": 1}, InputError, "slow_device"),
        ({"kind": "device_down", "device": 1, "at": -1}, InputError, "at"),
        ({"kind": "device_down", "device": 1, "at": "3 bytes"}, InputError, "at"),
        ({"kind": "device_down", "device": 1, "when": 3}, InputError, "when"),
    ],
)
def test_faults_that_cannot_be_are_refused_in_one_sentence(tmp_path, fault, error, words):
    """The sentence names what is wrong, and the nearest thing that is right."""
    with pytest.raises(error) as caught:
        run(tmp_path, [fault])
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_fault_that_cuts_the_graph_names_the_ranks(tmp_path):
    """A node on its own has no way round a scale-up link; at whatever time it dies, the run is refused before it starts."""
    faults = [{"kind": "link_down", "link": "node0.dev2.scale_up.in", "at": 1.0}]
    with pytest.raises(InputError, match=r"faults cut off rank 2 \(node0\.dev2\).*take them down too"):
        run(tmp_path, faults, cluster={"nodes": 1})
    both = [*faults, {"kind": "device_down", "device": 2, "at": 1.0}]
    assert run(tmp_path, both, cluster={"nodes": 1}).step_time_s > 0
