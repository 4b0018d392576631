"""Choosing one option per layer: a multiple-choice knapsack over all layers, by CP-SAT.

Data        t[l,c,k] seconds of option c of layer l in case k; p[k] weights of the cases, adding up to 1; level a in 0..1;
            d[l,c] amount of option c of layer l, and its budget
Variables   x[l,c] in {0,1}; T[k] seconds of case k; z threshold; u[k] >= 0 what case k takes above it
Constraints one:    sum over c of x[l,c] = 1                               for every l
            case:   T[k] = sum over l, c of t[l,c,k] x[l,c]                for every k
            above:  u[k] >= T[k] - z                                       for every k
            budget: sum over l, c of d[l,c] x[l,c] <= budget               where there is one
Objective   min z + sum over k of p[k] u[k] / (1 - a), the mean of the worst 1 - a of the cases (a = 0: the mean of all;
            a = 1: the worst, min z with u = 0)
Solve       CP-SAT, one worker, fixed seed and deterministic time, the best option of each layer alone as a complete hint
            where it keeps the budget, else the smallest amounts (symmetry_level=0, or presolve loses it)
Read back   x; without a solution in time the hint

Array letters: L layer, C option, K case.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WORK_S = 2.0  # deterministic seconds of CP-SAT
_TICKS = 10**6  # the longest case in ticks
_PARTS = 1000  # weights in thousandths


@dataclass(frozen=True, slots=True)
class Choice:
    """The option of each layer [L]; status optimal, feasible or out of time (then the hint)."""

    status: str
    option_L: NDArray[np.int64]


def risk(seconds_K: Floats, weight_K: Floats, level: float) -> float:
    """Mean over the worst 1 - level of the cases; level 0 is the mean, 1 the worst.

    >>> seconds, even = np.array([1.0, 3.0, 2.0, 2.0]), np.ones(4)
    >>> risk(seconds, even, 0.0), risk(seconds, even, 0.5), risk(seconds, even, 1.0)
    (2.0, 2.5, 3.0)
    """
    share_K = weight_K / weight_K.sum()
    if level >= 1.0:
        return float(seconds_K.max())
    order = np.argsort(-seconds_K, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(share_K[order])[:-1]])
    taken = np.clip(1.0 - level - before, 0.0, share_K[order])
    return float((seconds_K[order] * taken).sum() / taken.sum())


def choose(
    seconds_LCK: Floats,
    weight_K: Floats,
    level: float,
    *,
    amount_LC: NDArray[np.int64] | None = None,
    budget: int | None = None,
    work_limit: float = 1.0,
) -> Choice:
    """The option of each layer for the least risk; with amounts, those that add up to at most `budget`.

    The smallest amounts must fit the budget. Options that do not exist have infinite seconds.
    """
    layers, options, cases = seconds_LCK.shape
    there_LC: NDArray[np.bool_] = np.isfinite(seconds_LCK.sum(axis=2))
    hint_L = _hint(seconds_LCK, weight_K, there_LC, amount_LC, budget)
    if options == 1:
        return Choice("optimal", hint_L)
    from ortools.sat.python import cp_model  # late: takes a tenth of a second, and most plans choose nothing

    finite = np.where(there_LC[:, :, None], seconds_LCK, 0.0)
    tick_s = max(float(finite.max(axis=1).sum(axis=0).max()) / _TICKS, 1e-30)
    ticks_LCK = np.rint(finite / tick_s).astype(np.int64)
    part_K = np.maximum(np.rint(_PARTS * weight_K / weight_K.sum()), 1).astype(np.int64)
    model = cp_model.CpModel()
    x = {(la, c): model.new_bool_var("") for la in range(layers) for c in range(options) if there_LC[la, c]}
    for la in range(layers):
        model.add_exactly_one([x[la, c] for c in range(options) if there_LC[la, c]])
    total = [sum(int(ticks_LCK[la, c, k]) * var for (la, c), var in x.items()) for k in range(cases)]
    if amount_LC is not None and budget is not None:
        model.add(sum(int(amount_LC[cell]) * var for cell, var in x.items()) <= budget)
    hinted_K = ticks_LCK[np.arange(layers), hint_L].sum(axis=0)
    if level <= 0.0:
        model.minimize(sum(int(part) * ticks for part, ticks in zip(part_K, total, strict=True)))
    else:
        z = model.new_int_var(0, 2 * _TICKS, "")
        left = 0 if level >= 1.0 else max(round(_PARTS * (1.0 - level)), 1)
        above = [model.new_int_var(0, 2 * _TICKS if left else 0, "") for _ in range(cases)]
        for ticks, u in zip(total, above, strict=True):
            model.add(u >= ticks - z)
        scale = left * int(part_K.sum()) if left else 1  # (1 - a) x sum of weights, in parts x parts
        model.minimize(scale * z + sum(_PARTS * int(part) * u for part, u in zip(part_K, above, strict=True)))
        threshold = int(hinted_K.max())
        model.add_hint(z, threshold)
        for u in above:
            model.add_hint(u, 0)
    for (la, c), var in x.items():
        model.add_hint(var, int(hint_L[la] == c))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.symmetry_level = 0
    solver.parameters.max_deterministic_time = WORK_S * work_limit
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Choice("out of time", hint_L)
    option_L = np.array(
        [next(c for c in range(options) if there_LC[la, c] and solver.value(x[la, c])) for la in range(layers)]
    )
    return Choice("optimal" if status == cp_model.OPTIMAL else "feasible", option_L)


def _hint(
    seconds_LCK: Floats,
    weight_K: Floats,
    there_LC: NDArray[np.bool_],
    amount_LC: NDArray[np.int64] | None,
    budget: int | None,
) -> NDArray[np.int64]:
    mean_LC = np.where(there_LC, (np.where(there_LC[:, :, None], seconds_LCK, 0.0) * weight_K).sum(axis=2), np.inf)
    best_L: NDArray[np.int64] = mean_LC.argmin(axis=1)
    if amount_LC is None or budget is None:
        return best_L
    if amount_LC[np.arange(len(best_L)), best_L].sum() <= budget:
        return best_L
    smallest_L: NDArray[np.int64] = np.where(there_LC, amount_LC, np.iinfo(np.int64).max).argmin(axis=1)
    return smallest_L
