"""A training step end to end on a tiny model: what adds up, what costs more, what is the same for every pipeline."""

import itertools
import json
from collections import defaultdict

import numpy as np
import pytest

import moesim
from moesim.errors import InputError, MoesimError
from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.study.placing import placed
from moesim.training_memory import held_weights
from tests.strategies.scenario import TINY_MODEL, tiny_scenario

FOUR_LAYERS = TINY_MODEL.replace("count: 3, first_dense: 1", "count: 4, first_dense: 0").replace(
    "dense_d_ff: 512\n", ""
)


@pytest.fixture
def scenario(tmp_path):
    """Make a training scenario on 16 devices; sections replace keys."""

    def make(*, mode=None, train=None, parallel=None, faults=(), model=FOUR_LAYERS, **sections):
        data = tiny_scenario(tmp_path, **{"network": {"fidelity": "bound"}, **sections})
        (tmp_path / "tiny.yaml").write_text(model)
        data["trace"] = {"router": "zipf", "tokens_per_rank": 32, "steps": "0:1", "seed": 1}
        data["mode"] = {"kind": "train", **(mode or {})}
        data["train"] = {"micro_batches": 8, "sequence_length": 32, **(train or {})}
        data["faults"] = list(faults)
        data["parallel"] = {"ep": 4, "pp": 2} if parallel is None else parallel
        return make_scenario(data)

    return make


@pytest.fixture
def step(scenario):
    """Simulate such a scenario."""
    return lambda **sections: moesim.simulate(scenario(**sections))


SHAPES = [
    ({}, {}, {"pp": 4, "ep": 4}),
    ({}, {"schedule": "gpipe", "zero": 0}, {"pp": 2, "ep": 8}),
    ({}, {"schedule": "interleaved"}, {"pp": 2, "ep": 8}),
    ({"overlap": "two_batch"}, {"schedule": "zero_bubble", "zero": 3}, {"pp": 4, "ep": 4}),
    ({"overlap": "dualpipe"}, {"schedule": "dualpipe", "zero": 2}, {"pp": 4, "ep": 2}),
    ({"overlap": "shared_expert"}, {"recompute": "full"}, {"pp": 2, "ep": 2, "tp": 2, "etp": 2}),
]


@pytest.mark.parametrize(("mode", "train", "parallel"), SHAPES)
def test_seconds_add_up_on_every_stage_and_over_layers(step, mode, train, parallel):
    """Phases and bubble of a stage are the step; so are the layers' rows with what is outside MoE layers."""
    result = step(mode=mode, train=train, parallel=parallel)
    for stage in result.training.stages:
        spent = stage.model_dump(exclude={"stage", "layers"})
        assert sum(spent.values()) == pytest.approx(result.step_time_s)
    phases = [layer.attention_s + layer.dispatch_s + layer.experts_s + layer.combine_s for layer in result.layers]
    assert sum(phases) + result.other_s == pytest.approx(result.step_time_s)
    assert 4 * (2 if train.get("schedule") == "dualpipe" else 1) == sum(s.layers for s in result.training.stages)


@pytest.mark.parametrize(("mode", "train", "parallel"), SHAPES)
def test_every_micro_batch_goes_forward_then_backward_once_on_every_stage(step, mode, train, parallel):
    """F, then B, then W where the schedule puts it off; a stage does one thing (or one pair) at a time."""
    result = step(mode=mode, train=train, parallel=parallel)
    passes = defaultdict(list)
    for span in result.pipeline:
        passes[span.stage, span.chunk, span.micro_batch].append(span)
    batches = 8 // (2 if train.get("schedule") == "dualpipe" else 1)  # each way of dualpipe has half of them
    assert result.training.num_stages * result.training.chunks * batches == len(passes)
    for spans in passes.values():
        spans.sort(key=lambda span: (span.start_s, "FBW".index(span.kind)))
        assert "".join(span.kind for span in spans) in ("FB", "FBW")
        assert all(early.end_s <= late.start_s + 1e-12 for early, late in itertools.pairwise(spans))


def test_one_stage_takes_the_sum_of_its_passes(step):
    """Without a pipeline m micro-batches take m times one of them; the rest comes once."""
    one, eight = (step(train={"micro_batches": count}, parallel={"ep": 16}).training for count in (1, 8))
    assert 8 * one.pipeline_s == pytest.approx(eight.pipeline_s)
    assert (one.gradient_reduction_s, one.optimizer_s) == (eight.gradient_reduction_s, eight.optimizer_s)
    assert 0.0 == eight.bubble_s


def test_more_micro_batches_take_longer_and_leave_a_smaller_bubble(step):
    """Step time rises, the bubble's share falls."""
    results = [step(train={"micro_batches": count}) for count in (2, 4, 8, 16)]
    times, bubbles = [r.step_time_s for r in results], [r.training.bubble_fraction for r in results]
    assert sorted(times) == times
    assert sorted(bubbles, reverse=True) == bubbles
    assert [1024 * count // 2 // 2 for count in (2, 4, 8, 16)] == [r.training.tokens for r in results]


def test_1f1b_takes_between_m_and_m_plus_p_minus_one_turns_of_its_slowest_stage(step, monkeypatch):
    """A turn is a forward and a backward pass; with equal stages the bubble is (p - 1) / (m + p - 1). Sends add to it."""
    sections = {"train": {"micro_batches": 16}, "parallel": {"pp": 4, "ep": 4}}
    sent = step(**sections)
    monkeypatch.setattr("moesim.training._sends", lambda *_: np.zeros((4, 4)))
    at_once = step(**sections)
    turn_s = max(stage.forward_s + stage.backward_s for stage in at_once.training.stages) / 16
    assert 16 * turn_s < at_once.training.pipeline_s < (16 + 4 - 1) * turn_s
    assert at_once.training.pipeline_s < sent.training.pipeline_s


def test_what_is_made_again_costs_time(step):
    """Full recomputation adds one forward pass to each backward pass."""
    none, full = (step(train={"recompute": kind}, parallel={"ep": 16}).training for kind in ("none", "full"))
    assert none.forward_s == pytest.approx(full.forward_s)
    assert none.backward_s < full.backward_s < none.backward_s + none.forward_s * 1.01


def test_links_carry_every_micro_batch_both_ways(step):
    """Bytes grow with the micro-batches; a forward pass made again adds half of forward and backward together."""
    moved = {
        (count, kind): step(train={"micro_batches": count, "recompute": kind}).tables.link_bytes.sum()
        for count, kind in ((4, "none"), (8, "none"), (8, "full"))
    }
    assert 2 * moved[4, "none"] == pytest.approx(moved[8, "none"])
    assert 1.5 * moved[8, "none"] == pytest.approx(moved[8, "full"])


def test_a_fluid_step_is_near_its_bound(step):
    """Within 5 % here; not above it by law, since the bound is that of a collective, not of one receiver."""
    bound = step(parallel={"ep": 16})
    fluid = step(parallel={"ep": 16}, network={"fidelity": "fluid"})
    assert bound.training.pipeline_s == pytest.approx(fluid.training.pipeline_s, rel=0.05)
    assert (None, 0.0) == (bound.network.error_bound, fluid.network.error_bound)


def test_weights_put_off_shorten_the_pipeline(step):
    """zero_bubble is not slower than 1f1b."""
    plain, split = (step(train={"schedule": name}, parallel={"pp": 4, "ep": 4}) for name in ("1f1b", "zero_bubble"))
    assert split.training.pipeline_s <= plain.training.pipeline_s
    assert split.training.weight_gradient_s > 0.0 == plain.training.weight_gradient_s


def test_overlapping_pairs_is_not_slower_than_running_them_in_turn(step):
    """dualpipe's schedule with and without overlap; the generic kernel takes no SMs."""
    train, parallel = {"schedule": "dualpipe"}, {"pp": 4, "ep": 4}
    turn, beside = (step(mode={"overlap": kind}, train=train, parallel=parallel) for kind in ("none", "dualpipe"))
    assert beside.training.overlapped_s < turn.training.overlapped_s
    assert beside.step_time_s < turn.step_time_s


def test_gathering_weights_before_every_pass_costs_time(step):
    """ZeRO 3 is slower than ZeRO 1, and has no gather left at the end."""
    one, three = (step(train={"zero": stage}).training for stage in (1, 3))
    assert one.forward_s < three.forward_s
    assert three.gradient_reduction_s < one.gradient_reduction_s


def test_zero_stages_cut_memory(step):
    """Every ZeRO stage needs less of a device than the one before."""
    needed = [step(train={"zero": stage}).memory.max_device_bytes for stage in range(4)]
    assert sorted(needed, reverse=True) == needed


def test_same_inputs_give_same_bytes(step):
    """Summary and pipeline of two runs are equal."""
    one, two = (step(mode={"overlap": "two_batch"}) for _ in range(2))
    assert json.dumps(one.summary(wall_clock=False)) == json.dumps(two.summary(wall_clock=False))
    assert one.pipeline == two.pipeline


def test_pipelines_alike_are_timed_once_and_the_answer_is_that_of_timing_all(step, monkeypatch):
    """Taking every pipeline and stage for a class of its own changes nothing but the number of events."""
    few = step(parallel={"pp": 2, "ep": 4})
    monkeypatch.setattr("moesim.training.classes", lambda builders: list(range(len(builders))))
    many = step(parallel={"pp": 2, "ep": 4})
    assert few.step_time_s == many.step_time_s
    assert few.events < many.events


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "slow_device", "device": 5, "factor": 0.25},
        {"kind": "slow_link", "link": "node1.nic0.up", "factor": 0.1},
        {"kind": "link_down", "link": "node1.nic0.up"},
    ],
)
def test_a_fault_costs_time(step, fault):
    """A slow device, a slow link, a dead link: the step is slower, and the result says by how much."""
    result = step(parallel={"pp": 1, "ep": 16}, faults=[fault])
    assert result.faults.step_time_without_s < result.step_time_s
    assert result.training.num_stages == 1


def test_a_slow_device_slows_its_own_pipeline_only(scenario):
    """Of two pipelines x two stages the one that holds the device is of another kind."""
    setting = load_setting(scenario(faults=[{"kind": "slow_device", "device": 5, "factor": 0.5}]))
    assert (2, 4) == (setting.dims.num_pipelines, setting.dims.pipeline_width)
    result = moesim.simulate(setting.scenario)
    assert any("2 of them timed" in text for text in result.assumptions)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"parallel": {"pp": 3, "ep": 4}}, r"ep=4 x etp=1 x pp=3 = 12 does not divide world_size=16"),
        ({"parallel": {"pp": 2, "dp": 3, "ep": 4}}, r"dp=3 x tp=1 x pp=2 = 6 is not world_size=16"),
        ({"parallel": {"pp": 8, "ep": 2}}, r"8 pipeline parts .* are more than the 4 layers"),
        ({"train": {"stage_layers": [1, 2]}}, r"2 entries that sum to 3; this pipeline has 2 parts for 4 layers"),
        ({"train": {"schedule": "dualpipe", "micro_batches": 3}}, "even train.micro_batches"),
        ({"train": {"schedule": "interleaved", "micro_batches": 3}}, "multiple of pp=2"),
        ({"train": {"schedule": "one_f_one_b"}}, "train.schedule"),
        ({"train": {"optimizer": "sgdx"}}, "optimizer"),
        ({"train": {"reduction": "rings"}}, "ring"),
        ({"mode": {"overlap": "dualpipe"}}, "take train.schedule dualpipe"),
        ({"faults": [{"kind": "device_down", "device": 1}]}, "needs all its devices"),
        (
            {"faults": [{"kind": "slow_device", "device": 1, "factor": 0.5, "at": 1.0}]},
            "in the course of a training step",
        ),
        ({"parallel": {"ep": 2, "etp": 3}}, "does not divide world_size=16"),
        ({"cluster": {"devices": [{"match": "*", "memory": "10 kB"}]}}, r"a device of stage \d does not fit"),
    ],
)
def test_what_cannot_be_is_refused_with_its_numbers(step, sections, words):
    """One sentence each."""
    with pytest.raises(MoesimError, match=words):
        step(**sections)


def test_pipelines_are_for_training_only(scenario):
    """A decode step with pp > 1 is refused and told what has pipelines."""
    with pytest.raises(InputError, match="take mode kind train"):
        load_setting(make_scenario({**scenario().record(), "mode": {"kind": "decode"}}))


def test_uneven_parts_are_taken_as_given(step):
    """Three layers on the first stage and one on the last."""
    assert [3, 1] == [stage.layers for stage in step(train={"stage_layers": [3, 1]}).training.stages]


def test_weights_of_all_devices_are_the_model(scenario):
    """Over stages, ep, etp and tp ranks, held weights add up to the model's."""
    setting = load_setting(scenario(parallel={"pp": 2, "ep": 2, "tp": 2, "etp": 2}))
    _, work, _ = placed(setting, None)
    held = [
        held_weights(setting.model, setting.dims, layers, first=first, last=not first)
        for layers, first in ((range(2), True), (range(2, 4), False))
    ]
    dims = setting.dims
    total = sum(dims.ep * dims.etp * part.experts + dims.tp * (part.shared + part.dense) for part in held)
    assert setting.model.total_params == pytest.approx(total)
    assert (dims.pipeline_width, dims.tp, dims.etp) == (work.num_devices, work.tp, work.etp)


def test_strategies_are_compared_over_whole_training_steps(scenario):
    """compare judges training steps; contiguous is its own baseline."""
    runs = moesim.compare(scenario(), ["contiguous", "longest_first"])
    assert [1.0] == [run.speedup for run in runs if run.strategy == "contiguous"]
    assert np.isfinite([run.step_time_s for run in runs]).all()
