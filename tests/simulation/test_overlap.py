"""Overlap of communication and compute: what it may gain, what it costs, and that every instant is counted once."""

import dataclasses
import json

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.calibration import load_profile
from moesim.errors import InputError
from moesim.overlap import communication_sms
from moesim.report import write_report
from moesim.report.formats.perfetto import timeline
from moesim.result import PHASES
from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.simulation.exposed import exposed_seconds
from moesim.simulation.run import run_step
from moesim.simulation.streams import DeviceStreams
from moesim.step_bound import step_phases
from moesim.step_work import StepWork
from moesim.study import simulate
from moesim.study.placing import placed
from tests.strategies.scenario import TINY_MODEL, tiny_scenario
from tests.theory.test_step import symmetric_step

MODES = ["none", "shared_expert", "two_batch", "dualpipe"]
COMMUNICATION = (PHASES.index("dispatch"), PHASES.index("combine"))


def scenario(folder, overlap="none", *, expert_d_ff=128, **sections):
    """The tiny scenario with a shared expert, prefill unless said otherwise."""
    data = tiny_scenario(folder, **sections)
    shared = TINY_MODEL.replace("  router:", "  num_shared_experts: 1\n  shared_d_ff: 256\n  router:")
    (folder / "tiny.yaml").write_text(shared.replace("expert_d_ff: 128", f"expert_d_ff: {expert_d_ff}"))
    return make_scenario({**data, "mode": {"kind": "prefill", **sections.get("mode", {}), "overlap": overlap}})


def plan_of(asked):
    return placed(load_setting(asked), None)[1]


def many_tokens(times, num_ranks=16):
    """The even step of tests/theory, every token `times` times."""
    step = symmetric_step(num_ranks)
    return dataclasses.replace(
        step, rank_T=np.repeat(step.rank_T, times), experts_LTK=np.repeat(step.experts_LTK, times, axis=1)
    )


@pytest.mark.parametrize("fidelity", ["bound", "fluid"])
@pytest.mark.parametrize("overlap", MODES)
def test_phases_and_other_add_up_to_the_step(tmp_path, overlap, fidelity):
    """Every instant of the slowest rank is in one layer's phase or in other_s, whatever lies beside it."""
    asked = scenario(tmp_path, overlap, network={"fidelity": fidelity}, dispatch={"kernel": "deepep-normal"})
    result = simulate(asked)
    phases = sum(layer.attention_s + layer.dispatch_s + layer.experts_s + layer.combine_s for layer in result.layers)
    dense_and_head = sum(float(cost.time_s[0]) for cost in _outside(asked))
    assert result.step_time_s == pytest.approx(phases + result.other_s, rel=1e-12)
    slowest = 1 / (1 - 24 / 132) if overlap == "dualpipe" else 1.0
    assert dense_and_head * (1 - 1e-9) <= result.other_s <= dense_and_head * slowest * (1 + 1e-9)


def _outside(asked):
    plan = plan_of(asked)
    dealt = next(iter(load_setting(asked).steps()))
    return [
        cost for part in StepWork(plan=plan, dealt=dealt).micro_batches() for cost in (part.dense_layer(0), part.head())
    ]


@pytest.mark.parametrize("overlap", MODES)
def test_a_rank_computes_one_thing_at_a_time(tmp_path, overlap):
    """Compute spans of one rank never overlap; communication lies beside them in every mode but none."""
    spans = simulate(scenario(tmp_path, overlap)).tables.spans
    beside = False
    for rank in range(16):
        mine = (spans.rank == rank) & (spans.step == 0)
        moving = np.isin(spans.phase, COMMUNICATION)
        computing = mine & ~moving
        order = np.argsort(spans.start_s[computing], kind="stable")
        start, end = spans.start_s[computing][order], spans.end_s[computing][order]
        assert (start[1:] >= end[:-1]).all()
        for left, right in zip(spans.start_s[mine & moving], spans.end_s[mine & moving], strict=True):
            beside |= bool(((start < right) & (end > left)).any())
    assert beside == (overlap != "none")


@settings(max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 400), st.sampled_from(["direct", "per_device", "node_dedup", "all_gather"]))
def test_a_shared_expert_beside_the_dispatch_is_never_slower_under_bound(tmp_path_factory, seed, tokens, algorithm):
    """Experts start no later, so nothing after them does; on the clock of `bound` an earlier arrival delays nobody."""
    folder = tmp_path_factory.mktemp("overlap")
    sections = {
        "trace": {"router": "zipf", "tokens_per_rank": tokens, "steps": "0:1", "seed": seed},
        "network": {"fidelity": "bound"},
        "dispatch": {"algorithm": algorithm},
    }
    none, beside = (simulate(scenario(folder, overlap, **sections)).step_time_s for overlap in MODES[:2])
    assert beside <= none * (1 + 1e-9)


def test_an_even_step_hides_the_shorter_of_dispatch_and_shared_expert(tmp_path):
    """The clock under `bound` is the closed form: phases less min(shared, dispatch) of each layer."""
    work = StepWork(plan=plan_of(scenario(tmp_path, "shared_expert")), dealt=symmetric_step())
    phases = step_phases(work)
    assert phases.hidden_s > 0
    assert phases.step_s == pytest.approx(run_step(work, fidelity="bound", tolerance=0.0).time_s, rel=1e-9)


@pytest.mark.parametrize("overlap", ["two_batch", "dualpipe"])
@pytest.mark.parametrize("algorithm", ["direct", "per_device", "node_dedup"])
def test_halves_gain_where_work_is_even_and_large(tmp_path, overlap, algorithm):
    """4096 tokens a rank, as much compute as communication: what is read and paid twice is small beside what is hidden."""
    dealt, left = many_tokens(256), 1 - 24 / 132 if overlap == "dualpipe" else 1.0
    asked = {"dispatch": {"algorithm": algorithm, "kernel": "deepep-normal"}, "expert_d_ff": 8192}
    none, halves = (
        StepWork(plan=plan_of(scenario(tmp_path, mode, **asked)), dealt=dealt) for mode in ("none", overlap)
    )
    none_s, halves_s = (run_step(work, fidelity="bound", tolerance=0.0).time_s for work in (none, halves))
    assert step_phases(halves).step_s * (1 - 1e-9) <= halves_s < 0.9 * none_s / left


def test_halves_gain_on_a_real_shape():
    """DeepSeek-V2-Lite, 1024 tokens on each of 16 H100: 26 layers have more to hide than their halves cost."""
    asked = {
        "format_version": 1,
        "model": "deepseek-v2-lite",
        "cluster": {"topology": "dgx-h100-superpod", "nodes": 2},
        "trace": {"router": "uniform", "tokens_per_rank": 1024, "steps": "0:1"},
        "dispatch": {"kernel": "deepep-normal", "dtype": "fp8"},
        "network": {"fidelity": "bound"},
    }
    times = [
        simulate(make_scenario({**asked, "mode": {"kind": "prefill", "overlap": mode}})).step_time_s
        for mode in ("two_batch", "dualpipe", "shared_expert", "none")
    ]
    assert times == sorted(times)
    assert times[1] < 0.8 * times[-1]


def free_network(folder):
    """The datasheet profile without any fixed cost of kernels, as a file."""
    data = json.loads(load_profile().model_dump_json(exclude_none=True))
    for kernel in data["kernels"].values():
        for operation in ("dispatch", "combine"):
            kernel[operation]["fixed_s"]["value"] = [0.0] * len(kernel[operation]["fixed_s"]["value"])
    path = folder / "free.json"
    path.write_text(json.dumps(data))
    return str(path)


def test_halves_without_communication_cost_the_weights_they_read_twice(tmp_path):
    """Every rank its own group, decode: the two_batch step is the compute of both halves, no more than one more reading."""
    times = {}
    for overlap in ("none", "two_batch"):
        asked = scenario(
            tmp_path, overlap, cluster={"nodes": 1}, parallel={"ep": 1}, mode={"kind": "decode", "context_length": 64}
        )
        asked = asked.model_copy(update={"profile": free_network(tmp_path)})
        work = StepWork(plan=plan_of(asked), dealt=next(iter(load_setting(asked).steps())))
        run = run_step(work, fidelity="bound", tolerance=0.0)
        parts = work.micro_batches()
        costs = [part.head() for part in parts] + [part.dense_layer(0) for part in parts]
        layers = [part.layer(ordinal) for part in parts for ordinal in range(2)]
        costs += [layer.attention for layer in layers] + [layer.experts for layer in layers]
        assert run.end_D == pytest.approx(np.sum([cost.time_s for cost in costs], axis=0), rel=1e-9)
        times[overlap] = run.time_s
        weights = work.memory_parts()["expert_weights"] + work.memory_parts()["other_weights"]
        read_s = weights / work.plan.rates.memory_bytes_per_s[0]
    assert times["none"] < times["two_batch"] <= times["none"] + read_s


@pytest.fixture(scope="module")
def two_batch_plan(tmp_path_factory):
    return plan_of(scenario(tmp_path_factory.mktemp("halves"), "two_batch"))


@given(ranks=st.lists(st.integers(0, 3), max_size=40))
def test_halves_share_each_ranks_tokens(two_batch_plan, ranks):
    """No token is lost or doubled, and a rank's halves differ by one token at most, the first the larger."""
    token_of = np.repeat((np.arange(len(ranks), dtype=np.int32) % 16)[None, :, None], 2, axis=0).repeat(2, axis=2)
    dealt = dataclasses.replace(symmetric_step(), rank_T=np.array(ranks, dtype=np.int32), experts_LTK=token_of)
    first, second = StepWork(plan=two_batch_plan, dealt=dealt).micro_batches()
    assert sorted(ranks) == sorted([*first.dealt.rank_T.tolist(), *second.dealt.rank_T.tolist()])
    together = np.concatenate([first.dealt.experts_LTK, second.dealt.experts_LTK], axis=1)
    assert sorted(token_of[0, :, 0].tolist()) == sorted(together[0, :, 0].tolist())
    assert set((first.tokens_D - second.tokens_D).tolist()) <= {0.0, 1.0}


def test_halves_carry_the_bytes_of_the_whole(tmp_path):
    """One copy per (token, expert) does not care which half a token is in; merged loads are the whole's."""
    whole, halves = (
        simulate(scenario(tmp_path, overlap, dispatch={"algorithm": "direct"})) for overlap in ("none", "two_batch")
    )
    assert whole.tables.link_bytes == pytest.approx(halves.tables.link_bytes, rel=1e-12)
    assert whole.tables.load_LD.tolist() == halves.tables.load_LD.tolist()
    assert whole.fanout_nodes == pytest.approx(halves.fanout_nodes)
    assert whole.memory == halves.memory


def test_a_transfer_slows_what_is_computed_beside_it():
    """1 s of work with half the SMs gone from 0.25 s to 0.75 s ends at 1.25 s; a later second of work is undisturbed."""
    env = simpy.Environment()
    streams = DeviceStreams(env, sms_share=0.5)
    ends = []

    def transfers():
        yield env.timeout(0.25)
        streams.begin_transfer()
        streams.begin_transfer()
        yield env.timeout(0.25)
        streams.end_transfer()
        yield env.timeout(0.25)
        streams.end_transfer()

    def work():
        for _ in range(2):
            yield from streams.work(1.0)
            ends.append(env.now)

    env.process(transfers())
    env.process(work())
    env.run()
    assert ends == pytest.approx([1.25, 2.25])


def test_sms_taken_from_compute_slow_the_step_by_no_more_than_their_share(tmp_path):
    """dualpipe is two_batch with slower compute: between it and it / (1 - sms / 132); without known SMs it is two_batch."""
    times = {
        (kernel, overlap): simulate(
            scenario(tmp_path, overlap, network={"fidelity": "bound"}, dispatch={"kernel": kernel})
        ).step_time_s
        for kernel in ("deepep-normal", "generic")
        for overlap in ("two_batch", "dualpipe")
    }
    free, slowed = times["deepep-normal", "two_batch"], times["deepep-normal", "dualpipe"]
    assert free < slowed <= free / (1 - 24 / 132)
    assert times["generic", "two_batch"] == times["generic", "dualpipe"]


def test_the_result_says_what_overlap_assumes(tmp_path):
    """A mode that cannot do anything says why."""

    def sentences(asked):
        return " ".join(simulate(asked).assumptions)

    assert "takes 24 of 132 SMs" in sentences(scenario(tmp_path, "dualpipe", dispatch={"kernel": "deepep-normal"}))
    assert "the kernel states no SMs" in sentences(scenario(tmp_path, "dualpipe"))
    plain = make_scenario({**tiny_scenario(tmp_path), "mode": {"overlap": "shared_expert"}})
    assert "has no shared expert" in sentences(plain)


def test_more_sms_than_there_are_are_refused(tmp_path):
    """A device needs an SM to compute with; the other modes take none."""
    with pytest.raises(InputError, match="132 SMs"):
        simulate(scenario(tmp_path, "dualpipe", dispatch={"sms": 132}))
    devices = load_setting(scenario(tmp_path)).cluster.devices
    assert communication_sms("two_batch", 132, devices) == 0
    assert communication_sms("dualpipe", 131, devices) == 131


@pytest.mark.parametrize("value", ["three_batch", "", None, True])
def test_overlaps_of_other_names_are_refused(tmp_path, value):
    """The key is named."""
    with pytest.raises(InputError, match="overlap"):
        scenario(tmp_path, value)


@pytest.mark.parametrize("overlap", MODES[1:])
def test_overlapping_runs_have_a_report(tmp_path, overlap):
    """Page, tables and timeline take spans that overlap."""
    result = simulate(scenario(tmp_path, overlap))
    written = {path.name for path in write_report(result, tmp_path / "out")}
    assert {"report.html", "timeline.pftrace", "spans.parquet"} <= written
    assert timeline(result.tables, [1, 2]) == timeline(simulate(scenario(tmp_path, overlap)).tables, [1, 2])


def test_compute_has_the_time_then_the_transfer_that_ends_first():
    """Experts 0..2 beside a dispatch 1..4 and a combine 1..3: the dispatch keeps 3..4, the combine 2..3."""
    phase = np.array([PHASES.index(name) for name in ("experts", "dispatch", "combine")], dtype=np.int8)
    seconds = exposed_seconds(phase, np.array([0.0, 1.0, 1.0]), np.array([2.0, 4.0, 3.0]))
    assert seconds.tolist() == [2.0, 1.0, 1.0]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=20))
def test_every_instant_covered_is_counted_once(rows):
    """The seconds of all spans add up to the length of their union, and no span gets more than its length."""
    phase = np.array([row[0] for row in rows], dtype=np.int8)
    start = np.array([float(row[1]) for row in rows])
    end = start + np.array([float(row[2]) for row in rows])
    seconds = exposed_seconds(phase, start, end)
    covered = {instant for left, right in zip(start, end, strict=True) for instant in np.arange(left, right).tolist()}
    assert seconds.sum() == len(covered)
    assert (seconds <= end - start).all()
    assert (seconds >= 0).all()
