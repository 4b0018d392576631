"""What mixes tokens in one layer, mostly attention: the weights, cache and score work that follow from its shape.

Every kind answers the same questions; `context_length` counts the tokens before the one at hand. Left out everywhere:
biases, normalisation weights, short convolutions, low-rank gates and the small matrices of indexers (together below
0.5 % of any model here).
"""

from abc import ABC, abstractmethod
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Heads = Annotated[int, Field(strict=True, ge=1, le=65_536)]
Width = Annotated[int, Field(strict=True, ge=1, le=16_777_216)]
Tokens = Annotated[int, Field(strict=True, ge=1, le=2**40)]


class Mixer(BaseModel, ABC):
    """What every kind answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def weight_params(self, d_model: int) -> int:
        """Weights of one block."""

    @property
    @abstractmethod
    def kv_elements_per_token(self) -> int:
        """Numbers of one cached entry: a token's in most kinds."""

    @abstractmethod
    def score_flops(self, layer: int, context_length: float, *, absorbed: bool) -> float:
        """Work of one token of model layer `layer` beside its projections; `absorbed`: as decode kernels do it."""

    def used_params(self, d_model: int) -> int:
        """Weights that one token meets; by default all."""
        return self.weight_params(d_model)

    @property
    def state_elements(self) -> int:
        """Numbers kept per running sequence whatever its length, in float32."""
        return 0

    @property
    def index_elements_per_token(self) -> float:
        """Numbers cached beside keys and values, all of which every token reads to choose where to look."""
        return 0

    def attended_tokens(self, layer: int, context_length: float) -> float:
        """Cached entries that one token of model layer `layer` looks at; by default all."""
        return context_length

    def cached_tokens(self, layer: int, context_length: float) -> float:
        """Entries of the cache that a sequence needs in model layer `layer`."""
        return self.attended_tokens(layer, context_length)


class Indexer(BaseModel):
    """Small heads that score the whole context; attention then looks at the best `top_tokens` of it (DeepSeek-V3.2)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    heads: Heads
    dim: Width
    top_tokens: Tokens

    def score_flops(self, entries: float) -> float:
        """Work of one token that chooses among `entries`: 2 * heads * dim * entries."""
        return 2 * self.heads * self.dim * entries


class GroupedAttention(Mixer):
    """Multi-head (`mha`) or grouped-query (`gqa`) attention; `gqa` lets several query heads share one key head.

    `v_dim` is the width of values where it is not head_dim. `output_gate` adds a matrix that gates what the heads
    give; with `shared_kv` the keys are the values.
    """

    kind: Literal["mha", "gqa"]
    heads: Heads
    kv_heads: Heads
    head_dim: Width
    v_dim: Width | None = None
    output_gate: bool = Field(default=False, strict=True)
    shared_kv: bool = Field(default=False, strict=True)
    window: Tokens | None = None
    full_every: Heads | None = None
    indexer: Indexer | None = None

    @model_validator(mode="after")
    def _check(self) -> "GroupedAttention":
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads={self.kv_heads} does not divide heads={self.heads}")
        if self.kind == "mha" and self.kv_heads != self.heads:
            raise ValueError(
                f"kind mha needs kv_heads={self.heads} (one per head), got {self.kv_heads}; write kind: gqa"
            )
        if self.window is None and self.full_every is not None:
            raise ValueError(f"full_every={self.full_every} needs a window; give window, or drop full_every")
        if self.shared_kv and self.v_dim is not None:
            raise ValueError(f"shared_kv makes values as wide as keys; drop v_dim={self.v_dim}")
        return self

    @property
    def value_dim(self) -> int:
        """Width of one value head."""
        return self.head_dim if self.v_dim is None else self.v_dim

    def weight_params(self, d_model: int) -> int:
        """Weights of one block: d_model * (query, key, value, output and gate widths, summed over their heads)."""
        keys_and_values = self.kv_heads * (self.head_dim + (0 if self.shared_kv else self.value_dim))
        gate = self.heads * self.value_dim if self.output_gate else 0
        return d_model * (self.heads * (self.head_dim + self.value_dim) + keys_and_values + gate)

    @property
    def kv_elements_per_token(self) -> int:
        """Cached numbers per token and layer: keys and values of all key heads."""
        return self.kv_heads * (self.head_dim + (0 if self.shared_kv else self.value_dim))

    @property
    def index_elements_per_token(self) -> float:
        """Cached numbers that the indexer reads."""
        return 0 if self.indexer is None else self.indexer.dim

    def attended_tokens(self, layer: int, context_length: float) -> float:
        """Tokens that one token of model layer `layer` looks at: `window` at most, but all on every full_every-th.

        An indexer chooses its top_tokens.
        """
        if self.window is not None and (self.full_every is None or (layer + 1) % self.full_every):
            return min(self.window, context_length)
        return context_length if self.indexer is None else min(self.indexer.top_tokens, context_length)

    def cached_tokens(self, layer: int, context_length: float) -> float:
        """Tokens whose keys are kept: an indexer may choose any of them."""
        return context_length if self.indexer is not None else self.attended_tokens(layer, context_length)

    def score_flops(self, layer: int, context_length: float, *, absorbed: bool) -> float:
        """Work of one token: QK^T and AV, 2 FLOP per multiply-add: 2 * heads * (head_dim + v_dim) * attended."""
        flops = 2 * self.heads * (self.head_dim + self.value_dim) * self.attended_tokens(layer, context_length)
        return flops if self.indexer is None else flops + self.indexer.score_flops(context_length)


class LatentAttention(Mixer):
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): keys and values live in one small latent vector.

    `q_lora` 0 means that queries are not compressed. `output_gate` adds a matrix that gates what the heads give.
    """

    kind: Literal["mla"]
    heads: Heads
    q_lora: Annotated[int, Field(strict=True, ge=0, le=16_777_216)]
    kv_lora: Width
    qk_nope: Width
    qk_rope: Width
    v_dim: Width
    output_gate: bool = Field(default=False, strict=True)
    indexer: Indexer | None = None

    def weight_params(self, d_model: int) -> int:
        """Weights of one block: queries + latent (with its rope part) + keys and values from it + output (+ gate).

        Queries take heads * (qk_nope + qk_rope) outputs, from d_model or through `q_lora`.
        """
        query_width = self.heads * (self.qk_nope + self.qk_rope)
        query = self.q_lora * (d_model + query_width) if self.q_lora else d_model * query_width
        latent = d_model * (self.kv_lora + self.qk_rope) + self.kv_lora * self.heads * (self.qk_nope + self.v_dim)
        return query + latent + d_model * self.heads * self.v_dim * (2 if self.output_gate else 1)

    @property
    def kv_elements_per_token(self) -> int:
        """Cached numbers per token and layer: kv_lora + qk_rope, shared by all heads."""
        return self.kv_lora + self.qk_rope

    @property
    def index_elements_per_token(self) -> float:
        """Cached numbers that the indexer reads."""
        return 0 if self.indexer is None else self.indexer.dim

    def attended_tokens(self, layer: int, context_length: float) -> float:
        """The whole context, or the indexer's choice."""
        return context_length if self.indexer is None else min(self.indexer.top_tokens, context_length)

    def cached_tokens(self, layer: int, context_length: float) -> float:
        """The latents of the whole context are kept."""
        return context_length

    def score_flops(self, layer: int, context_length: float, *, absorbed: bool) -> float:
        """Work of one token: 2 * heads * (width of QK^T + width of AV) * attended.

        Widths are qk_nope + qk_rope and v_dim; `absorbed` (decode kernels, which read the latent itself) makes them
        kv_lora + qk_rope and kv_lora.
        """
        expanded = self.qk_nope + self.qk_rope + self.v_dim
        width = 2 * self.kv_lora + self.qk_rope if absorbed else expanded
        flops = 2 * self.heads * width * self.attended_tokens(layer, context_length)
        return flops if self.indexer is None else flops + self.indexer.score_flops(context_length)


class CompressedAttention(Mixer):
    """Attention to the last `window` tokens and to one entry for every `ratio` earlier ones (DeepSeek-V4).

    An entry of head_dim numbers is key and value of all heads. The output goes through `o_groups` matrices of o_lora
    outputs each. An indexer chooses among the compressed entries.
    """

    kind: Literal["compressed"]
    heads: Heads
    head_dim: Width
    q_lora: Width
    o_lora: Width
    o_groups: Heads
    window: Tokens
    ratio: Tokens
    indexer: Indexer | None = None

    def weight_params(self, d_model: int) -> int:
        """Weights of one block: queries through q_lora, entries, output through o_lora."""
        width = self.heads * self.head_dim
        query = self.q_lora * (d_model + width)
        return query + d_model * self.head_dim + self.o_lora * (width + self.o_groups * d_model)

    @property
    def kv_elements_per_token(self) -> int:
        """Numbers of one cached entry."""
        return self.head_dim

    @property
    def index_elements_per_token(self) -> float:
        """Cached numbers that the indexer reads, per token."""
        return 0.0 if self.indexer is None else self.indexer.dim / self.ratio

    def attended_tokens(self, layer: int, context_length: float) -> float:
        """Entries that one token looks at."""
        compressed = context_length / self.ratio
        chosen = compressed if self.indexer is None else min(self.indexer.top_tokens, compressed)
        return min(self.window, context_length) + chosen

    def cached_tokens(self, layer: int, context_length: float) -> float:
        """Entries that are kept."""
        return min(self.window, context_length) + context_length / self.ratio

    def score_flops(self, layer: int, context_length: float, *, absorbed: bool) -> float:
        """Work of one token: 4 * heads * head_dim * attended, and the indexer's."""
        flops = 4 * self.heads * self.head_dim * self.attended_tokens(layer, context_length)
        return flops if self.indexer is None else flops + self.indexer.score_flops(context_length / self.ratio)


class ExpertAttention(Mixer):
    """Mixture of attention heads (MoA, arXiv:2210.05144): experts own queries and outputs, keys are everybody's.

    A token uses `top_k` of `num_experts`, each of kv_heads heads. These experts are not dispatched: they are held
    like any attention block, where the token is.
    """

    kind: Literal["moa"]
    num_experts: Heads
    top_k: Heads
    kv_heads: Heads
    head_dim: Width

    @model_validator(mode="after")
    def _check(self) -> "ExpertAttention":
        if self.top_k > self.num_experts:
            raise ValueError(f"attention top_k={self.top_k} exceeds its num_experts={self.num_experts}; lower top_k")
        return self

    def weight_params(self, d_model: int) -> int:
        """Weights of one block: query and output of every expert, one key and one value matrix."""
        return 2 * d_model * self.kv_heads * self.head_dim * (self.num_experts + 1)

    def used_params(self, d_model: int) -> int:
        """Weights that one token meets."""
        return 2 * d_model * self.kv_heads * self.head_dim * (self.top_k + 1)

    @property
    def kv_elements_per_token(self) -> int:
        """Cached numbers per token and layer: 2 * kv_heads * head_dim."""
        return 2 * self.kv_heads * self.head_dim

    def score_flops(self, layer: int, context_length: float, *, absorbed: bool) -> float:
        """Work of one token: 4 * top_k * kv_heads * head_dim * attended."""
        return 4 * self.top_k * self.kv_heads * self.head_dim * context_length


class LinearAttention(Mixer):
    """Layers with a state instead of a cache: gated delta nets, KDA, lightning attention, Mamba-2.

    Queries and keys have key_heads * key_dim channels (Mamba-2: groups * state size), values, output gate and output
    value_heads * value_dim (Mamba-2: its inner width); every value head keeps a state of key_dim x value_dim.
    """

    kind: Literal["linear"]
    key_heads: Heads
    key_dim: Width
    value_heads: Heads
    value_dim: Width

    def weight_params(self, d_model: int) -> int:
        """Weights of one block: d_model * (2 * key channels + 3 * value channels)."""
        return d_model * (2 * self.key_heads * self.key_dim + 3 * self.value_heads * self.value_dim)

    @property
    def kv_elements_per_token(self) -> int:
        """Nothing is cached per token."""
        return 0

    @property
    def state_elements(self) -> int:
        """value_heads * key_dim * value_dim."""
        return self.value_heads * self.key_dim * self.value_dim

    def attended_tokens(self, layer: int, context_length: float) -> float:
        """A token looks at the state alone."""
        return 0.0

    def score_flops(self, layer: int, context_length: float, *, absorbed: bool) -> float:
        """Work of one token: 4 FLOP per state element, to update it and to read it."""
        return 4.0 * self.state_elements


class Lstm(Mixer):
    """One LSTM layer of `cells`, projected back to d_model where that differs (Shazeer et al. 2017)."""

    kind: Literal["lstm"]
    cells: Width

    def weight_params(self, d_model: int) -> int:
        """Weights of one layer: four gates from input and output, 8 * cells * d_model, and the projection."""
        return d_model * self.cells * (8 if self.cells == d_model else 9)

    @property
    def kv_elements_per_token(self) -> int:
        """Nothing is cached per token."""
        return 0

    @property
    def state_elements(self) -> int:
        """Cells and their output (cells again where it is projected)."""
        return 2 * self.cells

    def attended_tokens(self, layer: int, context_length: float) -> float:
        """A token looks at the state alone."""
        return 0.0

    def score_flops(self, layer: int, context_length: float, *, absorbed: bool) -> float:
        """No scores."""
        return 0.0


Attention = Annotated[
    GroupedAttention | LatentAttention | CompressedAttention | ExpertAttention | LinearAttention | Lstm,
    Field(discriminator="kind"),
]
