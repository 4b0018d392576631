"""A PEER layer: single-neuron experts in a grid, found by product keys (Mixture of a Million Experts, arXiv 2407.04153).

Letters of shapes: T tokens, D width, H routing heads, Q width of half a key, N half-keys, E experts (N x N), P experts of
one head, K experts of all heads (H x P), C candidate pairs, U distinct experts of a batch.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_INVERSE_ROOT_2 = 1.0 / math.sqrt(2.0)
_INVERSE_ROOT_TAU = 1.0 / math.sqrt(2.0 * math.pi)


class ProductKeys(nn.Module):
    """Each head's query against N row keys and N column keys, shared by all heads; expert = row x N + column."""

    def __init__(self, d_model: int, num_keys: int, heads: int, per_head: int, key_width: int) -> None:
        super().__init__()
        self.heads, self.per_head, self.num_keys = heads, per_head, num_keys
        self.to_query = nn.Linear(d_model, heads * key_width, bias=False)
        self.norm = nn.BatchNorm1d(heads * key_width)
        self.keys = nn.Parameter(torch.empty(2, num_keys, key_width // 2))
        # Of P sorted rows and P sorted columns, pair (i, j) has (i + 1)(j + 1) pairs at least as good: at most P survive.
        pairs = [(i, j) for i in range(per_head) for j in range(per_head) if (i + 1) * (j + 1) <= per_head]
        self.register_buffer("candidates", torch.tensor(pairs).T, persistent=False)

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """experts_TK, head after head, each head's best first, and the weights: a softmax over each head's P scores."""
        query_THQ = self.norm(self.to_query(x_TD)).view(len(x_TD), self.heads, 2, -1)
        best = [(query_THQ[:, :, half] @ self.keys[half].T).topk(self.per_head, dim=-1) for half in range(2)]
        row, column = self.get_buffer("candidates")
        scores_THC = best[0].values[..., row] + best[1].values[..., column]
        top_THP, chosen_THP = scores_THC.topk(self.per_head, dim=-1)
        rows_THP = best[0].indices.gather(-1, row[chosen_THP])
        columns_THP = best[1].indices.gather(-1, column[chosen_THP])
        experts_THP = rows_THP * self.num_keys + columns_THP
        return experts_THP.flatten(1), top_THP.softmax(dim=-1).flatten(1)


class SingleNeuronExperts(nn.Module):
    """E experts, each gelu(down . x) times the vector up; only those chosen are read, and only they get gradients."""

    def __init__(self, d_model: int, num_experts: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(num_experts, d_model))
        self.up = nn.Parameter(torch.empty(num_experts, d_model))

    def forward(self, x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
        """Weighted sum of the outputs of each token's K experts."""
        out: Tensor = _WeightedExperts.apply(x_TD, weights_TK, experts_TK, self.down, self.up)  # type: ignore[no-untyped-call]
        return out


class _WeightedExperts(torch.autograd.Function):
    """Forward and backward without a [T, K, D] gradient: those of `down` and `up` are sparse, one row an expert used."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, down: Tensor, up: Tensor) -> Tensor:
        inner_TK = torch.bmm(functional.embedding(experts_TK, down), x_TD.unsqueeze(2)).squeeze(2)
        ctx.save_for_backward(x_TD, weights_TK, experts_TK, inner_TK, down, up)
        return _weighted_rows(experts_TK, up, weights_TK * functional.gelu(inner_TK))

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, Tensor, None, Tensor, Tensor]:
        grad_TD = outputs[0].contiguous()
        x_TD, weights_TK, experts_TK, inner_TK, down, up = ctx.saved_tensors
        along_TK = torch.bmm(functional.embedding(experts_TK, up), grad_TD.unsqueeze(2)).squeeze(2)
        active_TK = functional.gelu(inner_TK)
        grad_inner_TK = along_TK * weights_TK * _gelu_slope(inner_TK)
        uses = _Uses(experts_TK, len(x_TD))
        return (
            _weighted_rows(experts_TK, down, grad_inner_TK),
            along_TK * active_TK,
            None,
            uses.sparse_gradient(grad_inner_TK, x_TD, down),
            uses.sparse_gradient(weights_TK * active_TK, grad_TD, up),
        )


class _Uses:
    """Which tokens used each of the U distinct experts of a batch: a sparse matrix [U, T] whose values change."""

    def __init__(self, experts_TK: Tensor, num_tokens: int) -> None:
        sorted_experts, self._order = experts_TK.flatten().sort(stable=True)
        self._experts_U, uses_U = torch.unique_consecutive(sorted_experts, return_counts=True)
        self._starts = functional.pad(uses_U.cumsum(0), (1, 0))
        self._tokens = self._order // experts_TK.shape[1]
        self._num_tokens = num_tokens

    def sparse_gradient(self, factor_TK: Tensor, vector_TD: Tensor, table: Tensor) -> Tensor:
        """Sum over an expert's uses of factor x the token's vector, as a sparse gradient of `table`."""
        shape = (len(self._experts_U), self._num_tokens)
        matrix = torch.sparse_csr_tensor(self._starts, self._tokens, factor_TK.flatten()[self._order], shape)
        rows_UD = matrix @ vector_TD
        return torch.sparse_coo_tensor(self._experts_U.unsqueeze(0), rows_UD, table.shape, is_coalesced=True)


def _weighted_rows(experts_TK: Tensor, table: Tensor, weights_TK: Tensor) -> Tensor:
    return functional.embedding_bag(experts_TK, table, per_sample_weights=weights_TK, mode="sum")


def _gelu_slope(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf(x * _INVERSE_ROOT_2)) + x * torch.exp(-0.5 * x * x) * _INVERSE_ROOT_TAU
