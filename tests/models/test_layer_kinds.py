"""Layers that are more than attention beside an MoE: each kind worked by hand on a model that has it."""

import pytest

from moesim.attention import CompressedAttention, GroupedAttention, Indexer
from moesim.memory import slot_bytes
from moesim.model import load_model


def test_lstm_layers_stand_beside_a_lone_moe_layer() -> None:
    """Shazeer 2017: LSTM, MoE, LSTM; 8 cells x d_model weights, a state instead of a cache, no attention in the MoE."""
    model = load_model("shazeer2017-moe256h")
    assert [8 * 512 * 512, 0, 8 * 512 * 512] == [model.attention_weight_params(layer) for layer in range(3)]
    assert (1,) == model.moe_layer_indices
    assert (0, 0.0, 0.0) == (
        model.dense_params,
        model.kv_bytes_per_token("bf16", 0),
        model.score_flops_per_token(99, 0),
    )
    assert 2 * 512 * 4.0 == model.cache_bytes(10, 0) == model.cache_bytes(1000, 0)
    assert 2 * model.cache_bytes(10, 0) == model.cache_read_bytes(10, 0)


def test_noisy_gates_have_two_matrices_and_gate_groups_too() -> None:
    """Hierarchical gating of 256 experts in 32 groups: gate and noise, for experts and for groups."""
    assert 2 * 512 * (256 + 32) == load_model("shazeer2017-moe256h").router_params
    assert 2 * 512 * 32 == load_model("shazeer2017-moe32").router_params


def test_a_projected_lstm() -> None:
    """4096 cells projected to 1024: four gates from input and output, and the projection."""
    assert 4 * 4096 * 2048 + 4096 * 1024 == load_model("shazeer2017-moe143m").attention_params


def test_zero_experts_are_routed_to_but_not_held() -> None:
    """LongCat-Flash: the router chooses among 768, weights exist for 512."""
    model = load_model("longcat-flash")
    assert (512, 768, 768 * 6144) == (model.num_experts, model.num_router_targets, model.router_params)
    assert 28 * 512 * 3 * 6144 * 2048 == model.parameter_breakdown()["experts"]


def test_two_attention_blocks_a_layer() -> None:
    """LongCat-Flash: weights, cache and scores of two blocks in every layer."""
    model = load_model("longcat-flash")
    assert 2 * model.attention_params == model.attention_weight_params(5)
    assert 2 * 576 * 2.0 == model.kv_bytes_per_token("bf16", 5) == model.cache_bytes(1, 5)
    assert 2 * 2 * 64 * 320 * 100 == model.score_flops_per_token(100, 5)


def test_every_fourth_layer_attends_and_the_others_keep_a_state() -> None:
    """Qwen3-Next: gated attention in layers 3, 7, ...; gated delta nets elsewhere, of 32 x 128 x 128 float32 numbers."""
    model = load_model("qwen3-next-80b-a3b")
    kinds = [None if mixer is None else mixer.kind for mixer in map(model.mixer, range(8))]
    assert ["linear", "linear", "linear", "gqa"] * 2 == kinds
    assert 2048 * (2 * 16 * 128 + 3 * 32 * 128) == model.attention_weight_params(0)
    assert 2048 * 256 * (3 * 16 + 2 * 2) == model.attention_weight_params(3)
    state = 32 * 128 * 128
    assert (4.0 * state, 8.0 * state, 4.0 * state) == (
        model.cache_bytes(5000, 0), model.cache_read_bytes(5000, 0), model.score_flops_per_token(5000, 0)
    )  # fmt: skip
    assert 5000 * 2 * 2 * 256 * 2.0 == model.cache_bytes(5000, 3)


def test_layers_of_one_kind_only() -> None:
    """Nemotron-3: an MoE layer mixes no tokens, a Mamba-2 or attention layer has no MLP."""
    model = load_model("nemotron3-super")
    kinds = [None if mixer is None else mixer.kind for mixer in map(model.mixer, range(9))]
    assert ["linear", None, "linear", None, "linear", None, "linear", "gqa", None] == kinds
    assert [index for index, kind in enumerate(kinds) if kind is None] == [1, 3, 5, 8]
    assert (0, 0.0, 0.0) == (model.attention_weight_params(1), model.cache_bytes(9, 1), model.attended_tokens(9, 1))
    assert 0 == model.dense_params


def test_latent_width_dispatch() -> None:
    """Nemotron-3 sends 1024 of 4096 numbers: experts work at that width, shared ones at the full one."""
    model = load_model("nemotron3-super")
    assert (1024, 2 * 1024 * 2688, 2 * 4096 * 5376) == (model.payload_width, model.expert_params, model.shared_params)
    assert 512 * 4096 + 2 * 4096 * 1024 == model.router_params


def test_windowed_layers_with_heads_of_their_own() -> None:
    """Gemma 4: 1024 tokens and eight key heads, but every sixth layer sees all through two heads whose keys are values."""
    model = load_model("gemma4-26b-a4b")
    assert [1024] * 5 + [9000] == [model.attended_tokens(9000, layer) for layer in range(6)]
    assert 2816 * 256 * (16 + 16 + 8 + 8) == model.attention_weight_params(0)
    assert 2816 * 512 * (16 + 16 + 2) == model.attention_weight_params(5)
    assert (8 * 2 * 256 * 2.0, 2 * 512 * 2.0) == tuple(model.kv_bytes_per_token("bf16", layer) for layer in (0, 5))


def test_values_may_be_narrower_than_keys() -> None:
    """MiMo-V2-Flash: keys of 192, values of 128."""
    model = load_model("mimo-v2-flash")
    assert 4096 * (64 * (192 + 128) + 4 * (192 + 128)) == model.attention_params
    assert 2 * 64 * (192 + 128) * 50 == model.score_flops_per_token(50, 0)


def test_an_indexer_reads_all_and_attends_to_some() -> None:
    """DeepSeek-V3.2: 128 index numbers of every token are read, the latents of 2048 of them; all are kept."""
    model, context = load_model("deepseek-v32"), 100_000
    assert (context * 128 + 2048 * 576) * 2.0 == model.cache_read_bytes(context, 0)
    assert context * (128 + 576) * 2.0 == model.cache_bytes(context, 0)
    assert 2 * 64 * 128 * context + 2 * 128 * (2 * 512 + 64) * 2048 == model.score_flops_per_token(
        context, 0, absorbed=True
    )
    assert load_model("deepseek-v3").total_params == model.total_params


def test_grouped_attention_with_an_indexer_keeps_every_key() -> None:
    """Block-sparse attention chooses 10 tokens of 50, but any may be chosen next."""
    indexer = Indexer(heads=2, dim=4, top_tokens=10)
    attention = GroupedAttention(kind="gqa", heads=8, kv_heads=2, head_dim=16, indexer=indexer)
    assert (10, 50, 4) == (
        attention.attended_tokens(0, 50), attention.cached_tokens(0, 50), attention.index_elements_per_token
    )  # fmt: skip
    assert 4 * 8 * 16 * 10 + 2 * 2 * 4 * 50 == attention.score_flops(0, 50, absorbed=False)


def test_compressed_attention() -> None:
    """A window of 100 and one entry per 4 tokens, 20 of them chosen: 120 of 350 entries are looked at."""
    attention = CompressedAttention(
        kind="compressed", heads=2, head_dim=8, q_lora=4, o_lora=6, o_groups=2, window=100, ratio=4,
        indexer=Indexer(heads=1, dim=16, top_tokens=20),
    )  # fmt: skip
    assert (120, 350) == (attention.attended_tokens(0, 1000), attention.cached_tokens(0, 1000))
    assert 4 * 2 * 8 * 120 + 2 * 16 * 250 == attention.score_flops(0, 1000, absorbed=True)
    # queries 32 -> 4 -> 16, entries 32 -> 8, output two groups of 8 -> 6 each, then 12 -> 32
    assert 32 * 4 + 4 * 16 + 32 * 8 + 16 * 6 + 12 * 32 == attention.weight_params(32)
    assert (8, 4.0) == (attention.kv_elements_per_token, attention.index_elements_per_token)


def test_attention_with_experts() -> None:
    """JetMoE: eight query and output matrices, of which a token meets two; one key and one value matrix."""
    model = load_model("jetmoe-8b")
    matrix = 2048 * 2048
    assert (2 * 9 * matrix, 2 * 3 * matrix) == (model.attention_held_params(0), model.attention_weight_params(0))
    assert 24 * 2 * 9 * matrix == model.parameter_breakdown()["attention"]
    assert 4 * 2 * 16 * 128 * 1000 == model.score_flops_per_token(1000, 0)


def test_experts_that_are_vectors_in_one_pool() -> None:
    """Memory+: a value is one vector of d_model; three layers share them, so a slot weighs a third in each."""
    model = load_model("memory-plus-1p3b-1m")
    assert (2048, 0, 128) == (model.expert_params, model.expert_d_ff, model.top_k)
    assert 1_048_576 * 2048 == model.parameter_breakdown()["experts"]
    assert 4 * 2048 * 1024 + 4 * 1024 * 1024 == model.router_params
    assert 2048 * 2 / 3 == slot_bytes(model, "bf16")


def test_vision_classes_and_diffusion_modulation() -> None:
    """A vision encoder has classes in place of a vocabulary, a diffusion layer six d_model x d_model matrices more."""
    vision, diffusion = load_model("vmoe-b-16"), load_model("dit-moe-s-2-8e2a")
    assert (None, 21_843 * 768) == (vision.vocab_size, vision.embedding_params)
    assert 12 * 6 * 384 * 384 == diffusion.parameter_breakdown()["modulation"]
    assert 0 == vision.parameter_breakdown()["modulation"] == diffusion.embedding_params


def test_pools_by_modality() -> None:
    """ERNIE-4.5-VL: wide experts for text, narrow ones for images; the mean expert makes the sum right."""
    model = load_model("ernie45-vl-28b-a3b")
    assert ((64, 1536), (64, 512)) == model.expert_widths()
    assert 27 * 64 * 3 * 2560 * (1536 + 512) == model.parameter_breakdown()["experts"]
    assert ((512, 2048),) == load_model("longcat-flash").expert_widths()


@pytest.mark.parametrize("name", ["gpt-oss-20b", "llama4-scout"])
def test_windows_alternate(name: str) -> None:
    """Most layers see a window, every full_every-th sees everything."""
    model = load_model(name)
    attention = model.attention
    assert isinstance(attention, GroupedAttention) and attention.full_every is not None
    seen = [model.attended_tokens(50_000, layer) for layer in range(attention.full_every)]
    assert [attention.window] * (attention.full_every - 1) + [50_000] == seen
