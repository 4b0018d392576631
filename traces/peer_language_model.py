"""A small decoder-only transformer whose middle MLP is a PEER layer, and its dense twin of equal compute per token.

Letters of shapes: B windows, C positions of a window, T tokens (B x C), D width, K experts of a token.
"""

import math
from dataclasses import asdict, dataclass

import torch
from moe_language_model import Attention, GatedMLP, ModelShape
from product_key_experts import ProductKeys, SingleNeuronExperts
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerShape:
    """Dimensions; layer num_layers // 2 has num_keys x num_keys single-neuron experts in place of its MLP."""

    num_symbols: int = 1024
    context: int = 128
    num_layers: int = 3
    d_model: int = 96
    num_heads: int = 3
    dense_d_ff: int = 256
    num_keys: int = 512
    heads: int = 4
    per_head: int = 16
    key_width: int = 64

    def as_dict(self) -> dict[str, int]:
        """The dimensions by name."""
        return asdict(self)

    @property
    def peer_layer(self) -> int:
        """Index of the layer with the experts."""
        return self.num_layers // 2

    @property
    def num_experts(self) -> int:
        """Experts of that layer."""
        return self.num_keys**2

    @property
    def top_k(self) -> int:
        """Experts of a token, all heads together."""
        return self.heads * self.per_head

    @property
    def peer_multiply_adds(self) -> int:
        """Multiply-adds of the PEER layer for a token: queries, half-key scores, experts."""
        queries = self.d_model * self.heads * self.key_width
        return queries + self.heads * self.num_keys * self.key_width + 2 * self.top_k * self.d_model

    @property
    def twin_d_ff(self) -> int:
        """Width of the gated MLP that does as many multiply-adds as the PEER layer, rounded up."""
        return -(-self.peer_multiply_adds // (3 * self.d_model))


class PeerLayer(nn.Module):
    """Product keys choose, single-neuron experts run."""

    def __init__(self, shape: PeerShape) -> None:
        super().__init__()
        self.router = ProductKeys(shape.d_model, shape.num_keys, shape.heads, shape.per_head, shape.key_width)
        self.experts = SingleNeuronExperts(shape.d_model, shape.num_experts)

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's output, experts_TK and weights_TK."""
        experts_TK, weights_TK = self.router(x_TD)
        return self.experts(x_TD, experts_TK, weights_TK), experts_TK, weights_TK


@dataclass(slots=True)
class Chosen:
    """What the PEER layer chose: experts_TK and weights_TK, head after head."""

    experts_TK: Tensor
    weights_TK: Tensor


class Block(nn.Module):
    """One layer: attention, then an MLP of width `d_ff` or (d_ff None) the experts, each added to the residual."""

    def __init__(self, shape: PeerShape, d_ff: int | None) -> None:
        super().__init__()
        attention = ModelShape(context=shape.context, d_model=shape.d_model, num_heads=shape.num_heads)
        self.attention_norm = nn.RMSNorm(shape.d_model)
        self.attention = Attention(attention)
        self.norm = nn.RMSNorm(shape.d_model)
        self.mlp = GatedMLP(shape.d_model, d_ff) if d_ff is not None else None
        self.peer = PeerLayer(shape) if d_ff is None else None

    def forward(self, x_BCD: Tensor) -> tuple[Tensor, Chosen | None]:
        """The layer's output, and what it chose where it has experts."""
        x_BCD = x_BCD + self.attention(self.attention_norm(x_BCD))
        normed = self.norm(x_BCD)
        if self.peer is None:
            assert self.mlp is not None
            return x_BCD + self.mlp(normed), None
        out_TD, experts_TK, weights_TK = self.peer(normed.flatten(0, 1))
        return x_BCD + out_TD.view_as(x_BCD), Chosen(experts_TK, weights_TK)


class PeerLanguageModel(nn.Module):
    """Next-token model; `with_experts` False gives the dense twin. Input and output embeddings are one matrix."""

    def __init__(self, shape: PeerShape, *, with_experts: bool) -> None:
        super().__init__()
        middle = None if with_experts else shape.twin_d_ff
        widths = [middle if layer == shape.peer_layer else shape.dense_d_ff for layer in range(shape.num_layers)]
        self.embedding = nn.Embedding(shape.num_symbols, shape.d_model)
        self.blocks = nn.ModuleList(Block(shape, d_ff) for d_ff in widths)
        self.norm = nn.RMSNorm(shape.d_model)
        for name, parameter in self.named_parameters():
            if "norm" not in name:
                nn.init.normal_(parameter, std=_spread(name, shape))

    def forward(self, tokens_BC: Tensor) -> tuple[Tensor, Chosen | None]:
        """Logits [B, C, symbols] and what the PEER layer chose (T = B x C, windows one after another)."""
        x_BCD = self.embedding(tokens_BC)
        chosen = None
        for block in self.blocks:
            x_BCD, of_block = block(x_BCD)
            chosen = chosen or of_block
        return functional.linear(self.norm(x_BCD), self.embedding.weight), chosen

    @property
    def num_weights(self) -> int:
        """Weights of all matrices, without norms; the tied embedding once."""
        return sum(parameter.numel() for name, parameter in self.named_parameters() if "norm" not in name)

    def dense_parameters(self) -> list[nn.Parameter]:
        """Everything but the experts' tables."""
        return [parameter for name, parameter in self.named_parameters() if "experts" not in name]

    def expert_tables(self) -> list[nn.Parameter]:
        """The experts' tables [E, D], which get sparse gradients; none in the dense twin."""
        return [parameter for name, parameter in self.named_parameters() if "experts" in name]


def _spread(name: str, shape: PeerShape) -> float:
    """Standard deviation of the initial weights."""
    if name.endswith("experts.down"):  # a product of order 1 with the normed input
        return 1.0 / math.sqrt(shape.d_model)
    if name.endswith("router.keys"):  # and with half of a normed query
        return 1.0 / math.sqrt(shape.key_width // 2)
    if name.endswith(("to_out.weight", "down.weight")):
        return 0.02 / math.sqrt(2 * shape.num_layers)
    return 0.02


def count_parameters(shape: PeerShape) -> tuple[int, int]:
    """Weights of the model with experts and of its dense twin, counted without taking memory for them."""
    with torch.device("meta"):
        return (
            PeerLanguageModel(shape, with_experts=True).num_weights,
            PeerLanguageModel(shape, with_experts=False).num_weights,
        )
