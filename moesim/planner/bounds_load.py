"""Load bounds: tokens over speed that some device must reach in one layer, whatever the copies and the split.

Array letters: E expert, D device, K kind of device (equal slots and speed), Q pattern, V variable.
"""

import itertools
import math

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from moesim.planner.solver import solve_linear
from moesim.planner.water_fill import water_fill

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ROUNDING = 1.0 - 1e-9  # solvers answer to about this; a bound must not be above the truth
MOST_PATTERNS = 512  # sets of experts on a device; with many slots there are more, and they tell little
_MOST_EXPERTS = 4096  # of the linear program; beyond it the closed forms stand alone
_HALVINGS = 16  # of the interval that holds the patterns' answer
_CLEARLY = 1e-6  # devices too many, relative: the program has no solution


def load_bounds(load_E: Floats, slots_D: Ints, speed_D: Floats) -> dict[str, float]:
    """Tokens over relative speed that some device must reach, by the name of the argument.

    total over capacity: all load on all devices with a slot, in proportion to their speed.
    fullest copy: water-filled copies; an expert with c copies loads one of them with load / c, on the fastest devices.
    split relaxation: fractional copies, any split (`split_relaxation`).
    patterns of few slots: what sets of experts fit on one device (`pattern_relaxation`), where there are few sets.

    >>> bounds = load_bounds(np.array([6.0, 1.0, 1.0]), np.array([2, 2]), np.array([1.0, 1.0]))
    >>> {name: round(value, 6) for name, value in bounds.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'total over capacity': 4.0, 'fullest copy': 3.0, 'split relaxation': 4.0,
     'patterns of few slots': 4.0}
    """
    usable_D = slots_D > 0
    bounds = {
        "total over capacity": float(load_E.sum() / speed_D[usable_D].sum()),
        "fullest copy": _fullest_copy(load_E, slots_D, speed_D),
    }
    if load_E.size <= _MOST_EXPERTS and load_E.max() > 0:
        bounds["split relaxation"] = split_relaxation(load_E, slots_D, speed_D)
    if load_E.max() > 0 and num_patterns(load_E.size, slots_D, speed_D) <= MOST_PATTERNS:
        bounds["patterns of few slots"] = pattern_relaxation(load_E, slots_D, speed_D, max(bounds.values()))
    return bounds


def _fullest_copy(load_E: Floats, slots_D: Ints, speed_D: Floats) -> float:
    """The smallest largest load of a copy that the slots allow, on devices as fast as the fastest."""
    fastest = float(speed_D[slots_D > 0].max())
    copies_E = water_fill(load_E, int(slots_D.sum()), int((slots_D > 0).sum()))
    return float((load_E / copies_E).max() / fastest)


def split_relaxation(load_E: Floats, slots_D: Ints, speed_D: Floats) -> float:
    """The linear program over devices of a kind (equal slots and speed), which loses nothing since they are alike.

    Data        load[e]; n[k] devices of kind k with slots[k] and speed[k]
    Variables   x[e,k] >= 0 tokens of e on kind k; y[e,k] in 0..n[k] copies; T >= 0
    Constraints served:   sum over k of x[e,k] = load[e]             for every e
                capacity: sum over e of x[e,k] <= n[k] speed[k] T    for every k
                copies:   x[e,k] <= load[e] y[e,k]                   a copy serves the expert's load at most
                fast:     x[e,k] <= speed[k] T y[e,k] is not linear: left out
                slots:    sum over e of y[e,k] <= n[k] slots[k]      for every k
                placed:   sum over k of y[e,k] >= 1                  implied by served and copies where load > 0
    Objective   min T
    """
    scale = float(load_E.max())
    kinds, count_K = np.unique(np.stack([slots_D, speed_D], axis=1)[slots_D > 0], axis=0, return_counts=True)
    experts, num_kinds = load_E.size, len(kinds)
    cells = experts * num_kinds
    cell_expert, cell_kind = np.divmod(np.arange(cells), num_kinds)
    load = load_E / scale
    rows, columns, values = [], [], []

    def add(row: NDArray[np.integer], column: NDArray[np.integer], value: NDArray[np.floating]) -> None:
        rows.append(row)
        columns.append(column)
        values.append(value)

    ones, cell = np.ones(cells), np.arange(cells)
    add(cell_expert, cell, ones)
    add(experts + cell_kind, cell, ones)
    add(experts + np.arange(num_kinds), np.full(num_kinds, 2 * cells), -count_K * kinds[:, 1])
    add(experts + num_kinds + cell, cell, ones)
    add(experts + num_kinds + cell, cells + cell, -load[cell_expert])
    add(experts + num_kinds + cells + cell_kind, cells + cell, ones)
    shape = (experts + 2 * num_kinds + cells, 2 * cells + 1)
    matrix = csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape)
    most = np.concatenate([load, np.zeros(num_kinds + cells), count_K * kinds[:, 0]])
    upper = np.concatenate([np.full(cells, np.inf), np.repeat(count_K[None, :], experts, axis=0).ravel(), [np.inf]])
    cost = np.zeros(2 * cells + 1)
    cost[-1] = 1.0
    answer = solve_linear(cost, matrix, most, np.arange(shape[0]) < experts, upper.astype(np.float64))
    return float(answer.value_V[-1]) * scale * ROUNDING if answer.status == "optimal" else 0.0


def _kinds(slots_D: Ints, speed_D: Floats) -> list[tuple[int, float, int]]:
    """Slots, speed and number of the devices of each kind that have a slot."""
    kinds, count_K = np.unique(np.stack([slots_D, speed_D], axis=1)[slots_D > 0], axis=0, return_counts=True)
    return [(int(slots), float(speed), int(count)) for (slots, speed), count in zip(kinds, count_K, strict=True)]


def num_patterns(num_experts: int, slots_D: Ints, speed_D: Floats) -> int:
    """Sets of experts that fill a device's slots, over all kinds of devices."""
    return sum(math.comb(num_experts, min(slots, num_experts)) for slots, _, _ in _kinds(slots_D, speed_D))


def pattern_relaxation(load_E: Floats, slots_D: Ints, speed_D: Floats, known: float) -> float:
    """The smallest load / speed, not below `known`, at which fractions of patterns serve every expert.

    Data        load[e]; n[k] devices of kind k with slots[k], speed[k]; T; patterns Q: sets of slots[k] experts
    Variables   z[Q] >= 0 devices with pattern Q of kind k; x[e,Q] >= 0 tokens of e there; v >= 0
    Constraints served:   sum over Q of x[e,Q] = load[e]                              for every e
                placed:   sum over Q with e of z[Q] >= 1                              for every e
                copies:   x[e,Q] <= min(load[e], T speed[k]) z[Q]                     for every e in Q
                capacity: sum over e of x[e,Q] <= T speed[k] z[Q]                     for every Q
                devices:  sum over Q of kind k of z[Q] <= n[k] (1 + v)                for every k
    Objective   min v; v > 0 proves that no placement reaches T. T is halved in on between what is proven and what is not.
    """
    scale, kinds = float(load_E.max()), _kinds(slots_D, speed_D)
    patterns = [
        (kind, experts)
        for kind, (slots, _, _) in enumerate(kinds)
        for experts in itertools.combinations(range(load_E.size), min(slots, load_E.size))
    ]
    low = known / scale
    high = max(low, float(load_E.sum()) / scale / min(speed for _, speed, _ in kinds))  # all on the slowest device
    if not _too_small(low * (1.0 + _CLEARLY), load_E / scale, kinds, patterns):
        return known
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if _too_small(middle, load_E / scale, kinds, patterns):
            low = middle
        else:
            high = middle
    return low * scale * ROUNDING


def _too_small(
    most: float, load_E: Floats, kinds: list[tuple[int, float, int]], patterns: list[tuple[int, tuple[int, ...]]]
) -> bool:
    """Whether the program proves that some device is above `most`; columns: z by pattern, x by pattern and expert, v."""
    kind_Q = np.array([kind for kind, _ in patterns])
    expert_X = np.array([expert for _, experts in patterns for expert in experts])
    pattern_X = np.repeat(np.arange(len(patterns)), [len(experts) for _, experts in patterns])
    room_Q = most * np.array([kinds[kind][1] for kind in kind_Q])
    num_e, num_q, num_x, num_k = load_E.size, len(patterns), expert_X.size, len(kinds)
    x, ones = num_q + np.arange(num_x), np.ones(num_x)
    copies, capacity = 2 * num_e + np.arange(num_x), 2 * num_e + num_x + pattern_X
    devices = 2 * num_e + num_x + num_q
    entries = [
        (expert_X, x, ones),
        (num_e + expert_X, pattern_X, -ones),
        (copies, x, ones),
        (copies, pattern_X, -np.minimum(load_E[expert_X], room_Q[pattern_X])),
        (capacity, x, ones),
        (2 * num_e + num_x + np.arange(num_q), np.arange(num_q), -room_Q),
        (devices + kind_Q, np.arange(num_q), np.ones(num_q)),
        (devices + np.arange(num_k), np.full(num_k, num_q + num_x), -np.array([float(count) for _, _, count in kinds])),
    ]
    row, column, value = (np.concatenate(part) for part in zip(*entries, strict=True))
    most_B = np.concatenate([load_E, -np.ones(num_e), np.zeros(num_x + num_q), [float(count) for _, _, count in kinds]])
    cost_V = np.zeros(num_q + num_x + 1)
    cost_V[-1] = 1.0
    matrix = csr_matrix((value, (row, column)), (most_B.size, cost_V.size))
    answer = solve_linear(cost_V, matrix, most_B, np.arange(most_B.size) < num_e, np.full(cost_V.size, np.inf))
    return answer.status == "optimal" and float(answer.value_V[-1]) > _CLEARLY
