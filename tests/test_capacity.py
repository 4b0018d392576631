"""Token capacity: the three rules by hand, what each policy keeps against a plain oracle, and the laws of dropping.

Array letters: T token, K top-k, E expert, U scope unit.
"""

import math
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import moesim
from moesim.capacity import DROPLESS, POLICIES, RULES, SCOPES, Capacity, CapacityCounts, total_counts
from moesim.errors import InputError
from moesim.padding import fill_buffers, send_padding
from moesim.placement import ExpertPlacement
from moesim.report.formats.html import render as render_page
from moesim.report.formats.text import render as render_text
from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.step_work import StepWork
from moesim.study.work_plan import make_work_plan as work_plan
from moesim.traffic import count_placed
from tests.strategies.routing import recording_of
from tests.strategies.scenario import tiny_scenario

DROPPING = tuple(policy for policy in POLICIES if policy != "dropless")


class Routing(NamedTuple):
    """One layer's routing on a few ranks."""

    experts_TK: np.ndarray
    weights_TK: np.ndarray
    rank_T: np.ndarray
    num_ranks: int
    num_experts: int

    def cap(self, capacity: Capacity, *, with_weights: bool = True):
        """The routing under `capacity`."""
        weights_TK = self.weights_TK if with_weights else None
        return capacity.cap(self.experts_TK, weights_TK, self.rank_T, self.num_ranks, self.num_experts)


@st.composite
def routings(draw: st.DrawFn) -> Routing:
    """Skewed routing of 0-30 tokens on 1-3 ranks, rows with and without empty places, weights with ties."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    num_ranks, num_experts = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    top_k, num_tokens = draw(st.integers(1, num_experts)), draw(st.integers(0, 30))
    popularity_E = np.arange(num_experts) * draw(st.sampled_from([0.0, 0.2, 3.0]))
    order = np.argsort(rng.random((num_tokens, num_experts)) + popularity_E, axis=1)
    experts_TK = order[:, :top_k].astype(np.int32)
    experts_TK[np.arange(top_k) >= rng.integers(0, top_k + 1, num_tokens)[:, None]] = -1
    weights_TK = (rng.integers(0, 4, experts_TK.shape) / 4).astype(np.float32)  # few values: many ties
    rank_T = np.sort(rng.integers(0, num_ranks, num_tokens)).astype(np.int32)
    return Routing(experts_TK, weights_TK, rank_T, num_ranks, num_experts)


capacities = st.builds(
    Capacity,
    policy=st.sampled_from(DROPPING),
    factor=st.sampled_from([0.01, 0.3, 0.5, 1.0, 1.25, 2.0, 10.0]),
    rule=st.sampled_from(RULES),
    scope=st.sampled_from(SCOPES),
    min_capacity=st.integers(0, 5),
)


def pairs(experts_TK: np.ndarray) -> set[tuple[int, int]]:
    """(token, expert) pairs of a routing."""
    return {(token, int(expert)) for token, row in enumerate(experts_TK) for expert in row if expert >= 0}


def units(capacity: Capacity, routing: Routing) -> np.ndarray:
    """The scope unit of each token."""
    return routing.rank_T if capacity.scope == "rank" else np.zeros_like(routing.rank_T)


def naive(capacity: Capacity, routing: Routing) -> set[tuple[int, int]]:
    """The pairs kept, expert by expert: sorted by what the policy prefers, the first `capacity` of them."""
    unit_T, top_k, kept = units(capacity, routing), routing.experts_TK.shape[1], set()
    for unit in range(routing.num_ranks):
        tokens = np.flatnonzero(unit_T == unit).tolist()
        room = capacity.of_tokens(len(tokens), top_k, routing.num_experts)
        for expert in range(routing.num_experts):
            wanting = [(t, k) for t in tokens for k in range(top_k) if routing.experts_TK[t, k] == expert]
            if capacity.policy != "drop_by_position":
                wanting.sort(key=lambda pair: (-routing.weights_TK[pair], pair[0]))
            kept |= {(token, expert) for token, _ in wanting[:room]}
    return kept


# T tokens, K, E, factor -> megatron, deepspeed (at least 4), gshard; worked by hand.
TABLE = [
    (64, 2, 16, 1.0, 8, 8, 8),  # mean load 8
    (64, 2, 16, 1.25, 10, 10, 12),  # 10, up to 12
    (100, 2, 16, 1.25, 16, 16, 16),  # 15.625; 15, up to 16
    (16, 2, 16, 1.25, 3, 4, 4),  # 2.5; 2, up to 4
    (16, 1, 16, 1.0, 1, 4, 1),  # 1: a group of one row is not rounded up
    (4096, 8, 256, 1.0, 128, 128, 128),
    (4096, 8, 256, 1.01, 130, 130, 132),  # 129.28; 129, up to 132
    (133, 1, 16, 1.0, 9, 9, 8),  # 8.3125; 8 is a multiple of 4
    (16, 4, 256, 1.0, 1, 4, 1),  # 0.25; 0, and a buffer holds at least 1
    (0, 2, 16, 1.0, 0, 4, 1),
    (100, 1, 1, 1.1, 111, 111, 112),  # 110.00000000000001 in floating point: the ceiling of the frameworks themselves
]


@pytest.mark.parametrize(("tokens", "top_k", "experts", "factor", "megatron", "deepspeed", "gshard"), TABLE)
def test_the_rules_give_the_capacities_worked_by_hand(tokens, top_k, experts, factor, megatron, deepspeed, gshard):
    """ceil(T*K/E*cf); the same but at least 4; floor, rounded up to a multiple of 4."""
    found = [Capacity(policy="pad", factor=factor, rule=rule).of_tokens(tokens, top_k, experts) for rule in RULES]
    assert [megatron, deepspeed, gshard] == found


def test_a_layer_worked_by_hand():
    """Six tokens on two ranks, 2 of 3 experts each, factor 1: an expert takes 2 of each rank, or 4 of both."""
    experts_TK = np.array([[0, 1], [0, 2], [0, 1], [0, 1], [1, 0], [2, 0]], dtype=np.int32)
    weights_TK = np.array([[0.5, 0.5], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.9, 0.1]], dtype=np.float32)
    routing = Routing(experts_TK, weights_TK, np.array([0, 0, 0, 1, 1, 1], dtype=np.int32), 2, 3)
    tables = {
        ("drop_by_position", "rank"): [[0, 1], [0, 2], [1, -1], [0, 1], [1, 0], [2, -1]],
        ("drop_by_probability", "rank"): [[1, -1], [0, 2], [0, 1], [0, 1], [1, 0], [2, -1]],
        ("drop_by_position", "group"): [[0, 1], [0, 2], [0, 1], [0, 1], [1, -1], [2, -1]],
        ("drop_by_probability", "group"): [[0, 1], [0, 2], [0, 1], [0, 1], [1, -1], [2, -1]],
    }
    for (policy, scope), expected in tables.items():
        found = routing.cap(Capacity(policy=policy, factor=1.0, scope=scope))
        assert expected == found.experts_TK.tolist(), (policy, scope)
        assert CapacityCounts(routed=12, kept=10) == found.counts
        assert 2 / 12 == found.counts.drop_rate


def test_padding_worked_by_hand():
    """Two ranks, 3 experts, 2 rows each: what was not kept of 12 rows is padding."""
    experts_TK = np.array([[0, 1], [0, 2], [0, 1], [1, -1]], dtype=np.int32)
    routing = Routing(experts_TK, np.ones((4, 2), np.float32), np.array([0, 0, 0, 1], dtype=np.int32), 2, 3)
    found = routing.cap(Capacity(policy="pad", factor=1.0, rule="deepspeed", min_capacity=2))
    assert [[0, 0, 1], [2, 1, 2]] == found.padding_UE.tolist()
    assert CapacityCounts(routed=7, kept=6, padding=6) == found.counts
    assert 0.5 == found.counts.padding_rate


@given(routings(), capacities)
def test_kept_pairs_are_those_of_the_plain_sort(routing, capacity):
    """Of each expert and unit the heaviest, or the earliest, pairs stay; ties go to the earlier token."""
    assert naive(capacity, routing) == pairs(routing.cap(capacity).experts_TK)


@given(routings(), capacities)
def test_kept_and_dropped_are_routed(routing, capacity):
    """Conservation: nothing appears, what is kept was routed, and the counts say how much."""
    found = routing.cap(capacity)
    assert pairs(found.experts_TK) <= pairs(routing.experts_TK)
    assert len(pairs(routing.experts_TK)) == found.counts.routed
    assert len(pairs(found.experts_TK)) == found.counts.kept
    assert 0.0 <= found.counts.drop_rate <= 1.0


@given(routings(), capacities)
def test_no_expert_is_above_its_capacity(routing, capacity):
    """In every unit, and with padding every buffer is exactly full."""
    found, unit_T = routing.cap(capacity), units(capacity, routing)
    for unit in range(routing.num_ranks if capacity.scope == "rank" else 1):
        mine = found.experts_TK[unit_T == unit]
        load_E = np.bincount(mine[mine >= 0], minlength=routing.num_experts)
        room = capacity.of_tokens(len(mine), routing.experts_TK.shape[1], routing.num_experts)
        assert load_E.max() <= room
        if capacity.policy == "pad":
            assert [room] * routing.num_experts == (load_E + found.padding_UE[unit]).tolist()
    assert (found.padding_UE is None) == (capacity.policy != "pad")


@given(routings(), capacities, st.floats(1.0, 4.0))
def test_a_larger_factor_never_drops_more(routing, capacity, more):
    """What the smaller capacity keeps, the larger one keeps too."""
    larger = Capacity(
        policy=capacity.policy,
        factor=capacity.factor * more,
        rule=capacity.rule,
        scope=capacity.scope,
        min_capacity=capacity.min_capacity,
    )
    assert pairs(routing.cap(capacity).experts_TK) <= pairs(routing.cap(larger).experts_TK)


@given(routings(), st.sampled_from(DROPPING), st.sampled_from(RULES), st.sampled_from(SCOPES))
def test_dropless_is_a_factor_without_limit(routing, policy, rule, scope):
    """A capacity above every load changes nothing."""
    wide = Capacity(policy=policy, factor=2.0 * routing.num_experts + 8.0, rule=rule, scope=scope)
    free = routing.cap(DROPLESS)
    assert routing.experts_TK.tolist() == free.experts_TK.tolist() == routing.cap(wide).experts_TK.tolist()
    assert 0.0 == free.counts.drop_rate == routing.cap(wide).counts.drop_rate


@given(routings(), capacities)
def test_empty_places_are_at_the_end_and_the_order_stays(routing, capacity):
    """A kept row is the routed row with some experts left out; the input is not touched."""
    before = routing.experts_TK.tolist()
    for row, kept in zip(before, routing.cap(capacity).experts_TK.tolist(), strict=True):
        rest = [expert for expert in kept if expert >= 0]
        assert kept == rest + [-1] * (len(kept) - len(rest))
        assert rest == [expert for expert in row if expert in rest]
    assert before == routing.experts_TK.tolist()


@given(routings(), capacities)
def test_by_probability_keeps_the_highest_weights(routing, capacity):
    """No dropped pair of an expert and unit outweighs a kept one."""
    if capacity.policy == "drop_by_position":
        return
    kept, unit_T = pairs(routing.cap(capacity).experts_TK), units(capacity, routing)
    weight = {
        (token, int(expert)): routing.weights_TK[token, k]
        for token, row in enumerate(routing.experts_TK)
        for k, expert in enumerate(row)
    }
    for lost in pairs(routing.experts_TK) - kept:
        rivals = [pair for pair in kept if pair[1] == lost[1] and unit_T[pair[0]] == unit_T[lost[0]]]
        assert all(weight[pair] >= weight[lost] for pair in rivals)


@given(routings(), capacities)
def test_padding_without_weights_keeps_the_earliest(routing, capacity):
    """Where the trace has no weights, `pad` drops by position."""
    by_position = Capacity(
        policy="drop_by_position",
        factor=capacity.factor,
        rule=capacity.rule,
        scope=capacity.scope,
        min_capacity=capacity.min_capacity,
    )
    padded = Capacity(
        policy="pad",
        factor=capacity.factor,
        rule=capacity.rule,
        scope=capacity.scope,
        min_capacity=capacity.min_capacity,
    )
    kept = routing.cap(padded, with_weights=False).experts_TK
    assert routing.cap(by_position).experts_TK.tolist() == kept.tolist()


@given(st.integers(0, 5000), st.integers(1, 16), st.integers(1, 512), st.floats(0.01, 100.0))
def test_the_rules_are_ordered(tokens, top_k, experts, factor):
    """deepspeed is megatron with a floor; gshard is 1 or a multiple of 4 above the whole part of the share."""
    megatron, deepspeed, gshard = (
        Capacity(policy="pad", factor=factor, rule=rule).of_tokens(tokens, top_k, experts) for rule in RULES
    )
    assert max(megatron, 4) == deepspeed
    assert gshard == 1 or gshard % 4 == 0
    whole = math.floor(tokens * top_k / experts * factor)
    assert gshard >= whole and gshard < max(whole, 1) + 4


def test_counts_add_up():
    """Sums of counts, rates of nothing."""
    assert CapacityCounts(12, 9, 3) == total_counts([CapacityCounts(10, 8, 2), CapacityCounts(2, 1, 1)])
    assert CapacityCounts() == total_counts([])
    assert (0.0, 0.0) == (CapacityCounts().drop_rate, CapacityCounts().padding_rate)


PLACEMENT = ExpertPlacement(np.array([0, 1, 2, 0, 1, 0]), num_experts=3, num_devices=2)


@pytest.mark.parametrize("policy", ["nearest", "even"])
def test_sent_padding_is_copies_from_each_device_to_each_expert(policy):
    """Row sums are the padding sent, column sums the padding computed; fan-outs stay those of the tokens."""
    tokens = count_placed(np.array([[0, 2]], np.int32), np.zeros(1, np.int32), PLACEMENT, policy, 1, 0)
    padding_DE = np.array([[1, 0, 4], [2, 3, 0]])
    padded = send_padding(tokens, padding_DE, PLACEMENT, policy, 1, 0)
    for matrix in ("per_expert_DD", "per_device_DD", "per_node_DN"):
        more_DD = getattr(padded.counts, matrix) - getattr(tokens.counts, matrix)
        assert [5, 5] == more_DD.sum(axis=1).tolist(), matrix
    expert_of_row = np.bincount(PLACEMENT.expert_of_slot_P, weights=padded.load_P - tokens.load_P)
    assert [3, 3, 4] == expert_of_row.tolist()
    assert padded.counts.load_D.sum() == padded.load_P.sum() == 12
    assert (1, tokens.counts.fanout_nodes) == (padded.counts.num_tokens, padded.counts.fanout_nodes)


def test_filled_buffers_are_computed_and_not_sent():
    """Padding of expert 0 (three copies), 1 (two) and 2 (one) is split evenly; no copy crosses."""
    tokens = count_placed(np.array([[0, 2]], np.int32), np.zeros(1, np.int32), PLACEMENT, "nearest", 1, 0)
    filled = fill_buffers(tokens, np.array([4, 3, 2]), PLACEMENT)
    assert [2, 2, 2, 1, 1, 1] == (filled.load_P - tokens.load_P).tolist()
    assert [6, 3] == (filled.counts.load_D - tokens.counts.load_D).tolist()
    assert tokens.counts.per_expert_DD.tolist() == filled.counts.per_expert_DD.tolist()


# Scenarios end to end.


def weighted(folder, num_tokens=512):
    """A scenario on a recorded trace with gate weights: one step, tiny model, 16 ranks."""
    recording_of([num_tokens], num_experts=16, with_weights=True, seed=3).write(folder / "weighted.parquet")
    return {"path": str(folder / "weighted.parquet"), "routing_only": True}


def run(folder, capacity, **sections):
    return moesim.simulate(tiny_scenario(folder, capacity=capacity, **sections))


@pytest.mark.parametrize("policy", DROPPING)
def test_a_scenario_with_a_capacity_drops(tmp_path, policy):
    """The drop rate of every layer is that of the routing under the rule; overall it is their mean (equal routing)."""
    capacity = {"policy": policy, "factor": 1.0}
    scenario = make_scenario(tiny_scenario(tmp_path, capacity=capacity, trace=weighted(tmp_path)))
    result = moesim.simulate(scenario)
    (dealt,) = load_setting(scenario).steps()
    for ordinal, layer in enumerate(result.layers):
        routing = Routing(dealt.experts_LTK[ordinal], dealt.weights_LTK[ordinal], dealt.rank_T, 16, 16)
        lost = 1 - len(naive(Capacity(**capacity), routing)) / (512 * 2)
        assert 0.1 < lost == pytest.approx(layer.drop_rate, rel=1e-12)
    assert result.drop_rate == pytest.approx(np.mean([layer.drop_rate for layer in result.layers]))
    assert any(sentence.startswith("capacity: rule megatron, factor 1") for sentence in result.assumptions)


def test_policies_drop_equally_many_and_other_tokens(tmp_path):
    """How many pairs fit is the rule's; which ones is the policy's."""
    rates, carried = set(), set()
    for policy in ("drop_by_probability", "drop_by_position"):
        result = run(tmp_path, {"policy": policy, "factor": 0.75}, trace=weighted(tmp_path))
        rates.add(result.drop_rate)
        carried.add(result.tables.link_bytes.tobytes())
    assert (1, 2) == (len(rates), len(carried))


@pytest.mark.parametrize("algorithm", ["direct", "node_dedup"])
@pytest.mark.parametrize("scope", SCOPES)
def test_padded_devices_compute_full_buffers(tmp_path, scope, algorithm):
    """Every device computes exactly capacity rows of its expert, so the layer is balanced and the waste is stated."""
    result = run(tmp_path, {"policy": "pad", "factor": 1.25, "scope": scope}, dispatch={"algorithm": algorithm})
    rows = 16 * math.ceil(16 * 2 / 16 * 1.25) if scope == "rank" else math.ceil(256 * 2 / 16 * 1.25)
    assert [[rows] * 16] * 2 == result.tables.load_LD.tolist()
    assert 1.0 == result.balancedness
    for layer in result.layers:
        kept = 16 * 16 * 2 * (1 - layer.drop_rate)
        assert layer.padding_rate == pytest.approx(1 - kept / (16 * rows), rel=1e-12)
    assert 0.2 < result.padding_rate < 0.8


def test_sent_padding_costs_bytes_on_every_wire(tmp_path):
    """Direct all-to-all of [E, capacity] buffers: each NIC and scale-up link carries the same, more than tokens need."""
    sections = {"dispatch": {"algorithm": "direct"}, "network": {"fidelity": "bound"}}
    dropped = run(tmp_path, {"policy": "drop_by_position", "factor": 1.25}, **sections)
    padded = run(tmp_path, {"policy": "pad", "factor": 1.25}, **sections)
    nic = np.array(padded.tables.link_tier) == "nic"
    carried, needed = padded.tables.link_bytes[nic], dropped.tables.link_bytes[nic]
    assert 1 == len(set(carried[carried > 0].tolist()))
    # 2 steps, 2 layers, dispatch and combine: 8 experts of the other node, 3 rows each, 2 x 256 + 16 bytes a row
    assert 2 * 2 * 2 * 8 * 3 * (2 * 256 + 16) == carried.max()
    assert needed.sum() < carried.sum()
    assert padded.drop_rate == dropped.drop_rate
    assert 0.0 == dropped.padding_rate


def test_capacity_in_the_group_buffers_adds_no_bytes(tmp_path):
    """Buffers of a group are filled up where the experts lie: the links carry what dropping alone sends."""
    sections = {"dispatch": {"algorithm": "direct"}}
    dropped = run(tmp_path, {"policy": "drop_by_position", "factor": 1.25, "scope": "group"}, **sections)
    padded = run(tmp_path, {"policy": "pad", "factor": 1.25, "scope": "group"}, **sections)
    assert dropped.tables.link_bytes.tolist() == padded.tables.link_bytes.tolist()
    assert padded.layers[0].experts_s > 0 and dropped.tables.load_LD.sum() < padded.tables.load_LD.sum()


def test_groups_of_ranks_have_capacities_of_their_own(tmp_path):
    """With ep 8 on two nodes each group of 8 ranks counts alone: conservation over both."""
    capacity = {"policy": "pad", "factor": 1.0, "scope": "group"}
    result = run(tmp_path, capacity, parallel={"ep": 8}, placement={"slots": 16})
    rows = math.ceil(8 * 16 * 2 / 16)
    assert [[2 * rows] * 16] * 2 == result.tables.load_LD.tolist()


def test_dropping_lets_the_fullest_device_compute_less(tmp_path):
    """With a factor of 1 the load of the fullest device is at most twice the mean (one expert a device, ceil)."""
    free = run(tmp_path, {"policy": "dropless"})
    capped = run(tmp_path, {"policy": "drop_by_position", "factor": 1.0})
    assert (0.0, 0.0) == (free.drop_rate, free.padding_rate)
    assert capped.tables.load_LD.max() == 16 * 2 < free.tables.load_LD.max()
    assert capped.balancedness > free.balancedness


def test_a_wide_factor_takes_the_time_of_dropless(tmp_path):
    """Nothing dropped, nothing padded: the same step to the last bit."""
    free = run(tmp_path, {"policy": "dropless"})
    wide = run(tmp_path, {"policy": "drop_by_position", "factor": 1e3})
    assert free.step_time_s == wide.step_time_s
    assert free.tables.spans.end_s.tobytes() == wide.tables.spans.end_s.tobytes()


def test_buffers_are_sized_by_the_capacity(tmp_path):
    """Dispatch buffers hold the capacity instead of the worst case, padded ones exactly so."""
    direct = {"dispatch": {"algorithm": "direct"}}
    row = 2 * (2 * 256 + 16)  # received and returned
    sizes = {}
    for policy in ("dropless", "drop_by_position", "pad"):
        capacity = {"policy": policy, "factor": 1.25}
        setting = load_setting(make_scenario(tiny_scenario(tmp_path, capacity=capacity, **direct)))
        placements = (ExpertPlacement(np.arange(16), num_experts=16, num_devices=16),) * 2
        step = next(setting.steps())
        sizes[policy] = StepWork(plan=work_plan(setting, placements, "nearest"), dealt=step).memory_parts()
    assert 256 * row == sizes["dropless"]["dispatch_buffers"]
    assert 16 * 3 * row == sizes["drop_by_position"]["dispatch_buffers"] == sizes["pad"]["dispatch_buffers"]


def test_the_report_shows_drops_and_padding_only_with_a_capacity(tmp_path):
    """A section of the page, columns of the table; neither is there for a dropless run."""
    padded = run(tmp_path, {"policy": "pad", "factor": 1.25})
    free = run(tmp_path, {"policy": "dropless"})
    page, text = (render(padded) for render in (render_page, render_text))
    assert 'id="capacity"' in page["report.html"].decode()
    assert f"{padded.padding_rate:.1%} of the rows the experts compute are padding" in page["report.html"].decode()
    assert f"{padded.layers[1].padding_rate:.2%}" in text["summary.txt"].decode()
    assert 'id="capacity"' not in render_page(free)["report.html"].decode()
    assert "padding" not in render_text(free)["summary.txt"].decode()


def test_a_capacity_scenario_survives_its_record(tmp_path):
    """The record of a scenario with a capacity rebuilds it."""
    capacity = {"policy": "pad", "factor": 1.5, "rule": "deepspeed", "scope": "group", "min_capacity": 8}
    scenario = make_scenario(tiny_scenario(tmp_path, capacity=capacity))
    again = make_scenario(yaml.safe_load(yaml.safe_dump(scenario.record())))
    assert capacity == again.record()["capacity"]


# Bad input.


@pytest.mark.parametrize(
    ("capacity", "words"),
    [
        ({"policy": "pad"}, "needs a factor"),
        ({"policy": "drop_by_position"}, "needs a factor"),
        ({"policy": "pad", "factor": 0}, "factor"),
        ({"policy": "pad", "factor": -1.25}, "factor"),
        ({"policy": "dropless", "factor": 0}, "factor"),
        ({"policy": "pad", "factor": float("nan")}, "factor"),
        ({"policy": "pad", "factor": float("inf")}, "factor"),
        ({"policy": "pad", "factor": 1e7}, "factor"),
        ({"policy": "pad", "factor": "lots"}, "factor"),
        ({"policy": "pads", "factor": 1.0}, "drop_by_position"),
        ({"policy": "pad", "factor": 1.0, "rule": "tutel"}, "gshard"),
        ({"policy": "pad", "factor": 1.0, "scope": "world"}, "group"),
        ({"policy": "pad", "factor": 1.0, "min_capacity": -1}, "min_capacity"),
        ({"policy": "pad", "factor": 1.0, "min_capacity": 1.5}, "min_capacity"),
        ({"policy": "pad", "factor": 1.0, "minimum": 4}, "min_capacity"),
    ],
)
def test_a_wrong_capacity_is_refused_in_one_sentence(tmp_path, capacity, words):
    """The sentence names the key and the bound."""
    with pytest.raises(InputError) as error:
        make_scenario(tiny_scenario(tmp_path, capacity=capacity))
    assert words in str(error.value) and "capacity" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"policy": "pad"}, "needs capacity.factor"),
        ({"policy": "pad", "factor": 0.0}, "above 0"),
        ({"policy": "pad", "factor": math.nan}, "above 0"),
        ({"policy": "drop"}, "capacity.policy"),
        ({"rule": "megatr"}, "megatron"),
        ({"scope": "ranks"}, "did you mean 'rank'"),
        ({"min_capacity": -1}, "min_capacity"),
    ],
)
def test_a_wrong_capacity_object_is_refused(options, words):
    """The noun checks itself, whoever makes it."""
    with pytest.raises(InputError, match=words):
        Capacity(**options)


def test_dropping_by_probability_needs_weights(tmp_path):
    """Refused before anything runs where the trace has none, and by the routing itself."""
    with pytest.raises(InputError, match="needs gate weights"):
        run(tmp_path, {"policy": "drop_by_probability", "factor": 1.0})
    with pytest.raises(InputError, match="use drop_by_position"):
        Capacity(policy="drop_by_probability", factor=1.0).cap(
            np.zeros((1, 1), np.int32), None, np.zeros(1, np.int32), 1, 1
        )


def test_padding_beyond_memory_is_refused(tmp_path):
    """A factor of a million would fill terabytes: said so, not tried."""
    with pytest.raises(InputError, match=r"lower capacity\.factor"):
        run(tmp_path, {"policy": "pad", "factor": 1e6}, memory={"check": "warn"})
