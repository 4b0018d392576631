"""The sections of a model file: which layers are MoE, how experts are shaped and routed, where numbers were read."""

import functools
import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from moesim.attention import Heads, Width
from moesim.provenance import Kind

MOST_LAYERS = 4096
Experts = Annotated[int, Field(strict=True, ge=1, le=16_777_216)]
LayerIndex = Annotated[int, Field(strict=True, ge=0, lt=MOST_LAYERS)]


class Section(BaseModel):
    """A part of a model file: unknown keys are refused, and it never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Origin(Section):
    """Where a number was read, and how it was come by."""

    kind: Kind
    source: str = Field(min_length=3, max_length=1000)


class Layers(Section):
    """Which of the `count` layers are MoE: `first_dense`, then every `every`-th; or the list `moe`.

    The last `cross_attention` layers (a decoder's) also attend to the encoder's output.
    """

    count: Annotated[int, Field(strict=True, ge=1, le=MOST_LAYERS)]
    first_dense: LayerIndex = 0
    every: Annotated[int, Field(strict=True, ge=1, le=MOST_LAYERS)] = 1
    moe: tuple[LayerIndex, ...] | None = Field(default=None, min_length=1, max_length=MOST_LAYERS)
    cross_attention: LayerIndex = 0

    @model_validator(mode="after")
    def _check(self) -> "Layers":
        if self.first_dense >= self.count:
            raise ValueError(f"first_dense={self.first_dense} leaves no MoE layer of count={self.count}; give less")
        if self.cross_attention > self.count:
            raise ValueError(f"cross_attention={self.cross_attention} exceeds count={self.count} layers")
        if self.moe is None:
            return self
        if (self.first_dense, self.every) != (0, 1):
            raise ValueError("give the MoE layers as a list moe, or as first_dense with every, not as both")
        if list(self.moe) != sorted(dict.fromkeys(self.moe)):
            raise ValueError("moe must list layer indices in rising order, each once")
        if self.moe[-1] >= self.count:
            raise ValueError(f"moe names layer {self.moe[-1]}, but count={self.count} layers end at {self.count - 1}")
        return self

    @functools.cached_property
    def moe_indices(self) -> tuple[int, ...]:
        """Model layer indices of the MoE layers, rising."""
        return self.moe if self.moe is not None else tuple(range(self.first_dense, self.count, self.every))


class Router(Section):
    """How a token picks its experts: scores, and the order of scoring and top-k.

    `product_key` (PEER) matches two half queries of width key_width / 2 against sqrt(num_experts) keys each.
    """

    kind: Literal[
        "softmax_top_k",
        "top_k_softmax",
        "softmax_top_2_random",
        "sigmoid_bias",
        "product_key",
    ]
    key_width: Width | None = None

    @model_validator(mode="after")
    def _check(self) -> "Router":
        if (self.kind == "product_key") != (self.key_width is not None):
            raise ValueError(
                f"key_width={self.key_width} does not fit kind={self.kind}; only product_key has, and needs, it"
            )
        return self


class MoE(Section):
    """The MoE part of every MoE layer. Shared experts see every token and are not among `num_experts`.

    `top_k` counts the expert ids of one token over all routing `heads`; `shared_d_ff` is the summed width of the
    shared experts. `gated` experts (SwiGLU and its kin) have three matrices, others two. `payload_width` is the
    width sent to the experts where the model compresses tokens before dispatch; d_model otherwise.
    A token's experts lie in at most `top_groups` of `num_groups` equal groups.
    """

    num_experts: Experts
    top_k: Experts
    heads: Heads = 1
    expert_d_ff: Width
    gated: bool = Field(strict=True)
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
        if self.router.kind == "product_key" and math.isqrt(self.num_experts) ** 2 != self.num_experts:
            raise ValueError(f"num_experts={self.num_experts} is not a square, which router product_key needs")
        return self


class Published(Section):
    """What the makers say the parameters add up to; `tolerance` is the known relative error of our sum."""

    total_params: Annotated[float, Field(ge=1.0, le=1e18, allow_inf_nan=False)]
    tolerance: Annotated[float, Field(ge=0.0, le=0.1, allow_inf_nan=False)]
