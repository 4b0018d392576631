"""The compute bound where a fitted curve gives the time of experts: prices of devices and copies, by weak duality.

Array letters: E expert, S rank, G group, K kind of expert, M tokens (1, 2, ...), R kind of rank, A number of active experts.

A device with g active experts takes the mean over them of t(n, g) (moesim.planner.expert_curve): each of them costs it
t(n, g) / g. A group has D devices and P slots, so for any prices l >= 0 of a device in use and m >= 0 of a copy
    seconds of the group >= sum over experts e of ( min over ways to cut n_e into copies of sum c(copy) ) - l D - m P
    c(n) = min over g of (t(n, g) + l) / g + m
and since no copy has more tokens than its expert, the minimum is n_e x min over n <= n_e of c(n) / n. The prices are those
that are best for typical loads; the bound holds for all.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.optimize import minimize

from moesim.planner.expert_curve import balanced_group_s
from moesim.planner.objective_tables import CostTables

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MOST_TOKENS = 1 << 19  # of one expert in one step; where more come, nothing is proven
_SAMPLES = 160  # numbers of tokens on which prices are tried
_TRIED = 31  # prices of a device, before both are refined


@dataclass(frozen=True, slots=True, eq=False)
class ExpertFloor:
    """What experts cost at least, in seconds of the weighted mean over ranks.

    `rate_KM`: a token of an expert of kind k with m + 1 tokens; experts of kind `kind_E`. `priced_s`: the worth of all
    devices and slots of a group. `late_s`: what slow devices gain by not launching more slowly.
    """

    kind_E: Ints
    rate_KM: Floats
    priced_s: float
    late_s: float

    def seconds(self, load_GE: NDArray[np.integer]) -> float:
        """The least seconds of the tokens of every expert in every group."""
        rate_GE = self.rate_KM[self.kind_E, np.maximum(load_GE, 1) - 1]
        each_G = (load_GE * rate_GE).sum(axis=1) - self.priced_s
        return max(float(np.maximum(each_G, 0.0).sum()) - self.late_s, 0.0)


def expert_floor(
    costs: CostTables, weight_S: Floats, slots_D: Ints, typical_GE: NDArray[np.integer], most_tokens: int
) -> ExpertFloor | None:
    """The floor for plans with `slots_D`; None without a curve or where an expert may get more than MOST_TOKENS tokens.

    `typical_GE` are loads the prices are chosen for; `most_tokens` those of any expert in any step.
    """
    if not costs.curve.fitted or most_tokens > MOST_TOKENS:
        return None
    speed_S = costs.curve.speed_S
    rates = np.stack([costs.byte_s_S * speed_S, costs.flop_s_S * speed_S, costs.moved_s_S * speed_S])
    _, rank_R, kind_S = np.unique(rates, axis=1, return_index=True, return_inverse=True)
    _, expert_K, kind_E = np.unique(costs.params_E, return_index=True, return_inverse=True)
    limits = np.array([np.count_nonzero(slots_D), slots_D.sum()], dtype=np.float64)
    tokens_M = np.arange(1.0, max(most_tokens, 1) + 1)
    sample_M = np.unique(np.geomspace(1, tokens_M.size, _SAMPLES).round())
    best: tuple[float, ExpertFloor] | None = None
    # A rank of speed v takes launch + (mean - launch) / v: at least mean / max(v, 1), which is near for slow ranks that
    # weigh as much as others, and at least mean / v - launch |1 / v - 1|, which is near where ranks weigh by speed.
    late_s = costs.launch_s * float((weight_S * np.abs(1.0 / speed_S - 1.0)).sum())
    for share_S, off_s in ((weight_S / np.maximum(speed_S, 1.0), 0.0), (weight_S / speed_S, late_s)):
        share_R = np.array([share_S[kind_S.ravel() == kind].min() for kind in range(rank_R.size)])
        tables = (costs, expert_K, rank_R, share_R, int(slots_D.max()))
        prices = _best_prices(_seconds(*tables, sample_M), sample_M, kind_E, typical_GE, limits)
        floor = ExpertFloor(kind_E, _rates(*tables, tokens_M, *prices), float(limits @ prices), off_s)
        reached = floor.seconds(np.minimum(typical_GE, tokens_M.size))
        if best is None or reached > best[0]:
            best = (reached, floor)
        if (speed_S == 1.0).all():  # both say the same
            break
    assert best is not None
    return best[1]


def _best_prices(
    seconds_AKM: Floats, sample_M: Floats, kind_E: Ints, typical_GE: NDArray[np.integer], limits: Floats
) -> Floats:
    """Prices of a device and of a copy that give typical loads about their best bound; the bound is concave in them."""
    group, expert = np.nonzero(typical_GE)
    place = np.searchsorted(sample_M, typical_GE[group, expert], side="right") - 1
    load = sample_M[place]  # as many tokens as one copy can have: else slots would seem too few
    active_A = np.arange(1.0, len(seconds_AKM) + 1)[:, None, None]
    groups = max(len(typical_GE), 1)

    def bound(prices: Floats) -> float:
        device, copy = np.maximum(prices, 0.0)
        copies_KM = ((seconds_AKM + device) / active_A).min(axis=0) + copy
        rate_KM = np.minimum.accumulate(copies_KM / sample_M, axis=1)
        return float((load * rate_KM[kind_E[expert], place]).sum()) - groups * float(limits @ np.maximum(prices, 0.0))

    scale = bound(np.zeros(2)) / (groups * limits)
    device = max(np.linspace(0.0, 3.0, _TRIED), key=lambda price: bound(np.array([price, 0.0]) * scale))
    corners = np.array([[device, 0.0], [device + 0.2, 0.1], [max(device - 0.2, 0.0), 0.3]])
    options = {"initial_simplex": corners, "maxfev": 150, "xatol": 1e-4, "fatol": 0.0}
    found = minimize(lambda x: -bound(x * scale), corners[0], method="Nelder-Mead", options=options)
    prices: Floats = np.maximum(found.x, 0.0) * scale
    return prices


def _seconds(costs: CostTables, expert_K: Ints, rank_R: Ints, share_R: Floats, most: int, tokens_M: Floats) -> Floats:
    """Weighted seconds of a device with 1, 2, ... `most` active experts of so many tokens each [A, K, M]."""
    seconds_AKM = np.empty((most, expert_K.size, tokens_M.size))
    for active in range(most):
        for kind, expert in enumerate(expert_K):
            seconds_AKM[active, kind] = _of_group(costs, int(expert), rank_R, share_R, tokens_M, float(active + 1))
    return seconds_AKM


def _rates(
    costs: CostTables,
    expert_K: Ints,
    rank_R: Ints,
    share_R: Floats,
    most: int,
    tokens_M: Floats,
    device: float,
    copy: float,
) -> Floats:
    """Least seconds a token of experts with 1, 2, ... tokens, prices included [K, M]."""
    rate_KM = np.full((expert_K.size, tokens_M.size), np.inf)
    for active in range(1, most + 1):
        for kind, expert in enumerate(expert_K):
            seconds_M = _of_group(costs, int(expert), rank_R, share_R, tokens_M, float(active))
            rate_KM[kind] = np.minimum(rate_KM[kind], (seconds_M + device) / active + copy)
    rates: Floats = np.minimum.accumulate(rate_KM / tokens_M, axis=1)
    return rates


@njit(cache=True, nogil=True)
def _of_group(costs, expert, rank_R, share_R, tokens_M, active):  # type: ignore[no-untyped-def]  # types are numba's
    """t(n, g) on the rank where it weighs least, for every n."""
    least_M = np.full(tokens_M.size, np.inf)
    for r in range(rank_R.size):
        for m in range(tokens_M.size):
            rows = np.ceil(tokens_M[m] / costs.tile) * costs.tile
            seconds = share_R[r] * balanced_group_s(costs, expert, rank_R[r], tokens_M[m], rows, active)
            least_M[m] = min(least_M[m], seconds)
    return least_M
