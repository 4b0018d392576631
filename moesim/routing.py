"""RoutingTrace: which tokens went to which experts, as the handle of a trace file or as dealt steps.

Array letters: L the trace's MoE layers in order, T token (one axis shared by all layers), K top-k.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from moesim.errors import InputError

FORMAT_VERSION = 1
MOST_EXPERTS = 2**26  # bounds on what a file may claim: the largest model known, and small enough to count in memory
MOST_RANKS = 2**24
MOST_TOP_K = 2**16
MOST_CELLS = 2**27  # layers x experts: one int64 count each is 1 GiB
MOST_TOKENS = 2**50


class TraceInfo(BaseModel):
    """What a trace says about itself: the JSON object under the key `moesim` of the Parquet schema metadata.

    `layers` are model layer indices, ascending. `num_tokens` counts distinct tokens, each of which has a row in every
    layer. Steps are 0..num_steps-1, ranks 0..num_ranks-1. A count-level trace of an unknown model has `top_k` and
    `num_tokens` 0 (unknown). `notes` are the assumptions made on the way here; results repeat them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    format_version: Literal[1] = 1
    level: Literal["token", "count"]
    model: str | None = Field(default=None, max_length=200)
    num_experts: int = Field(ge=1, le=MOST_EXPERTS, strict=True)
    top_k: int = Field(ge=0, le=MOST_TOP_K, strict=True)
    layers: tuple[int, ...] = Field(min_length=1, max_length=2**15)
    num_tokens: int = Field(ge=0, le=MOST_TOKENS, strict=True)
    num_ranks: int = Field(default=1, ge=1, le=MOST_RANKS, strict=True)
    num_steps: int = Field(default=1, ge=1, le=2**31 - 1, strict=True)
    has_weights: bool = Field(default=False, strict=True)
    has_sequences: bool = Field(default=False, strict=True)
    origin: str = Field(default="", max_length=10_000)
    recorder: str = Field(default="", max_length=10_000)
    seed: int | None = None
    losses: dict[str, float] | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.layers[0] < 0 or self.layers[-1] >= 2**15 or any(np.diff(self.layers) <= 0):
            raise ValueError(f"layers must ascend within 0..{2**15 - 1} without a repeat, got {self.layers[:8]}")
        if self.num_experts * len(self.layers) > MOST_CELLS:
            raise ValueError(f"{len(self.layers)} layers x {self.num_experts} experts are more than {MOST_CELLS}")
        if self.level == "token" and not (self.top_k and self.num_tokens):
            raise ValueError(
                f"a token-level trace needs top_k and num_tokens >= 1, got {self.top_k}, {self.num_tokens}"
            )
        if self.level == "token" and self.num_steps > self.num_tokens:
            raise ValueError(f"num_steps={self.num_steps} is more than num_tokens={self.num_tokens}")
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k={self.top_k} is more than num_experts={self.num_experts}")
        if self.level == "count" and (self.has_weights or self.has_sequences):
            raise ValueError("a count-level trace has neither weights nor sequences")
        return self

    @property
    def num_layers(self) -> int:
        """MoE layers in the trace."""
        return len(self.layers)

    @property
    def has_own_deal(self) -> bool:
        """Whether the file says which rank or step a token belongs to (more than one of either)."""
        return self.num_ranks > 1 or self.num_steps > 1


@dataclass(frozen=True, slots=True)
class RoutingTrace:
    """A trace file that was opened and found to be one: its header and where it lies; `moesim.trace` reads the rows."""

    info: TraceInfo
    path: Path


@dataclass(frozen=True, slots=True)
class DealtStep:
    """The tokens of one step, each on the rank that computes it, and the experts it goes to in every layer.

    `rank_T` int32 ascends; `experts_LTK` int32 has -1 (no expert) only at the end of a row; `weights_LTK` float32 gate
    weights, 0 beside -1, or None; `fill` = tokens here / tokens asked for, 0..1 (1 when no number was asked for).
    """

    step: int
    rank_T: NDArray[np.int32]
    experts_LTK: NDArray[np.int32]
    weights_LTK: NDArray[np.float32] | None
    fill: float

    def __post_init__(self) -> None:
        if self.experts_LTK.ndim != 3 or self.rank_T.shape != self.experts_LTK.shape[1:2]:
            raise InputError(
                f"step {self.step}: experts must be [layers, tokens, top_k] and rank [tokens], "
                f"got shapes {self.experts_LTK.shape} and {self.rank_T.shape}"
            )
        if self.rank_T.dtype != np.int32 or self.experts_LTK.dtype != np.int32:
            raise InputError(
                f"step {self.step}: rank and experts must be int32, got {self.rank_T.dtype}, {self.experts_LTK.dtype}"
            )
        weights = self.weights_LTK
        if weights is not None and (weights.shape != self.experts_LTK.shape or weights.dtype != np.float32):
            raise InputError(
                f"step {self.step}: weights must be float32 {self.experts_LTK.shape}, "
                f"got {weights.dtype} {weights.shape}"
            )
        if not 0.0 <= self.fill <= 1.0:
            raise InputError(f"step {self.step}: fill must be 0..1, got {self.fill}")

    @property
    def num_tokens(self) -> int:
        """Tokens of this step on all ranks together."""
        return int(self.rank_T.shape[0])


class RoutedModel(Protocol):
    """What a trace asks of a model: its name, its layers and the shape of its routing."""

    @property
    def name(self) -> str:
        """Its file name."""

    @property
    def num_layers(self) -> int:
        """All layers, dense ones too."""

    @property
    def moe_layer_indices(self) -> tuple[int, ...]:
        """Model layer indices of the MoE layers, ascending."""

    @property
    def num_experts(self) -> int:
        """Routed experts of a MoE layer."""

    @property
    def top_k(self) -> int:
        """Experts of a token, all heads together."""

    @property
    def has_heads_merged(self) -> bool:
        """Whether several heads choose, so that a row may name an expert twice."""
