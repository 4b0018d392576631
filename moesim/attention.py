"""Attention of one layer: how its heads are shaped, and the weights, cache and score work that follow.

Biases and normalisation weights are left out everywhere: they are below 0.1 % of any model here.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Heads = Annotated[int, Field(strict=True, ge=1, le=65_536)]
Width = Annotated[int, Field(strict=True, ge=1, le=16_777_216)]


class GroupedAttention(BaseModel):
    """Multi-head (`mha`) or grouped-query (`gqa`) attention; `gqa` lets several query heads share one key head."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["mha", "gqa"]
    heads: Heads
    kv_heads: Heads
    head_dim: Width
    window: Annotated[int, Field(strict=True, ge=1, le=2**40)] | None = None
    full_every: Heads = 1

    @model_validator(mode="after")
    def _check(self) -> "GroupedAttention":
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads={self.kv_heads} does not divide heads={self.heads}")
        if self.kind == "mha" and self.kv_heads != self.heads:
            raise ValueError(
                f"kind mha needs kv_heads={self.heads} (one per head), got {self.kv_heads}; write kind: gqa"
            )
        if self.window is None and self.full_every != 1:
            raise ValueError(f"full_every={self.full_every} needs a window; give window, or drop full_every")
        return self

    def weight_params(self, d_model: int) -> int:
        """Weights of one block: d_model * head_dim * (2 * heads + 2 * kv_heads): query, output, key, value."""
        return d_model * self.head_dim * 2 * (self.heads + self.kv_heads)

    @property
    def kv_elements_per_token(self) -> int:
        """Cached numbers per token and layer: 2 * kv_heads * head_dim."""
        return 2 * self.kv_heads * self.head_dim

    def attended_tokens(self, layer: int, context_length: float) -> float:
        """Tokens that one token of model layer `layer` looks at: `window` at most, but all on every full_every-th."""
        if self.window is None or (layer + 1) % self.full_every == 0:
            return context_length
        return min(self.window, context_length)

    def score_flops(self, attended: float, *, absorbed: bool) -> float:
        """Work of one token: QK^T and AV, 2 FLOP per multiply-add: 4 * heads * head_dim * attended."""
        return 4 * self.heads * self.head_dim * attended


class LatentAttention(BaseModel):
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): keys and values live in one small latent vector.

    `q_lora` 0 means that queries are not compressed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["mla"]
    heads: Heads
    q_lora: Annotated[int, Field(strict=True, ge=0, le=16_777_216)]
    kv_lora: Width
    qk_nope: Width
    qk_rope: Width
    v_dim: Width

    def weight_params(self, d_model: int) -> int:
        """Weights of one block: queries + latent (with its rope part) + keys and values from it + output.

        Queries take heads * (qk_nope + qk_rope) outputs, from d_model or through `q_lora`.
        """
        query_width = self.heads * (self.qk_nope + self.qk_rope)
        query = self.q_lora * (d_model + query_width) if self.q_lora else d_model * query_width
        latent = d_model * (self.kv_lora + self.qk_rope) + self.kv_lora * self.heads * (self.qk_nope + self.v_dim)
        return query + latent + d_model * self.heads * self.v_dim

    @property
    def kv_elements_per_token(self) -> int:
        """Cached numbers per token and layer: kv_lora + qk_rope, shared by all heads."""
        return self.kv_lora + self.qk_rope

    def attended_tokens(self, layer: int, context_length: float) -> float:
        """Every layer attends to the whole context."""
        return context_length

    def score_flops(self, attended: float, *, absorbed: bool) -> float:
        """Work of one token: 2 * heads * (width of QK^T + width of AV) * attended.

        Widths are qk_nope + qk_rope and v_dim; `absorbed` (decode kernels, which read the latent itself) makes them
        kv_lora + qk_rope and kv_lora.
        """
        if absorbed:
            return 2 * self.heads * (2 * self.kv_lora + self.qk_rope) * attended
        return 2 * self.heads * (self.qk_nope + self.qk_rope + self.v_dim) * attended


Attention = Annotated[GroupedAttention | LatentAttention, Field(discriminator="kind")]
