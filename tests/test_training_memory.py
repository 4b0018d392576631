"""Memory of a training step: published figures, what ZeRO cuts, what schedules keep, and the refusal."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.model import MoEModel, load_model
from moesim.parallelism import ParallelDims
from moesim.simulation.passes import most_in_flight
from moesim.simulation.schedules import schedule_order
from moesim.training_activations import KeptTensors, layer_bytes
from moesim.training_memory import (
    OPTIMIZERS,
    check_fit,
    checkpoint_bytes,
    checkpoint_time,
    held_weights,
    in_flight,
    kept_bytes,
    model_copies,
    optimizer_types,
    state_parts,
)
from tests.strategies.model import SOURCES, model_data

GPT3 = {
    "format_version": 1,
    "name": "gpt3-and-one-moe-layer",
    "family": "decoder",
    "layers": {"count": 2, "moe": [1]},
    "d_model": 12288,
    "attention": {"kind": "mha", "heads": 96, "kv_heads": 96, "head_dim": 128},
    "moe": {
        "num_experts": 8,
        "top_k": 2,
        "expert_d_ff": 4 * 12288,
        "gated": False,
        "router": {"kind": "softmax_top_k"},
    },
    "dense_d_ff": 4 * 12288,
    "vocab_size": 51200,
    "tied_embeddings": True,
    "weight_dtype": "bf16",
    "dense_dtype": "bf16",
    "sources": SOURCES,
}
SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero_bubble", "dualpipe")


def all_of(model, dims):
    return held_weights(model, dims, range(model.num_layers), first=True, last=True)


def test_a_gpt_layer_keeps_34_h_and_5_a_s_bytes_a_token():
    """arXiv:2205.05198, equation 2; without the scores, as fused or selectively recomputed attention keeps it, 34 h."""
    model = MoEModel.model_validate(GPT3)
    h, a, s = 12288, 96, 2048
    assert 34 * h + 5 * a * s == layer_bytes(model, 0, s, "none", KeptTensors(dropout=True, fused_attention=False))
    assert 34 * h == layer_bytes(model, 0, s, "none", KeptTensors(dropout=True))
    assert 2 * h == layer_bytes(model, 0, s, "full", KeptTensors(dropout=True))


def test_a_moe_layer_keeps_every_pairs_copy_hidden_layers_and_output():
    """Norms 4 h and attention 8 h as in a dense layer, router scores 4 E, per pair 2 h + 2 x 4 h elements in and around."""
    model = MoEModel.model_validate(GPT3)
    h = 12288
    pair = 2 * (h + 4 * h + 4 * h + h)
    assert (2 + 2 + 6 + 2 + 2 + 2) * h + 4 * 8 + 2 * pair == layer_bytes(model, 1, 2048)
    assert (2 + 2 + 6 + 2 + 2 + 2) * h + 4 * 8 + 3 * pair == layer_bytes(
        model, 1, 2048, "none", KeptTensors(pairs_per_token=3)
    )


@given(data=model_data(), sequence_length=st.integers(1, 10_000), fused=st.booleans(), dropout=st.booleans())
def test_recomputing_more_keeps_no_more(data, sequence_length, fused, dropout):
    """Whatever the layer: full <= selective (where the layer has anything but its input) <= none."""
    model, kept = MoEModel.model_validate(data), KeptTensors(fused_attention=fused, dropout=dropout)
    for layer in range(model.num_layers):
        none, light = (layer_bytes(model, layer, sequence_length, r, kept) for r in ("none", "selective"))
        assert 0 <= light <= none
        if light:
            assert layer_bytes(model, layer, sequence_length, "full", kept) <= light


@pytest.mark.parametrize(
    "name, billions, tolerance",
    [("deepseek-v3", 671, 0.001), ("mixtral-8x7b", 46.7, 0.001), ("deepseek-v2-lite", 15.7, 0.01)],
)
def test_held_weights_of_one_device_are_the_published_count(name, billions, tolerance):
    """One device that holds everything holds what the makers say."""
    held = all_of(load_model(name), ParallelDims.for_world(1))
    assert billions * 1e9 == pytest.approx(held.experts + held.shared + held.dense, rel=tolerance)


def test_deepseek_v3_in_bf16_with_adam_takes_18_bytes_a_weight():
    """671e9 weights: 1.34 TB of weights, 2.7 TB of float32 gradients, 8.05 TB of optimizer; a checkpoint 9.4 TB."""
    model, adam = load_model("deepseek-v3"), optimizer_types("adam")
    dims = ParallelDims.for_world(1)
    parts = state_parts(all_of(model, dims), dims, zero=0, optimizer=adam, weight_dtype="bf16")
    assert {
        "weights": pytest.approx(2 * 671e9, rel=1e-3),
        "gradients": pytest.approx(4 * 671e9, rel=1e-3),
        "optimizer": pytest.approx(12 * 671e9, rel=1e-3),
    } == {
        "weights": parts["expert_weights"] + parts["other_weights"],
        "gradients": parts["gradients"],
        "optimizer": parts["optimizer"],
    }
    assert 14 * 671e9 == pytest.approx(checkpoint_bytes(model, "bf16", adam), rel=1e-3)
    assert 94.0 == pytest.approx(checkpoint_time(checkpoint_bytes(model, "bf16", adam), 100e9), rel=1e-2)


def test_optimizers_take_the_bytes_their_sources_state():
    """Gradient + state beside a bf16 weight of 2: 18, 16 and, with moments in bf16, 14 bytes."""
    taken = {name: 2 + types.gradient_bytes + types.state_bytes for name, types in OPTIMIZERS.items()}
    assert {"adam": 18.0, "adam_bf16_gradients": 16.0, "adam_bf16_moments": 14.0} == taken


dims_of_worlds = st.builds(
    lambda edp, ep, tp: ParallelDims.for_world(edp * ep * tp, ep=ep * tp, tp=tp),
    st.integers(1, 8),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2]),
)


@given(dims=dims_of_worlds, optimizer=st.sampled_from(sorted(OPTIMIZERS)), copies=st.sampled_from([1, 2]))
def test_each_zero_stage_holds_no_more_than_the_one_before(dims, optimizer, copies):
    """In every part; and stage 1 cuts nothing but the optimizer, stage 2 gradients too, stage 3 weights too."""
    held = all_of(load_model("deepseek-v2-lite"), dims)
    stages = [
        state_parts(held, dims, zero=zero, optimizer=optimizer_types(optimizer), weight_dtype="bf16", copies=copies)
        for zero in range(4)
    ]
    for before, after in itertools.pairwise(stages):
        assert all(after[part] <= before[part] for part in before)
    same = [[part for part in before if after[part] == before[part]] for before, after in itertools.pairwise(stages)]
    if min(dims.edp, dims.dp) > 1 or copies > 1:
        weights = ["expert_weights", "other_weights"]
        assert [[*weights, "gradients"], [*weights, "optimizer"], ["gradients", "optimizer"]] == same


@given(dims=dims_of_worlds)
def test_what_all_ranks_hold_under_zero_3_is_the_model_once(dims):
    """The sum over the ranks of the cut state is that of one copy; ep divides the experts, so no slot is over."""
    model, adam = load_model("deepseek-v2-lite"), optimizer_types("adam")
    one = ParallelDims.for_world(1)
    whole = state_parts(all_of(model, one), one, zero=0, optimizer=adam, weight_dtype="fp8")
    cut = state_parts(all_of(model, dims), dims, zero=3, optimizer=adam, weight_dtype="fp8")
    if model.num_experts % dims.ep == 0:
        assert whole == {part: pytest.approx(size * dims.world) for part, size in cut.items()}


def test_parts_of_a_pipeline_add_up_to_the_model():
    """61 layers of DeepSeek-V3 over 16 parts, embedding at the first, head at the last."""
    model = load_model("deepseek-v3")
    dims = ParallelDims.for_world(16, ep=1, pp=16)
    cuts = [(61 * part // 16, 61 * (part + 1) // 16) for part in range(16)]
    parts = [
        held_weights(model, dims, range(*cut), first=place == 0, last=place == 15) for place, cut in enumerate(cuts)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert model.total_params == total.experts + total.shared + total.dense


def test_tied_embeddings_are_held_at_both_ends_of_a_pipeline():
    """The one table is there once on a single part, twice on two."""
    model = MoEModel.model_validate(GPT3)
    dims = ParallelDims.for_world(2, ep=1, pp=2)
    ends = held_weights(model, dims, [0], first=True, last=False) + held_weights(
        model, dims, [1], first=False, last=True
    )
    whole = all_of(model, dims)
    assert 51200 * 12288 == ends.dense - whole.dense


def test_expert_weights_are_cut_over_the_expert_data_parallel_group():
    """2048 devices, pp 16, ep 64: two copies of each expert and 128 of all other weights to cut the optimizer over."""
    model = load_model("deepseek-v3")
    dims = ParallelDims.for_world(2048, ep=64, pp=16)
    held = held_weights(model, dims, [10, 11, 12, 13], first=False, last=False)
    parts = state_parts(held, dims, zero=1, optimizer=optimizer_types("adam_bf16_moments"), weight_dtype="fp8")
    assert 4 * 256 // 64 * 3 * 7168 * 2048 == held.experts
    assert 8 * (held.experts / 2 + (held.shared + held.dense) / 128) == pytest.approx(parts["optimizer"])
    assert held.experts == parts["expert_weights"]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("stages, micro_batches", [(2, 8), (4, 8), (4, 16), (8, 16), (8, 32)])
def test_in_flight_is_what_the_schedules_order_holds(schedule, stages, micro_batches):
    """Closed forms against counting passes: equal, but zero_bubble and dualpipe, whose published figure is a ceiling."""
    chunks = 2 if schedule == "interleaved" else 1
    order = schedule_order(schedule, stages=stages, micro_batches=micro_batches, chunks=chunks)
    for stage, slots in enumerate(order):
        counted = sum(most_in_flight(slots).values()) / chunks
        told = in_flight(schedule, stages=stages, micro_batches=micro_batches, stage=stage, chunks=chunks)
        if schedule in ("zero_bubble", "dualpipe"):
            assert counted <= told
        else:
            assert counted == told


@given(micro_batches=st.integers(1, 64), stages=st.integers(1, 16))
def test_activations_grow_with_micro_batches_under_gpipe_and_stop_growing_under_1f1b(micro_batches, stages):
    """gpipe keeps all of them; 1f1b keeps p - stage however many there are."""
    model = load_model("deepseek-v2-lite")

    def kept(schedule, count):
        flying = in_flight(schedule, stages=stages, micro_batches=count, stage=0)
        return kept_bytes(model, [3, 4], 4096, 4096, micro_batches=flying)

    assert kept("gpipe", micro_batches) < kept("gpipe", micro_batches + 1)
    assert kept("1f1b", stages) == kept("1f1b", stages + micro_batches)


def test_full_recomputation_keeps_inputs_and_one_layer_at_hand():
    """2 h a token and layer of every micro-batch in flight, one whole layer of one; the last part has the logits."""
    model = load_model("deepseek-v2-lite")
    whole = layer_bytes(model, 3, 4096)
    assert 100 * (4 * 3 * 2 * 2048 + whole) == kept_bytes(
        model, [3, 4, 5], 100, 4096, micro_batches=4, recompute="full"
    )
    logits = 100 * (2 * 2 * 2048 + 4 * model.vocab_size)
    last = kept_bytes(model, [3], 100, 4096, micro_batches=1, last=True)
    assert 100 * whole + logits == last
    assert last / 8 == kept_bytes(model, [3], 100, 4096, micro_batches=1, last=True, tp=8)


def test_dualpipe_holds_the_model_twice_and_cuts_it_over_twice_the_ranks():
    """arXiv:2412.19437, table 2: parameters 2 x; the optimizer's state under ZeRO-1 is no more than before."""
    assert {"dualpipe": 2, "1f1b": 1} == {name: model_copies(name) for name in ("dualpipe", "1f1b")}
    model, adam = load_model("deepseek-v3"), optimizer_types("adam")
    dims = ParallelDims.for_world(128, ep=8, pp=4)
    one = held_weights(model, dims, [10, 11], first=False, last=False)
    single = state_parts(one, dims, zero=1, optimizer=adam, weight_dtype="fp8")
    double = state_parts(one + one, dims, zero=1, optimizer=adam, weight_dtype="fp8", copies=2)
    assert (2 * single["expert_weights"], pytest.approx(single["optimizer"])) == (
        double["expert_weights"],
        double["optimizer"],
    )


def test_a_step_that_does_not_fit_is_refused_with_the_sum():
    """DeepSeek-V3 on 64 devices without ZeRO: the parts, their sum and the capacity."""
    dims = ParallelDims.for_world(64)
    parts = state_parts(
        all_of(load_model("deepseek-v3"), dims), dims, zero=0, optimizer=optimizer_types("adam"), weight_dtype="fp8"
    )
    with pytest.raises(InputError, match=r"expert weights .* \+ optimizer .* = .* of 80 GiB"):
        check_fit(parts, 80 * 2**30, "node0.dev0")


def test_names_and_numbers_that_cannot_be_are_refused():
    """With the known names, the bound, and the value got."""
    with pytest.raises(InputError, match="gpipe"):
        in_flight("gpip", stages=2, micro_batches=2, stage=0)
    with pytest.raises(InputError, match="adam"):
        optimizer_types("adm")
    with pytest.raises(InputError, match=r"train\.zero=4"):
        state_parts(
            all_of(load_model("deepseek-v2-lite"), ParallelDims.for_world(1)),
            ParallelDims.for_world(1),
            zero=4,
            optimizer=optimizer_types("adam"),
            weight_dtype="bf16",
        )
    for rate in (0.0, float("nan")):
        with pytest.raises(InputError, match="rate"):
            checkpoint_time(1.0, rate)
