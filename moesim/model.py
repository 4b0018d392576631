"""MoEModel: the dims of one Mixture-of-Experts model, read from models/*.yaml, and the counts that follow from them.

A model file has the sections layers, attention, moe and published; `sources` says where each number was read.
Left out: biases, normalisation weights, multi-token-prediction modules, vision towers, patch embeddings.
Layers are model layer indices, from 0; an encoder-decoder model counts its encoder first.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from moesim.attention import Attention, Width
from moesim.errors import unknown_name
from moesim.model_file import Layers, MoE, Origin, Published, Section, field_paths, leaves
from moesim.provenance import Fact, data_folder
from moesim.yaml_file import read_yaml, validate

# Bytes per element. mxfp4: 4 bits and an 8-bit scale per 32 (OCP Microscaling Formats v1.0, table 1).
# nvfp4 (and plain fp4): 4 bits and an fp8 scale per 16 (NVIDIA, "Introducing NVFP4", 2025).
# fp8: per-tensor or 128x128-block scales add at most 0.03 % and are left out. Others: IEEE 754 and bfloat16 widths.
DTYPE_BYTES: Mapping[str, float] = MappingProxyType(
    {
        "fp32": 4.0,
        "bf16": 2.0,
        "fp16": 2.0,
        "fp8": 1.0,
        "int8": 1.0,
        "mxfp4": 0.53125,
        "nvfp4": 0.5625,
        "fp4": 0.5625,
    }
)


def dtype_bytes(dtype: str) -> float:
    """Bytes per element of `dtype`, block scales included; raises UnknownName.

    >>> dtype_bytes("bf16"), dtype_bytes("mxfp4")
    (2.0, 0.53125)
    """
    if dtype not in DTYPE_BYTES:
        raise unknown_name("dtype", dtype, DTYPE_BYTES)
    return DTYPE_BYTES[dtype]


class MoEModel(Section):
    """One MoE model: read once from its file by `load_model`, never changed. Sizes are counts unless a name says bytes.

    `weight_dtype` is that of the routed and shared experts, `dense_dtype` that of everything else. `other_attention` is
    that of the layers which `layers` leaves out of `attention`. `dense_d_ff` 0: dense layers have no MLP. A vision
    encoder has `num_classes` in place of a vocabulary; that head runs once per image and costs no time here.
    """

    format_version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$", max_length=64)
    family: Literal["decoder", "encoder_decoder", "lstm", "vision_encoder", "diffusion"]
    layers: Layers
    d_model: Width
    attention: Attention | None
    other_attention: Attention | None = None
    moe: MoE
    dense_d_ff: Annotated[int, Field(strict=True, ge=0, le=16_777_216)] | None = None
    dense_gated: bool = Field(default=False, strict=True)
    vocab_size: Width | None
    num_classes: Width | None = None
    tied_embeddings: bool = Field(default=False, strict=True)
    weight_dtype: str
    dense_dtype: str
    published: Published | None = None
    sources: dict[str, Origin] = Field(min_length=1)

    @field_validator("weight_dtype", "dense_dtype")
    @classmethod
    def _known_dtype(cls, dtype: str) -> str:
        if dtype not in DTYPE_BYTES:
            raise ValueError(str(unknown_name("dtype", dtype, DTYPE_BYTES)))
        return dtype

    @model_validator(mode="after")
    def _check(self) -> "MoEModel":
        if self.num_moe_layers < self.num_layers and self.dense_d_ff is None:
            raise ValueError(
                f"{self.num_layers - self.num_moe_layers} dense layers need dense_d_ff, the width of their MLP (0: none)"
            )
        if self.layers.has_other_attention != (self.other_attention is not None):
            raise ValueError(
                "other_attention is that of the layers which layers.attention leaves out: give both or none"
            )
        if (self.family == "encoder_decoder") != (self.layers.cross_attention > 0):
            raise ValueError(f"family {self.family} does not fit cross_attention={self.layers.cross_attention} layers")
        if "*" not in self.sources:
            raise ValueError("sources has no '*', the origin of every number without its own line")
        known = ["*", *dict.fromkeys(field_paths(type(self)))]
        for path in self.sources:
            if path not in known:
                raise ValueError(str(unknown_name("field in sources", path, known)))
        return self

    @property
    def num_layers(self) -> int:
        """Layers, dense and MoE."""
        return self.layers.count

    @property
    def moe_layer_indices(self) -> tuple[int, ...]:
        """Model layer index of each MoE ordinal, rising."""
        return self.layers.moe_indices

    @property
    def num_moe_layers(self) -> int:
        """MoE layers."""
        return len(self.moe_layer_indices)

    @property
    def num_experts(self) -> int:
        """Routed experts of one MoE layer."""
        return self.moe.num_experts

    @property
    def top_k(self) -> int:
        """Expert ids per token, over all routing heads."""
        return self.moe.top_k

    @property
    def num_shared_experts(self) -> int:
        """Experts of one MoE layer that see every token."""
        return self.moe.num_shared_experts

    @property
    def expert_d_ff(self) -> int:
        """Hidden width of one routed expert, the mean where pools differ; 0 where an expert is a vector."""
        return self.moe.expert_d_ff or 0

    @property
    def num_router_targets(self) -> int:
        """What the router chooses among: the routed experts, then the zero experts, to which nothing is sent."""
        return self.num_experts + self.moe.num_zero_experts

    @property
    def num_expert_sets(self) -> int:
        """Sets of routed experts: one per MoE layer, or one for all where they share a pool."""
        return 1 if self.moe.shared_pool else self.num_moe_layers

    @property
    def shared_d_ff(self) -> int:
        """Summed hidden width of the shared experts of one MoE layer; 0 without any."""
        return self.moe.shared_d_ff

    @property
    def gated(self) -> bool:
        """Whether experts have a gate matrix: three matrices, else two."""
        return self.moe.gated

    @property
    def payload_width(self) -> int:
        """Elements of one dispatched token copy."""
        return self.d_model if self.moe.payload_width is None else self.moe.payload_width

    @property
    def num_groups(self) -> int:
        """Equal groups the router first chooses among; 1 without grouping."""
        return self.moe.num_groups

    @property
    def has_heads_merged(self) -> bool:
        """Whether several routing heads pick experts, so that one token may pick an expert twice."""
        return self.moe.heads > 1

    @property
    def expert_params(self) -> int:
        """Weights of one routed expert: (3 if gated else 2) * payload_width * expert_d_ff, or payload_width if a vector.

        The mean expert where pools differ.
        """
        if self.moe.expert_d_ff is None:
            return self.payload_width
        return _mlp_params(self.payload_width, self.expert_d_ff, self.gated)

    def expert_widths(self) -> tuple[tuple[int, int], ...]:
        """(number of experts, hidden width) of each run of equal experts, in the order of their ids."""
        pools = self.moe.pools
        return tuple((p.num_experts, p.expert_d_ff) for p in pools) or ((self.num_experts, self.expert_d_ff),)

    @property
    def shared_params(self) -> int:
        """Weights of the shared experts of one MoE layer: (3 if gated else 2) * d_model * shared_d_ff."""
        return _mlp_params(self.d_model, self.shared_d_ff, self.gated)

    @property
    def router_params(self) -> int:
        """Weights that route one MoE layer, with the projections to and from a narrower payload.

        Experts, zero experts too, * d_model; noisy_top_k (experts and groups) * 2 * d_model; for product keys
        heads * d_model * key_width + sqrt(num_experts) * key_width, the keys once or for each head;
        + 2 * d_model * payload_width where that differs from d_model.
        """
        key_width = self.moe.router.key_width
        projections = 0 if self.payload_width == self.d_model else 2 * self.d_model * self.payload_width
        if self.moe.router.kind == "noisy_top_k":
            groups = self.num_groups if self.num_groups > 1 else 0
            return projections + 2 * (self.num_router_targets + groups) * self.d_model
        if key_width is None:
            return projections + self.num_router_targets * self.d_model
        key_sets = self.moe.heads if self.moe.router.keys_per_head else 1
        return projections + key_width * (self.moe.heads * self.d_model + key_sets * math.isqrt(self.num_experts))

    @property
    def dense_params(self) -> int:
        """Weights of the MLP of one dense layer: (3 if dense_gated else 2) * d_model * dense_d_ff; 0 without any."""
        return _mlp_params(self.d_model, self.dense_d_ff or 0, self.dense_gated)

    @property
    def attention_params(self) -> int:
        """Weights of one block of `attention` (formula: `weight_params` of its kind); 0 without attention."""
        return 0 if self.attention is None else self.attention.weight_params(self.d_model)

    def mixer(self, layer: int) -> Attention | None:
        """What mixes the tokens of model layer `layer`: attention of some kind, or nothing."""
        kind = self.layers.mixer_kinds[layer]
        return None if kind is None else self.attention if kind == "attention" else self.other_attention

    def attention_blocks(self, layer: int) -> int:
        """Blocks of attention in model layer `layer`, cross-attention among them."""
        crosses = layer >= self.num_layers - self.layers.cross_attention
        return self.layers.attention_blocks + crosses

    @property
    def embedding_params(self) -> int:
        """Weights of token embedding and head: vocab_size * d_model * (1 if tied_embeddings else 2), and classes."""
        tokens = (self.vocab_size or 0) * (1 if self.tied_embeddings else 2)
        return (tokens + (self.num_classes or 0)) * self.d_model

    def attention_weight_params(self, layer: int) -> int:
        """Attention weights that a token meets in model layer `layer`, over all its blocks."""
        mixer = self.mixer(layer)
        return 0 if mixer is None else self.attention_blocks(layer) * mixer.used_params(self.d_model)

    def attention_held_params(self, layer: int) -> int:
        """Attention weights that model layer `layer` has, experts that a token does not meet included."""
        mixer = self.mixer(layer)
        return 0 if mixer is None else self.attention_blocks(layer) * mixer.weight_params(self.d_model)

    def parameter_breakdown(self) -> dict[str, int]:
        """Weights of the whole model by part; the values add up to `total_params`."""
        moe = self.num_moe_layers
        return {
            "experts": self.num_expert_sets * self.num_experts * self.expert_params,
            "shared_experts": moe * self.shared_params,
            "routers": moe * self.router_params,
            "dense_mlps": (self.num_layers - moe) * self.dense_params,
            "attention": sum(self.attention_held_params(layer) for layer in range(self.num_layers)),
            "modulation": self.num_layers * self.layers.modulation * self.d_model**2,
            "embeddings": self.embedding_params,
        }

    @property
    def total_params(self) -> int:
        """Weights of the whole model."""
        return sum(self.parameter_breakdown().values())

    def expert_bytes(self, dtype: str | None = None) -> float:
        """Bytes of one routed expert's weights in `dtype` (default `weight_dtype`); raises UnknownName."""
        return self.expert_params * dtype_bytes(self.weight_dtype if dtype is None else dtype)

    def weight_bytes(self, dtype: str | None = None) -> float:
        """Bytes of all weights: all experts in `dtype` (default `weight_dtype`), others in `dense_dtype`."""
        breakdown = self.parameter_breakdown()
        experts = breakdown["experts"] + breakdown["shared_experts"]
        expert_bytes = experts * dtype_bytes(self.weight_dtype if dtype is None else dtype)
        return expert_bytes + (self.total_params - experts) * dtype_bytes(self.dense_dtype)

    def kv_bytes_per_token(self, dtype: str = "bf16", layer: int | None = None) -> float:
        """Bytes cached per token in model layer `layer`; None: in one block of `attention`.

        2 * kv_heads * head_dim elements; kv_lora + qk_rope if latent; none where a layer keeps a state instead.
        """
        mixer = self.attention if layer is None else self.mixer(layer)
        blocks = 1 if layer is None else self.layers.attention_blocks
        return 0.0 if mixer is None else blocks * mixer.kv_elements_per_token * dtype_bytes(dtype)

    def cache_bytes(self, context_length: float, layer: int, dtype: str = "bf16") -> float:
        """Bytes that a running sequence of `context_length` tokens holds in model layer `layer`: cache and state."""
        mixer = self.mixer(layer)
        if mixer is None:
            return 0.0
        index = context_length * mixer.index_elements_per_token
        cached = mixer.cached_tokens(layer, context_length) * mixer.kv_elements_per_token + index
        return self.layers.attention_blocks * (cached * dtype_bytes(dtype) + self._state_bytes(layer))

    def cache_read_bytes(self, context_length: float, layer: int, dtype: str = "bf16") -> float:
        """Bytes that one decode token moves in model layer `layer`: what it attends to; a state is written back too."""
        mixer = self.mixer(layer)
        if mixer is None:
            return 0.0
        index = context_length * mixer.index_elements_per_token
        attended = mixer.attended_tokens(layer, context_length) * mixer.kv_elements_per_token + index
        return self.layers.attention_blocks * (attended * dtype_bytes(dtype) + 2 * self._state_bytes(layer))

    def _state_bytes(self, layer: int) -> float:
        mixer = self.mixer(layer)
        return 0.0 if mixer is None else mixer.state_elements * dtype_bytes("fp32")

    def attended_tokens(self, context_length: float, layer: int) -> float:
        """Cached entries that a token with `context_length` before it looks at in model layer `layer`."""
        mixer = self.mixer(layer)
        return 0.0 if mixer is None else mixer.attended_tokens(layer, context_length)

    def score_flops_per_token(self, context_length: float, layer: int, *, absorbed: bool = False) -> float:
        """FLOP of QK^T and AV for one token that sees `context_length` tokens, in model layer `layer`.

        4 * heads * head_dim * attended tokens; latent attention 2 * heads * (qk_nope + qk_rope + v_dim) * attended,
        or with `absorbed` (decode) 2 * heads * (2 * kv_lora + qk_rope) * attended; other kinds say it themselves.
        """
        mixer = self.mixer(layer)
        if mixer is None:
            return 0.0
        return self.layers.attention_blocks * mixer.score_flops(layer, context_length, absorbed=absorbed)

    def origin_of(self, path: str) -> Origin:
        """Where the number at dotted `path` was read: its own line in `sources`, else its section's, else '*'."""
        for key in (path, path.split(".")[0], "*"):
            if key in self.sources:
                return self.sources[key]
        raise AssertionError("sources has '*', checked on reading")

    def facts(self) -> dict[str, Fact]:
        """Every number and dtype of the file by dotted path, with its source and kind."""
        values = leaves(self.model_dump(mode="json", exclude={"format_version", "name", "family", "sources"}))
        return {path: Fact(value=value, **self.origin_of(path).model_dump()) for path, value in values}


def _mlp_params(width: int, d_ff: int, gated: bool) -> int:
    return (3 if gated else 2) * width * d_ff


def list_models() -> list[str]:
    """Names of the models in the drawer models/, sorted."""
    return sorted(path.stem for path in data_folder("models").glob("*.yaml"))


def load_model(name_or_path: str | Path) -> MoEModel:
    """The model of a name in models/, or of a path (one with a folder or a .yaml/.yml ending).

    Raises UnknownName with the nearest known name, and InputError for a file that is no valid model.
    """
    text = str(name_or_path)
    path = Path(name_or_path)
    if not (len(path.parts) > 1 or path.suffix in (".yaml", ".yml")):
        if text not in list_models():
            raise unknown_name("model", text, list_models())
        path = data_folder("models") / f"{text}.yaml"
    return validate(MoEModel, read_yaml(path), str(path))


def summarise_model(model: MoEModel) -> dict[str, Any]:
    """What `moesim model show` says: dims, weights by part, bytes, and the origin of every number."""
    return {
        "name": model.name,
        "layers": model.num_layers,
        "moe_layers": model.num_moe_layers,
        "d_model": model.d_model,
        "experts": model.num_experts,
        "top_k": model.top_k,
        "shared_experts": model.num_shared_experts,
        "expert_d_ff": model.expert_d_ff,
        "groups": model.num_groups,
        "weight_dtype": model.weight_dtype,
        "expert_params": model.expert_params,
        "total_params": model.total_params,
        "published_params": None if model.published is None else model.published.total_params,
        "weight_bytes": model.weight_bytes(),
        "parameters": model.parameter_breakdown(),
        "sources": {path: f"{fact.kind}: {fact.source}" for path, fact in model.facts().items()},
    }
