"""Five figures by which two traces are compared: how skewed, how sticky, how clustered, how different between tasks.

Array letters: L layer, T token, K top-k, E expert.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.routing import TraceInfo
from moesim.trace.rows import TokenRows
from moesim.trace.stats import TokenTally, gini, max_over_mean


@dataclass(frozen=True, slots=True)
class RoutingFigures:
    """Means over layers: max/mean load, Gini, share of experts in common with the token before, mean lift of pairs
    chosen together; and the task shift, 1 - correlation of expert loads between two kinds of sequences (0: not known).
    """

    max_over_mean: float
    gini: float
    overlap: float
    lift: float
    shift: float = 0.0

    def as_tuple(self) -> tuple[float, float, float, float, float]:
        """All five."""
        return self.max_over_mean, self.gini, self.overlap, self.lift, self.shift


def figures_of(experts_LTK: NDArray[np.int32], sequence_T: NDArray[np.int64], num_experts: int) -> RoutingFigures:
    """The first four figures of tokens that follow each other within their sequences."""
    num_layers, num_tokens, top_k = experts_LTK.shape
    info = TraceInfo(
        level="token", num_experts=num_experts, top_k=top_k, layers=tuple(range(num_layers)), num_tokens=num_tokens
    )
    tally, zero_T = TokenTally(info), np.zeros(num_tokens, np.int32)
    for layer, experts_TK in enumerate(experts_LTK):
        layer_T = np.full(num_tokens, layer, np.int16)
        place_T = np.arange(num_tokens)
        tally.add(TokenRows(zero_T, layer_T, zero_T, place_T, experts_TK, None, sequence_T.astype(np.int32)))
    pairs = tally.coactivation(top=0) or []
    return RoutingFigures(
        float(max_over_mean(tally.load_LE).mean()),
        float(gini(tally.load_LE).mean()),
        float(np.nanmean(tally.adjacent_overlap())),
        float(np.mean([layer["mean_lift"] for layer in pairs if layer["mean_lift"] is not None])),
    )


def load_correlation(one_LTK: NDArray[np.int32], other_LTK: NDArray[np.int32], num_experts: int) -> float:
    """Mean over layers of the correlation between the expert loads of two traces."""
    loads = [
        [np.bincount(rows[rows >= 0], minlength=num_experts) for rows in experts_LTK]
        for experts_LTK in (one_LTK, other_LTK)
    ]
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*loads, strict=True)]))
