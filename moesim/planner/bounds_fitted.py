"""The compute bound where a fitted curve gives the time of experts: no device is quicker than the cheapest group.

Array letters: E expert, S rank, G group, M tokens (1, 2, ...).

A device with g active experts takes the mean over them of t(n, g) (moesim.planner.expert_curve), so each of them costs it
at least h(n) = min over g of t(n, g) / g. Where a + b n <= h(n) for all whole n, a >= 0, an expert with n tokens costs at
least a + b n, however it is copied and split. The best such line at the mean load of the experts bounds their sum.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.planner.expert_curve import balanced_group_s
from moesim.planner.objective_tables import CostTables

Floats = NDArray[np.float64]
MOST_TOKENS = 1 << 19  # of one expert in one step; where more come, nothing is proven


@dataclass(frozen=True, slots=True, eq=False)
class ExpertHull:
    """The lower convex hull of h for the experts `mine_E` (all alike): its corners, and the best line through 0.

    `late_s`: what slow devices gain by not launching more slowly, to be taken off the weighted mean over ranks.
    """

    mine_E: NDArray[np.bool_]
    tokens_M: Floats
    seconds_M: Floats
    slope: float
    late_s: float

    def at(self, tokens: float) -> float:
        """Seconds, weighted mean over ranks, that an expert costs at least where their mean load is `tokens`."""
        right = min(max(int(np.searchsorted(self.tokens_M, tokens)), 1), self.tokens_M.size - 1)
        if self.tokens_M.size == 1:
            return self.slope * tokens
        rise = self.seconds_M[right] - self.seconds_M[right - 1]
        slope = rise / (self.tokens_M[right] - self.tokens_M[right - 1])
        intercept = self.seconds_M[right] - slope * self.tokens_M[right]
        return float(intercept + slope * tokens) if intercept >= 0 else self.slope * tokens


def expert_hulls(costs: CostTables, weight_S: Floats, most_slots: int, most_tokens: int) -> tuple[ExpertHull, ...]:
    """One hull for each kind of expert; none without a curve or where an expert may get more than MOST_TOKENS tokens.

    `most_slots`: of any device; `most_tokens`: of any expert in any step.
    """
    if not costs.curve.fitted or most_tokens > MOST_TOKENS:
        return ()
    speed_S = costs.curve.speed_S
    # t on a rank >= mean / speed - launch (1 / speed - 1): exact for slow devices, below the truth for fast ones.
    late_s = costs.launch_s * float((weight_S * np.abs(1.0 / speed_S - 1.0)).sum())
    rates = np.stack([costs.byte_s_S * speed_S, costs.flop_s_S * speed_S, costs.moved_s_S * speed_S])
    _, first, kind_S = np.unique(rates, axis=1, return_index=True, return_inverse=True)
    hulls = []
    for params in np.unique(costs.params_E):
        mine_E = costs.params_E == params
        seconds_M = np.full(max(most_tokens, 1), np.inf)
        for kind, rank in enumerate(first):
            share = float((weight_S / speed_S)[kind_S.ravel() == kind].min())
            least_M = _cheapest(costs, int(np.argmax(mine_E)), int(rank), most_slots, seconds_M.size)
            seconds_M = np.minimum(seconds_M, share * least_M)
        tokens_M = np.arange(1.0, seconds_M.size + 1)
        corners = _lower_hull(tokens_M, seconds_M)
        slope = float((seconds_M / tokens_M).min())
        hulls.append(ExpertHull(mine_E, tokens_M[corners], seconds_M[corners], slope, late_s))
    return tuple(hulls)


def hulls_s(hulls: tuple[ExpertHull, ...], load_GE: NDArray[np.integer]) -> float:
    """Seconds of routed experts, weighted mean over ranks, that the tokens of every expert in every group cost at least."""
    total = 0.0
    for hull in hulls:
        load_A = load_GE[:, hull.mine_E]
        load_A = load_A[load_A > 0]
        if load_A.size:
            total += load_A.size * hull.at(float(load_A.mean()))
    return max(total - max((hull.late_s for hull in hulls), default=0.0), 0.0)


@njit(cache=True, nogil=True)
def _cheapest(costs, expert, rank, most_slots, most_tokens):  # type: ignore[no-untyped-def]  # types are numba's
    """min over g of t(n, g) / g for n = 1, 2, ..."""
    least_M = np.empty(most_tokens)
    for tokens in range(1, most_tokens + 1):
        rows = np.ceil(tokens / costs.tile) * costs.tile
        least = np.inf
        for groups in range(1, most_slots + 1):
            least = min(least, balanced_group_s(costs, expert, rank, float(tokens), rows, float(groups)) / groups)
        least_M[tokens - 1] = least
    return least_M


@njit(cache=True, nogil=True)
def _lower_hull(x_M, y_M):  # type: ignore[no-untyped-def]
    """Indices of the corners of the lower convex hull of points with rising x."""
    stack = np.empty(x_M.size, dtype=np.int64)
    size = 0
    for i in range(x_M.size):
        while size > 1:
            a, b = stack[size - 2], stack[size - 1]
            if (y_M[b] - y_M[a]) * (x_M[i] - x_M[a]) < (y_M[i] - y_M[a]) * (x_M[b] - x_M[a]):
                break
            size -= 1
        stack[size] = i
        size += 1
    return stack[:size]
