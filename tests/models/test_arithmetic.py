"""Counts that follow from the dims: worked by hand for known models, and as laws for any model."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import UnknownName
from moesim.model import DTYPE_BYTES, MoEModel, dtype_bytes, load_model
from tests.strategies.model import model_data


def changed(data: dict[str, Any], section: str | None = None, **values: object) -> MoEModel:
    inner = {**data[section], **values} if section else values
    return MoEModel.model_validate({**data, section: inner} if section else {**data, **inner})


def test_deepseek_v3_by_hand() -> None:
    """DeepSeek-V3: an expert has 3 * 7168 * 2048 weights; attention, cache and scores follow from its latent widths."""
    model = load_model("deepseek-v3")
    assert 44_040_192 == model.expert_params
    assert 44_040_192.0 == model.expert_bytes()
    assert 88_080_384.0 == model.expert_bytes("bf16")
    assert 44_040_192 == model.shared_params
    assert 396_361_728 == model.dense_params
    assert tuple(range(3, 61)) == model.moe_layer_indices
    # 7168*1536 + 1536*128*192 + 7168*576 + 512*128*256 + 128*128*7168
    assert 187_105_280 == model.attention_params
    assert 1152.0 == model.kv_bytes_per_token("bf16")
    assert 2 * 128 * (192 + 128) * 1000 == model.score_flops_per_token(1000, 0)
    assert 2 * 128 * (576 + 512) * 1000 == model.score_flops_per_token(1000, 0, absorbed=True)
    assert (256, 8, 1, 8, 7168) == (
        model.num_experts, model.top_k, model.num_shared_experts, model.num_groups, model.payload_width
    )  # fmt: skip


def test_gpt_oss_20b_by_hand() -> None:
    """gpt-oss-20b: an expert has 3 * 2880 * 2880 weights of 4.25 bits; layers with an even index see 128 tokens."""
    model = load_model("gpt-oss-20b")
    assert 24_883_200 == model.expert_params
    assert 13_219_200.0 == model.expert_bytes()
    assert 2880 * 64 * (64 + 8 + 8 + 64) == model.attention_params
    assert 2 * 8 * 64 * 2.0 == model.kv_bytes_per_token()
    assert [128, 4096, 128, 100] == [
        model.attended_tokens(4096, 0), model.attended_tokens(4096, 1),
        model.attended_tokens(4096, 2), model.attended_tokens(100, 2),
    ]  # fmt: skip
    assert 4 * 64 * 64 * 4096 == model.score_flops_per_token(4096, 1)
    assert 4 * 64 * 64 * 128 == model.score_flops_per_token(4096, 0)
    assert 24 == model.num_moe_layers == model.num_layers
    assert (0, 0, 0) == (model.shared_d_ff, model.shared_params, model.dense_params)


def test_uncompressed_latent_queries() -> None:
    """DeepSeek-V2-Lite has no query compression: its queries come straight from d_model."""
    query, latent, output = 2048 * 16 * 192, 2048 * 576 + 512 * 16 * 256, 16 * 128 * 2048
    assert query + latent + output == load_model("deepseek-v2-lite").attention_params


def test_encoder_decoder_attends_twice_in_the_decoder() -> None:
    """Switch-C: decoder layers 15-29 have a second attention block; every MLP is MoE, one expert per token."""
    model = load_model("switch-c")
    block = 4 * 2080 * 32 * 64
    assert block == model.attention_weight_params(14)
    assert 2 * block == model.attention_weight_params(15)
    assert 45 * block == model.parameter_breakdown()["attention"]
    assert (2 * 2080 * 6144, 30, 1) == (model.expert_params, model.num_moe_layers, model.top_k)


def test_every_other_layer() -> None:
    """GLaM and GShard have an MoE layer in every other place, beginning with layer 1."""
    assert tuple(range(1, 64, 2)) == load_model("glam-64b-64e").moe_layer_indices
    assert tuple(range(1, 36, 2)) == load_model("gshard-2048e-36l").moe_layer_indices


def test_peer_heads_are_merged() -> None:
    """PEER: 8 heads of 16 single-neuron experts make 128 ids a token; product keys cost little beside the experts."""
    model = load_model("peer-1m")
    assert (1_048_576, 128, 2048, True) == (model.num_experts, model.top_k, model.expert_params, model.has_heads_merged)
    assert 8 * 1024 * 512 + 2 * 1024 * 256 == model.router_params
    assert (0, 0.0, 0.0, 0) == (
        model.attention_params, model.kv_bytes_per_token(), model.score_flops_per_token(4096, 0), model.embedding_params
    )  # fmt: skip
    assert not load_model("deepseek-v3").has_heads_merged


def test_dtype_bytes() -> None:
    """Four-bit types count their scales, 8 bits per 32 (mxfp4) or 16 elements (nvfp4); unknown types are refused."""
    assert (4 + 8 / 32) / 8 == dtype_bytes("mxfp4")
    assert (4 + 8 / 16) / 8 == dtype_bytes("nvfp4") == dtype_bytes("fp4")
    assert (4.0, 2.0, 2.0, 1.0, 1.0) == tuple(map(dtype_bytes, ("fp32", "bf16", "fp16", "fp8", "int8")))
    with pytest.raises(UnknownName, match="'bf61'; did you mean 'bf16'"):
        dtype_bytes("bf61")


@given(model_data())
def test_round_trip(data: dict[str, Any]) -> None:
    """A model written as plain data and read again is the same model."""
    model = MoEModel.model_validate(data)
    assert model == MoEModel.model_validate(model.model_dump(mode="json"))


@given(model_data())
def test_parts_add_up(data: dict[str, Any]) -> None:
    """Parts are never negative and add up to the total; bytes lie between the narrowest and the widest dtype."""
    model = MoEModel.model_validate(data)
    breakdown = model.parameter_breakdown()
    assert min(breakdown.values()) >= 0
    assert model.total_params == sum(breakdown.values())
    sizes = sorted((dtype_bytes(model.weight_dtype), dtype_bytes(model.dense_dtype)))
    assert sizes[0] * model.total_params <= model.weight_bytes() * (1 + 1e-12)
    assert model.weight_bytes() <= sizes[1] * model.total_params * (1 + 1e-12)


@given(model_data(), st.integers(2, 5))
def test_more_experts_change_only_experts_and_router(data: dict[str, Any], factor: int) -> None:
    """Multiplying num_experts multiplies the expert weights, grows the router, and leaves the rest."""
    one = MoEModel.model_validate(data)
    many = changed(data, "moe", num_experts=factor * one.num_experts)
    before, after = one.parameter_breakdown(), many.parameter_breakdown()
    assert factor * before["experts"] == after["experts"]
    matrices = 2 if one.moe.router.kind == "noisy_top_k" else 1
    grown = one.num_moe_layers * one.d_model * one.num_experts * (factor - 1)
    assert after["routers"] - before["routers"] == matrices * grown
    for part in ("shared_experts", "dense_mlps", "attention", "modulation", "embeddings"):
        assert before[part] == after[part]


@given(model_data())
def test_a_narrow_payload_costs_two_projections(data: dict[str, Any]) -> None:
    """Experts work at payload_width; a payload other than d_model adds a projection down and one up per MoE layer."""
    model = MoEModel.model_validate(data)
    matrices = 3 if model.gated else 2
    assert matrices * model.payload_width * model.expert_d_ff == model.expert_params
    plain = changed(data, "moe", payload_width=None)
    narrow = changed(data, "moe", payload_width=model.d_model + 1)
    assert 2 * model.d_model * (model.d_model + 1) == narrow.router_params - plain.router_params
    assert plain.router_params == changed(data, "moe", payload_width=model.d_model).router_params


@given(model_data())
def test_gate_is_a_third_matrix(data: dict[str, Any]) -> None:
    """A gated expert has 3/2 the weights of a plain one."""
    plain, gated = changed(data, "moe", gated=False), changed(data, "moe", gated=True)
    assert 3 * plain.expert_params == 2 * gated.expert_params
    assert 3 * plain.shared_params == 2 * gated.shared_params


@given(model_data())
def test_moe_layers_are_model_layers_in_order(data: dict[str, Any]) -> None:
    """MoE layer indices rise strictly, lie among the model's layers, and a listed set is taken as it is."""
    model = MoEModel.model_validate(data)
    indices = model.moe_layer_indices
    assert list(indices) == sorted(set(indices)) and 1 <= len(indices) == model.num_moe_layers
    assert 0 <= indices[0] and indices[-1] < model.num_layers
    others = {key: value for key, value in data["layers"].items() if key not in ("first_dense", "every", "moe")}
    listed = changed(data, layers={**others, "moe": list(indices)})
    assert (indices, model.total_params) == (listed.moe_layer_indices, listed.total_params)


@given(model_data(), st.integers(0, 10**6), st.integers(2, 8), st.data())
def test_longer_contexts_never_cost_less(data: dict[str, Any], context: int, factor: int, draw: st.DataObject) -> None:
    """Scores, reads and cache grow with the context at most in proportion, but for a state, which does not grow."""
    model = MoEModel.model_validate(data)
    layer = draw.draw(st.integers(0, model.num_layers - 1))
    still = model.cache_bytes(0, layer), model.cache_read_bytes(0, layer), model.score_flops_per_token(0, layer)
    for cost, least in zip(
        (model.cache_bytes, model.cache_read_bytes, model.score_flops_per_token), still, strict=True
    ):
        short, long = cost(context, layer), cost(factor * context, layer)
        assert 0 <= least <= short <= long
        assert long - least <= factor * (short - least) * (1 + 1e-12)
    assert model.attended_tokens(context, layer) * (model.mixer(layer) is not None) <= 2 * context
    assert model.cache_read_bytes(context, layer) <= 2 * model.cache_bytes(context, layer)


@given(model_data(), st.integers(0, 10**6))
def test_cache_scales_with_its_dtype(data: dict[str, Any], context: int) -> None:
    """Bytes per token are elements times the width of the type."""
    model = MoEModel.model_validate(data)
    assert [model.kv_bytes_per_token("fp8") * size for size in DTYPE_BYTES.values()] == [
        model.kv_bytes_per_token(dtype) for dtype in DTYPE_BYTES
    ]
    assert model.kv_bytes_per_token("bf16", 0) <= model.layers.attention_blocks * model.cache_bytes(10**7, 0)


@given(model_data())
def test_a_token_meets_no_more_than_a_layer_has(data: dict[str, Any]) -> None:
    """Attention weights met are at most those held, and equal unless attention has experts."""
    model = MoEModel.model_validate(data)
    for layer in range(model.num_layers):
        met, held = model.attention_weight_params(layer), model.attention_held_params(layer)
        assert met <= held
        mixer = model.mixer(layer)
        assert met == held or (mixer is not None and mixer.kind == "moa")
    assert sum(map(model.attention_held_params, range(model.num_layers))) == model.parameter_breakdown()["attention"]
