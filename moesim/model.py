"""MoEModel: the dims of one Mixture-of-Experts model, read from models/*.yaml, and the counts that follow from them.

A model file has the sections layers, attention, moe and published; `sources` says where each number was read.
Left out: biases, normalisation weights, multi-token-prediction modules, vision towers.
Layers are model layer indices, from 0; an encoder-decoder model counts its encoder first.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, field_validator, model_validator

from moesim.attention import Attention, Width
from moesim.errors import unknown_name
from moesim.model_file import Layers, MoE, Origin, Published, Section
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

    `weight_dtype` is that of the routed and shared experts, `dense_dtype` that of everything else.
    """

    format_version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$", max_length=64)
    family: Literal["decoder", "encoder_decoder"]
    layers: Layers
    d_model: Width
    attention: Attention | None
    moe: MoE
    dense_d_ff: Width | None = None
    dense_gated: bool = Field(default=False, strict=True)
    vocab_size: Width | None
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
                f"{self.num_layers - self.num_moe_layers} dense layers need dense_d_ff, the width of their MLP"
            )
        if (self.family == "encoder_decoder") != (self.layers.cross_attention > 0):
            raise ValueError(f"family {self.family} does not fit cross_attention={self.layers.cross_attention} layers")
        if "*" not in self.sources:
            raise ValueError("sources has no '*', the origin of every number without its own line")
        known = ["*", *dict.fromkeys(_field_paths(type(self)))]
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
        """Hidden width of one routed expert."""
        return self.moe.expert_d_ff

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
        """Weights of one routed expert: (3 if gated else 2) * payload_width * expert_d_ff."""
        return _mlp_params(self.payload_width, self.expert_d_ff, self.gated)

    @property
    def shared_params(self) -> int:
        """Weights of the shared experts of one MoE layer: (3 if gated else 2) * d_model * shared_d_ff."""
        return _mlp_params(self.d_model, self.shared_d_ff, self.gated)

    @property
    def router_params(self) -> int:
        """Weights that route one MoE layer, with the projections to and from a narrower payload.

        num_experts * d_model; for product keys heads * d_model * key_width + sqrt(num_experts) * key_width, the keys
        being shared by the heads; + 2 * d_model * payload_width where that differs from d_model.
        """
        key_width = self.moe.router.key_width
        projections = 0 if self.payload_width == self.d_model else 2 * self.d_model * self.payload_width
        if key_width is None:
            return projections + self.num_experts * self.d_model
        return projections + key_width * (self.moe.heads * self.d_model + math.isqrt(self.num_experts))

    @property
    def dense_params(self) -> int:
        """Weights of the MLP of one dense layer: (3 if dense_gated else 2) * d_model * dense_d_ff; 0 without any."""
        return _mlp_params(self.d_model, self.dense_d_ff or 0, self.dense_gated)

    @property
    def attention_params(self) -> int:
        """Weights of one self-attention block (formula: `weight_params` of its kind); 0 without attention."""
        return 0 if self.attention is None else self.attention.weight_params(self.d_model)

    @property
    def embedding_params(self) -> int:
        """Weights of token embedding and output head: vocab_size * d_model * (1 if tied_embeddings else 2)."""
        return (self.vocab_size or 0) * self.d_model * (1 if self.tied_embeddings else 2)

    def attention_weight_params(self, layer: int) -> int:
        """Attention weights that a token meets in model layer `layer`: twice a block where there is cross-attention."""
        return self.attention_params * (2 if layer >= self.num_layers - self.layers.cross_attention else 1)

    def parameter_breakdown(self) -> dict[str, int]:
        """Weights of the whole model by part; the values add up to `total_params`."""
        moe = self.num_moe_layers
        return {
            "experts": moe * self.num_experts * self.expert_params,
            "shared_experts": moe * self.shared_params,
            "routers": moe * self.router_params,
            "dense_mlps": (self.num_layers - moe) * self.dense_params,
            "attention": (self.num_layers + self.layers.cross_attention) * self.attention_params,
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

    def kv_bytes_per_token(self, dtype: str = "bf16") -> float:
        """Bytes cached per token in one layer: 2 * kv_heads * head_dim elements; kv_lora + qk_rope if latent."""
        return 0.0 if self.attention is None else self.attention.kv_elements_per_token * dtype_bytes(dtype)

    def attended_tokens(self, context_length: float, layer: int | None = None) -> float:
        """Tokens that a token with `context_length` before it looks at in model layer `layer`; None ignores windows."""
        if self.attention is None or layer is None:
            return context_length
        return self.attention.attended_tokens(layer, context_length)

    def score_flops_per_token(
        self, context_length: float, layer: int | None = None, *, absorbed: bool = False
    ) -> float:
        """FLOP of QK^T and AV for one token that sees `context_length` tokens, in one layer.

        4 * heads * head_dim * attended tokens; latent attention 2 * heads * (qk_nope + qk_rope + v_dim) * attended,
        or with `absorbed` (decode) 2 * heads * (2 * kv_lora + qk_rope) * attended.
        """
        if self.attention is None:
            return 0.0
        return self.attention.score_flops(self.attended_tokens(context_length, layer), absorbed=absorbed)

    def origin_of(self, path: str) -> Origin:
        """Where the number at dotted `path` was read: its own line in `sources`, else its section's, else '*'."""
        for key in (path, path.split(".")[0], "*"):
            if key in self.sources:
                return self.sources[key]
        raise AssertionError("sources has '*', checked on reading")

    def facts(self) -> dict[str, Fact]:
        """Every number and dtype of the file by dotted path, with its source and kind."""
        leaves = _leaves(self.model_dump(mode="json", exclude={"format_version", "name", "family", "sources"}))
        return {path: Fact(value=value, **self.origin_of(path).model_dump()) for path, value in leaves}


def _mlp_params(width: int, d_ff: int, gated: bool) -> int:
    return (3 if gated else 2) * width * d_ff


def _leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float | str]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        elif value is not None and not isinstance(value, bool):
            yield f"{prefix}{key}", value


def _field_paths(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted paths of all fields of `section`, and of the sections below it."""
    for name, field in section.model_fields.items():
        if name not in ("sources", "format_version"):
            yield f"{prefix}{name}"
            for inner in _sections_in(field.annotation):
                yield from _field_paths(inner, f"{prefix}{name}.")


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


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
