"""The sections of a model file: which layers are MoE, how experts are shaped and routed, where numbers were read."""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from moesim.attention import Heads, Width
from moesim.provenance import Kind

MOST_LAYERS = 4096
Experts = Annotated[int, Field(strict=True, ge=1, le=67_108_864)]
LayerIndex = Annotated[int, Field(strict=True, ge=0, lt=MOST_LAYERS)]


class Section(BaseModel):
    """A part of a model file: unknown keys are refused, and it never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Origin(Section):
    """Where a number was read, and how it was come by."""

    kind: Kind
    source: str = Field(min_length=3, max_length=1000)


LayerList = Annotated[tuple[LayerIndex, ...], Field(min_length=1, max_length=MOST_LAYERS)]


class Layers(Section):
    """Which of the `count` layers are MoE: `first_dense`, then every `every`-th; or the list `moe`.

    `attention` lists the layers with the model's `attention`, or every `attention_every`-th has it; all do by default,
    the others have its `other_attention`. With `moe_alone` MoE layers have neither. `attention_blocks` is the number of
    attention blocks in a layer. The last `cross_attention` layers (a decoder's) also attend to the encoder's output.
    `modulation` is the number of d_model x d_model matrices per layer that turn a diffusion model's conditioning into
    shifts, scales and gates; they are applied once per image, not per token.
    """

    count: Annotated[int, Field(strict=True, ge=1, le=MOST_LAYERS)]
    first_dense: LayerIndex = 0
    every: Annotated[int, Field(strict=True, ge=1, le=MOST_LAYERS)] = 1
    moe: LayerList | None = None
    moe_alone: bool = Field(default=False, strict=True)
    attention: LayerList | None = None
    attention_every: Annotated[int, Field(strict=True, ge=1, le=MOST_LAYERS)] = 1
    attention_blocks: Annotated[int, Field(strict=True, ge=1, le=16)] = 1
    cross_attention: LayerIndex = 0
    modulation: Annotated[int, Field(strict=True, ge=0, le=64)] = 0

    @model_validator(mode="after")
    def _check(self) -> "Layers":
        if self.first_dense >= self.count:
            raise ValueError(f"first_dense={self.first_dense} leaves no MoE layer of count={self.count}; give less")
        if self.cross_attention > self.count:
            raise ValueError(f"cross_attention={self.cross_attention} exceeds count={self.count} layers")
        if self.moe is not None and (self.first_dense, self.every) != (0, 1):
            raise ValueError("give the MoE layers as a list moe, or as first_dense with every, not as both")
        if self.attention is not None and self.attention_every != 1:
            raise ValueError("give the layers with attention as a list attention, or as attention_every, not as both")
        for name, listed in (("moe", self.moe), ("attention", self.attention)):
            self._check_list(name, listed or ())
        if self.moe_alone and self.attention and set(self.attention) & set(self.moe_indices):
            raise ValueError("moe_alone: MoE layers have no attention, but the list attention names one of them")
        return self

    def _check_list(self, name: str, listed: tuple[int, ...]) -> None:
        if list(listed) != sorted(dict.fromkeys(listed)):
            raise ValueError(f"{name} must list layer indices in rising order, each once")
        if listed and listed[-1] >= self.count:
            raise ValueError(f"{name} names layer {listed[-1]}, but count={self.count} layers end at {self.count - 1}")

    @functools.cached_property
    def moe_indices(self) -> tuple[int, ...]:
        """Model layer indices of the MoE layers, rising."""
        return self.moe if self.moe is not None else tuple(range(self.first_dense, self.count, self.every))

    @property
    def has_other_attention(self) -> bool:
        """Whether some layers have the model's other_attention."""
        return self.attention is not None or self.attention_every > 1

    @functools.cached_property
    def mixer_kinds(self) -> tuple[Literal["attention", "other_attention"] | None, ...]:
        """For each model layer the section that describes what mixes its tokens, None where nothing does."""
        own = set(range(self.attention_every - 1, self.count, self.attention_every))
        own = own if self.attention is None else set(self.attention)
        alone = set(self.moe_indices) if self.moe_alone else set()
        return tuple(
            None if layer in alone else "attention" if layer in own else "other_attention"
            for layer in range(self.count)
        )


class Router(Section):
    """How a token picks its experts: scores, and the order of scoring and top-k.

    `product_key` (PEER, memory layers) matches two half queries of width key_width / 2 against sqrt(num_experts) keys
    each, which all heads share unless `keys_per_head`. `noisy_top_k` (Shazeer et al. 2017) has a second matrix for its
    noise, and with groups gates for them too.
    In `expert_choice` experts pick tokens: top_k is then the mean number of experts per token.
    """

    kind: Literal[
        "softmax_top_k",
        "top_k_softmax",
        "top_k_sigmoid",
        "softmax_top_2_random",
        "softmax_top_2_threshold",
        "softmax_bias",
        "sigmoid_bias",
        "softplus_bias",
        "sparsemixer",
        "noisy_top_k",
        "expert_choice",
        "product_key",
    ]
    key_width: Width | None = None
    keys_per_head: bool = Field(default=False, strict=True)

    @model_validator(mode="after")
    def _check(self) -> "Router":
        if (self.kind == "product_key") != (self.key_width is not None):
            raise ValueError(
                f"key_width={self.key_width} does not fit kind={self.kind}; only product_key has, and needs, it"
            )
        if self.keys_per_head and self.key_width is None:
            raise ValueError(f"keys_per_head does not fit kind={self.kind}; only product_key has keys")
        return self


class Pool(Section):
    """Experts that only tokens of one modality use: consecutive ids, in the order of the pools."""

    modality: str = Field(pattern=r"^[a-z]+$", max_length=32)
    num_experts: Experts
    expert_d_ff: Width


class MoE(Section):
    """The MoE part of every MoE layer. Shared experts see every token and are not among `num_experts`.

    `top_k` counts the expert ids of one token over all routing `heads`; `shared_d_ff` is the summed width of the
    shared experts. `gated` experts (SwiGLU and its kin) have three matrices, others two. `payload_width` is the
    width sent to the experts where the model compresses tokens before dispatch; d_model otherwise.
    A token's experts lie in at most `top_groups` of `num_groups` equal groups.
    `expert_d_ff` null: an expert is no MLP but one vector of payload_width, as in memory layers. `num_zero_experts`
    counts experts that the router may choose beside `num_experts`; they do nothing, and no token is sent to them.
    With `pools` a token picks among the experts of its modality, and expert_d_ff is the mean width of all.
    `shared_pool`: all MoE layers use one and the same set of experts.
    """

    num_experts: Experts
    top_k: Experts
    heads: Heads = 1
    expert_d_ff: Width | None
    gated: bool = Field(strict=True)
    num_zero_experts: Annotated[int, Field(strict=True, ge=0, le=65_536)] = 0
    pools: tuple[Pool, ...] = Field(default=(), max_length=64)
    shared_pool: bool = Field(default=False, strict=True)
    num_shared_experts: Annotated[int, Field(strict=True, ge=0, le=65_536)] = 0
    shared_d_ff: Annotated[int, Field(strict=True, ge=0, le=16_777_216)] = 0
    payload_width: Width | None = None
    num_groups: Experts = 1
    top_groups: Experts = 1
    router: Router

    @model_validator(mode="after")
    def _check(self) -> "MoE":
        if self.top_k % self.heads:
            raise ValueError(f"heads={self.heads} does not divide top_k={self.top_k}, the ids of all heads together")
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k={self.top_k} exceeds num_experts={self.num_experts}; lower top_k")
        if self.num_experts % self.num_groups:
            raise ValueError(f"num_groups={self.num_groups} does not divide num_experts={self.num_experts}")
        if self.top_groups > self.num_groups:
            raise ValueError(f"top_groups={self.top_groups} exceeds num_groups={self.num_groups}")
        if self.top_k > self.num_experts // self.num_groups * self.top_groups:
            raise ValueError(f"top_k={self.top_k} exceeds the experts of top_groups={self.top_groups} groups")
        if (self.num_shared_experts == 0) != (self.shared_d_ff == 0):
            raise ValueError(
                f"num_shared_experts={self.num_shared_experts} and shared_d_ff={self.shared_d_ff}: only one is 0"
            )
        if self.expert_d_ff is None and self.gated:
            raise ValueError("gated experts are MLPs and need expert_d_ff, got expert_d_ff=None; write gated: false")
        self._check_pools()
        if self.router.kind == "product_key" and math.isqrt(self.num_experts) ** 2 != self.num_experts:
            raise ValueError(f"num_experts={self.num_experts} is not a square, which router product_key needs")
        return self

    def _check_pools(self) -> None:
        if not self.pools:
            return
        total = sum(pool.num_experts for pool in self.pools)
        if total != self.num_experts:
            raise ValueError(f"pools have {total} experts together, but num_experts={self.num_experts}")
        if sum(pool.num_experts * pool.expert_d_ff for pool in self.pools) != total * (self.expert_d_ff or 0):
            raise ValueError(f"expert_d_ff={self.expert_d_ff} is not the mean width over the experts of all pools")
        if self.top_k > min(pool.num_experts for pool in self.pools):
            raise ValueError(f"top_k={self.top_k} exceeds the experts of the smallest pool; lower top_k")


class Published(Section):
    """What the makers say the parameters add up to; `tolerance` is the known relative error of our sum.

    `without_embeddings`: the published figure leaves embedding and output head out.
    """

    total_params: Annotated[float, Field(ge=1.0, le=1e18, allow_inf_nan=False)]
    tolerance: Annotated[float, Field(ge=0.0, le=0.1, allow_inf_nan=False)]
    without_embeddings: bool = Field(default=False, strict=True)


def leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float | str]]:
    """Numbers and texts in the plain data of a section by dotted path; a list is one text."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value:
            yield f"{prefix}{key}", ", ".join(map(_in_words, value))
        elif value is not None and not isinstance(value, bool | list):
            yield f"{prefix}{key}", value


def _in_words(value: object) -> str:
    return " ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def field_paths(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted paths of all fields of `section`, and of the sections below it."""
    for name, field in section.model_fields.items():
        if name not in ("sources", "format_version"):
            yield f"{prefix}{name}"
            for inner in _sections_in(field.annotation):
                yield from field_paths(inner, f"{prefix}{name}.")


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)
