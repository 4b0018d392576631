"""A small decoder-only transformer whose layers, but the first, are mixtures of experts, after DeepSeek-V2-Lite.

Letters of shapes: B windows, C positions of a window, T tokens (B x C), D width, E experts, K top-k, F expert width.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Dimensions: layer 0 has a dense MLP of `dense_d_ff`, every later layer a shared expert and routed ones."""

    num_symbols: int = 1024
    context: int = 256
    num_layers: int = 6
    d_model: int = 160
    num_heads: int = 5
    num_experts: int = 64
    top_k: int = 6
    expert_d_ff: int = 64
    shared_d_ff: int = 128
    dense_d_ff: int = 512

    def as_dict(self) -> dict[str, int]:
        """The dimensions by name."""
        return asdict(self)

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Indices of the MoE layers among all layers."""
        return tuple(range(1, self.num_layers))


@dataclass(slots=True)
class LayerRouting:
    """What one router decided: experts_TK and weights_TK, heaviest first, and its load-balancing loss."""

    experts_TK: Tensor
    weights_TK: Tensor
    balance_loss: Tensor


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.num_heads = shape.num_heads
        self.to_qkv = nn.Linear(shape.d_model, 3 * shape.d_model, bias=False)
        self.to_out = nn.Linear(shape.d_model, shape.d_model, bias=False)
        head = shape.d_model // shape.num_heads
        angle = torch.outer(torch.arange(shape.context), 10000.0 ** (-torch.arange(0, head, 2) / head))
        self.register_buffer("cosine", angle.cos(), persistent=False)
        self.register_buffer("sine", angle.sin(), persistent=False)

    def forward(self, x_BCD: Tensor) -> Tensor:
        """Mixes every position with those before it in its window."""
        B, C, D = x_BCD.shape
        qkv = self.to_qkv(x_BCD).view(B, C, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key = self._turn(qkv[0]), self._turn(qkv[1])
        mixed = functional.scaled_dot_product_attention(query, key, qkv[2], is_causal=True)
        out: Tensor = self.to_out(mixed.transpose(1, 2).reshape(B, C, D))
        return out

    def _turn(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        cosine, sine = self.get_buffer("cosine")[: x.shape[-2]], self.get_buffer("sine")[: x.shape[-2]]
        return torch.cat((first * cosine - second * sine, first * sine + second * cosine), dim=-1)


class GatedMLP(nn.Module):
    """SiLU-gated MLP: the dense layer's and the shared expert's."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(functional.silu(gate) * up)
        return out


class MixtureOfExperts(nn.Module):
    """Softmax gate over E experts, the K heaviest run, their weights normalised to 1, plus one shared expert."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.top_k = shape.top_k
        self.router = nn.Linear(shape.d_model, shape.num_experts, bias=False)
        self.gate_up = nn.Parameter(torch.empty(shape.num_experts, shape.d_model, 2 * shape.expert_d_ff))
        self.down = nn.Parameter(torch.empty(shape.num_experts, shape.expert_d_ff, shape.d_model))
        self.shared = GatedMLP(shape.d_model, shape.shared_d_ff)

    def forward(self, x_TD: Tensor) -> tuple[Tensor, LayerRouting]:
        """The layer's output and its routing."""
        probability_TE = self.router(x_TD).softmax(dim=-1)
        top_TK, experts_TK = probability_TE.topk(self.top_k, dim=-1)
        weights_TK = top_TK / top_TK.sum(dim=-1, keepdim=True)
        load_E = torch.bincount(experts_TK.flatten(), minlength=len(self.gate_up))
        out = self.shared(x_TD) + self._run_experts(x_TD, experts_TK, weights_TK, load_E.tolist())
        share_E = load_E / load_E.sum()
        balance = len(self.gate_up) * (share_E * probability_TE.mean(dim=0)).sum()
        return out, LayerRouting(experts_TK, weights_TK, balance)

    def _run_experts(self, x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor, loads: list[int]) -> Tensor:
        # Rows sorted by expert: each expert is then two plain matrix products over its own slice, without padding.
        order = experts_TK.flatten().argsort(stable=True)
        rows = x_TD.index_select(0, order // self.top_k)
        pieces = []
        slices = torch.split(rows, loads)
        for piece, gate_up, down in zip(slices, self.gate_up.unbind(), self.down.unbind(), strict=True):
            gate, up = (piece @ gate_up).chunk(2, dim=-1)
            pieces.append((functional.silu(gate) * up) @ down)
        weighted = torch.cat(pieces) * weights_TK.flatten().index_select(0, order).unsqueeze(1)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        return weighted.index_select(0, place).view(*experts_TK.shape, -1).sum(dim=1)


class Block(nn.Module):
    """One layer: attention, then the dense MLP or the experts, each added to the residual."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.d_model)
        self.attention = Attention(shape)
        self.norm = nn.RMSNorm(shape.d_model)
        self.experts = MixtureOfExperts(shape) if layer in shape.moe_layers else None
        self.dense = GatedMLP(shape.d_model, shape.dense_d_ff) if self.experts is None else None

    def forward(self, x_BCD: Tensor) -> tuple[Tensor, LayerRouting | None]:
        """The layer's output, and its routing where it has experts."""
        x_BCD = x_BCD + self.attention(self.attention_norm(x_BCD))
        normed = self.norm(x_BCD)
        if self.experts is None:
            assert self.dense is not None
            return x_BCD + self.dense(normed), None
        out_TD, routing = self.experts(normed.flatten(0, 1))
        return x_BCD + out_TD.view_as(x_BCD), routing


class LanguageModel(nn.Module):
    """Next-token model that hands out its routing; input and output embeddings are one matrix."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.num_symbols, shape.d_model)
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.num_layers))
        self.norm = nn.RMSNorm(shape.d_model)
        for name, parameter in self.named_parameters():
            if "norm" not in name:
                nn.init.normal_(parameter, std=0.02)
            if name.endswith(("to_out.weight", "down", "down.weight")):
                nn.init.normal_(parameter, std=0.02 / (2 * shape.num_layers) ** 0.5)

    def forward(self, tokens_BC: Tensor) -> tuple[Tensor, list[LayerRouting]]:
        """Logits [B, C, symbols] and the routing of every MoE layer (T = B x C, windows one after another)."""
        x_BCD = self.embedding(tokens_BC)
        routings = []
        for block in self.blocks:
            x_BCD, routing = block(x_BCD)
            if routing is not None:
                routings.append(routing)
        logits = functional.linear(self.norm(x_BCD), self.embedding.weight)
        return logits, routings
