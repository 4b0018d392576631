"""Tiny Hugging Face MoE models with random weights, for tests of capture and of permuted checkpoints."""

EXPERTS = 8
COMMON = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "num_experts_per_tok": 2, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
_LOCAL = {"num_local_experts": EXPERTS}
_NUMBERED = {"num_experts": EXPERTS, "moe_intermediate_size": 16}
_ROUTED = {"n_routed_experts": EXPERTS, "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_shared_experts": 1}
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
_HEADS = {"num_key_value_heads": 4}
TYPES = {
    "mixtral": _LOCAL,
    "qwen2_moe": {**_NUMBERED, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**_NUMBERED, "decoder_sparse_step": 1, "mlp_only_layers": []},
    "olmoe": _NUMBERED,
    "flex_olmo": _NUMBERED,
    "gpt_oss": {**_LOCAL, "layer_types": ["full_attention", "full_attention"]},
    "deepseek_v2": {**_ROUTED, **_LATENT, **_HEADS, "n_group": 4, "topk_group": 2, "topk_method": "group_limited_greedy"},
    "deepseek_v3": {**_ROUTED, **_LATENT, **_HEADS, "n_group": 4, "topk_group": 2},
    "glm4_moe": {**_ROUTED, "n_group": 1, "topk_group": 1},
    "dots1": {**_ROUTED, "n_group": 1, "topk_group": 1, "layer_types": ["full_attention", "full_attention"]},
    "granitemoe": _LOCAL,
    "phimoe": _LOCAL,
    "minimax_m2": {**_LOCAL, "rotary_dim": 8},
    "ernie4_5_moe": {"moe_num_experts": EXPERTS, "moe_k": 2, "moe_intermediate_size": 16, "moe_layer_start_index": 0},
    "hunyuan_v1_moe": {**_NUMBERED, "moe_topk": [2, 2], "moe_intermediate_size": [16, 16], "num_shared_expert": [1, 1]},
    "jamba": {**_NUMBERED, "expert_layer_period": 1, "expert_layer_offset": 0, "attn_layer_period": 1,
              "attn_layer_offset": 0, "use_mamba_kernels": False},
    "lfm2_moe": {**_NUMBERED, "num_dense_layers": 1, "layer_types": ["full_attention", "full_attention"]},
    "qwen3_next": {**_NUMBERED, "shared_expert_intermediate_size": 16,
                   "layer_types": ["full_attention", "full_attention"], "mlp_only_layers": []},
    "llama4_text": {**_LOCAL, "intermediate_size_mlp": 48, "interleave_moe_layer_step": 1},
    "jetmoe": {**_LOCAL, "kv_channels": 8},
}  # fmt: skip


def tiny_model(kind):
    """A model of this type with seeded weights, router biases included, ready to run."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(kind, **{**COMMON, **TYPES[kind]})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "bias" in name and tensor.is_floating_point():
                tensor.normal_(0.0, 0.1)
    return model
