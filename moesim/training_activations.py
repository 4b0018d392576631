"""Bytes that a training step keeps of one token for the backward pass, by layer; pure arithmetic.

Every tensor that a backward GEMM, norm, activation or softmax reads again is counted once, as Korthikanti et al. 2022
(arXiv:2205.05198, section 4.1) count them: for a GPT layer of width h, a heads, s tokens: 34 h + 5 a s bytes a token in
16 bits with dropout. Their 34 h: norms 4 h, attention 11 h, MLP 19 h. Sequence parallelism is assumed where tp > 1, so
all of it is divided by tp. Left out: what a fused kernel keeps per row (the log-sum-exp: 4 bytes a head), small gates.
"""

from dataclasses import dataclass
from typing import Literal

from moesim.attention import CompressedAttention, ExpertAttention, GroupedAttention, LatentAttention, LinearAttention
from moesim.model import MoEModel, dtype_bytes

Recompute = Literal["none", "selective", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTensors:
    """How activations are kept: their type, and which kernels and options decide what there is to keep.

    `fused_attention`: scores are never kept (FlashAttention; the same as recomputing them). `dropout`: masks of one byte
    are kept beside what they fall on. `pairs_per_token`: (token, expert) pairs a device computes over its own tokens;
    None = the model's top-k, an even load.
    """

    dtype: str = "bf16"
    fused_attention: bool = True
    dropout: bool = False
    pairs_per_token: float | None = None


def layer_bytes(
    model: MoEModel, layer: int, sequence_length: int, recompute: Recompute = "none", kept: KeptTensors | None = None
) -> float:
    """Bytes kept per token of model layer `layer`.

    none: everything; selective: without what is cheap to make again, as DeepSeek-V3 does (arXiv:2412.19437, 3.2.3):
    scores, outputs of norms and of activation functions, heads made from a latent; full: the layer's input alone.
    """
    kept = kept or KeptTensors()
    element = dtype_bytes(kept.dtype)
    if recompute == "full":
        return model.d_model * element
    light = recompute == "selective"
    attention = attention_bytes(model, layer, sequence_length, light, kept)
    if layer in model.moe_layer_indices:
        return attention + moe_bytes(model, light, kept)
    return attention + _mlp_block(model, light, kept, element)


def attention_bytes(model: MoEModel, layer: int, sequence_length: int, light: bool, kept: KeptTensors) -> float:
    """Bytes per token of the blocks of attention of a layer, each with the norm before it; `light`: selective.

    Norm input h, its output h, queries, keys, values and the heads' output, each x dtype; not fused: a s softmax outputs,
    and with dropout a s masks and a s dropped scores.
    """
    mixer = model.mixer(layer)
    if mixer is None:
        return 0.0
    element = dtype_bytes(kept.dtype)
    inputs, heads_out, num_heads = _mixer_elements(model, layer, light)
    block = (model.d_model * (1 if light else 2) + inputs + heads_out) * element
    if kept.dropout:
        block += model.d_model
    if not kept.fused_attention and not light:
        block += num_heads * sequence_length * ((2 * element + 1) if kept.dropout else element)
    return model.attention_blocks(layer) * block


def moe_bytes(model: MoEModel, light: bool, kept: KeptTensors) -> float:
    """Bytes per token of the MoE part of a layer, on the device that computes the pairs; loads as `kept` says.

    Norm input and output h each, the router's scores (float32), per pair: the dispatched copy, the hidden layers of the
    expert, and its output (read again for the gate weights' gradient); hidden layers of the shared experts.
    """
    element = dtype_bytes(kept.dtype)
    pairs = model.top_k if kept.pairs_per_token is None else kept.pairs_per_token
    hidden = hidden_copies(gated=model.gated, light=light)
    each = 2 * model.payload_width + hidden * model.expert_d_ff
    token = model.d_model * (1 if light else 2) + hidden * model.shared_d_ff
    mask = model.d_model if kept.dropout else 0
    return (token + pairs * each) * element + model.num_router_targets * dtype_bytes("fp32") + mask


def head_bytes(model: MoEModel, kept: KeptTensors | None = None) -> float:
    """Bytes per token of the last norm and the output head: norm input and output, logits in float32."""
    element = dtype_bytes((kept or KeptTensors()).dtype)
    return 2 * model.d_model * element + (model.vocab_size or 0) * dtype_bytes("fp32")


def hidden_copies(*, gated: bool, light: bool) -> int:
    """Tensors of the hidden width kept: before the activation (two where gated), and after it unless made again."""
    return (2 if gated else 1) + (0 if light else 1)


def _mlp_block(model: MoEModel, light: bool, kept: KeptTensors, element: float) -> float:
    """Norm input and output, hidden layers, and the dropout mask of a dense MLP; nothing where there is none."""
    if not model.dense_d_ff:
        return 0.0
    hidden = hidden_copies(gated=model.dense_gated, light=light) * model.dense_d_ff
    return (model.d_model * (1 if light else 2) + hidden) * element + (model.d_model if kept.dropout else 0)


def _mixer_elements(model: MoEModel, layer: int, light: bool) -> tuple[float, float, int]:
    """Elements per token of queries, keys and values; of the heads' output; heads that have scores."""
    mixer = model.mixer(layer)
    if isinstance(mixer, LatentAttention):
        latent = mixer.q_lora + mixer.kv_lora + mixer.qk_rope
        expanded = mixer.heads * (2 * (mixer.qk_nope + mixer.qk_rope) + mixer.v_dim)
        return latent + (0 if light else expanded), mixer.heads * mixer.v_dim, mixer.heads
    if isinstance(mixer, GroupedAttention):
        queries = mixer.heads * mixer.head_dim
        return queries + mixer.kv_elements_per_token, mixer.heads * mixer.value_dim, mixer.heads
    if isinstance(mixer, CompressedAttention):
        width = mixer.heads * mixer.head_dim
        return mixer.q_lora + mixer.head_dim + (0 if light else width), width, mixer.heads
    if isinstance(mixer, ExpertAttention):
        heads = mixer.top_k * mixer.kv_heads
        return heads * mixer.head_dim + mixer.kv_elements_per_token, heads * mixer.head_dim, heads
    if isinstance(mixer, LinearAttention):
        keys, values = mixer.key_heads * mixer.key_dim, mixer.value_heads * mixer.value_dim
        return 2 * keys + 2 * values, values, 0
    assert mixer is not None  # the caller has looked
    return 4.0 * mixer.state_elements, model.d_model, 0  # an LSTM: its four gates and its cells, and what it gives
