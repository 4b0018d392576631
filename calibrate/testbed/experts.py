"""Experts: the gated MLPs that one rank holds, applied to the rows it has received."""

import torch

from calibrate.testbed.rows import slots_of, values_of


class Experts:
    """Expert MLPs of one rank: silu(x W1) * (x W3) W2 in fp32; weights depend only on the expert, not on the slot."""

    def __init__(self, expert_of_slot: dict[int, int], width: int, hidden: int) -> None:
        """`expert_of_slot` lists this rank's slots; copies of one expert are equal."""
        self.weights = {slot: _weights(expert, width, hidden) for slot, expert in expert_of_slot.items()}

    def apply(self, rows: torch.Tensor, top_k: int) -> torch.Tensor:
        """Rows like `rows`, holding the sum over this rank's experts of their outputs / top_k."""
        answer = rows.clone()
        values, slots = values_of(rows), slots_of(rows)
        total = torch.zeros_like(values)
        for slot, weights in self.weights.items():
            mine = (slots == slot).any(dim=1).nonzero()[:, 0]
            if len(mine):
                total.index_add_(0, mine, _mlp(values[mine], *weights) / top_k)
        values_of(answer).copy_(total)
        return answer

    def pairs(self, rows: torch.Tensor) -> int:
        """(token, expert) pairs that `apply` computes."""
        slots = slots_of(rows)
        return sum(int((slots == slot).any(dim=1).sum()) for slot in self.weights)


def _weights(expert: int, width: int, hidden: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(expert)
    shapes = ((width, hidden), (width, hidden), (hidden, width))
    return tuple(torch.randn(shape, generator=drawn) / shape[0] ** 0.5 for shape in shapes)


def _mlp(x: torch.Tensor, up: torch.Tensor, gate: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    return (torch.nn.functional.silu(x @ gate) * (x @ up)) @ down
