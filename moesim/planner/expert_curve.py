"""Fitted expert times for the planner's kernels: moesim.expert_time.group_time, one balanced group at a time.

Array letters: E expert, S rank, U surface, A axis (first, second), M knot, X corner.

    t(n, G) = ( launch + max(G weight bytes x byte_s, G rows params x flop_s) + G n activation bytes x moved_s )
              x exp( sum over surfaces of their multilinear interpolation at log2 of tokens, groups, d_model, d_ff,
                     weight bytes, FLOP )
where a device with G active experts takes the mean of t over them; its speed divides what is not the launch.
"""

from typing import NamedTuple, get_args

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.calibration_curves import ExpertCurve, Quantity
from moesim.model import MoEModel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
QUANTITIES: tuple[str, ...] = get_args(Quantity)


class CurveTables(NamedTuple):
    """An ExpertCurve as arrays; `fitted` False: the profile has none for the weight type and the rest is empty.

    Axis a of surface u is log2 of quantity `quantity_UA[u, a]` (-1: there is no such axis) between the knots
    `knots_M[first_UA[u, a]:first_UA[u, a] + count_UA[u, a]]`; its corners start at `value_X[corner_U[u]]`.
    """

    fitted: bool
    d_model: float
    d_ff_E: Floats
    speed_S: Floats
    quantity_UA: Ints
    first_UA: Ints
    count_UA: Ints
    knots_M: Floats
    corner_U: Ints
    value_X: Floats


def curve_tables(curve: ExpertCurve | None, model: MoEModel, d_ff_E: Floats, speed_S: Floats) -> CurveTables:
    """The tables of a profile's curve for the weight type of `model`'s experts, or of none."""
    surfaces = () if curve is None else curve.surfaces
    knots: list[float] = []
    values: list[float] = []
    quantity_UA = np.full((len(surfaces), 2), -1, dtype=np.int64)
    first_UA, count_UA = np.zeros_like(quantity_UA), np.ones_like(quantity_UA)
    corner_U = np.zeros(len(surfaces), dtype=np.int64)
    for u, surface in enumerate(surfaces):
        for a, (name, axis) in enumerate(zip(surface.against, surface.knots, strict=True)):
            quantity_UA[u, a], first_UA[u, a], count_UA[u, a] = QUANTITIES.index(name), len(knots), len(axis)
            knots += axis
        corner_U[u] = len(values)
        values += surface.value
    return CurveTables(
        fitted=curve is not None,
        d_model=float(model.payload_width),
        d_ff_E=d_ff_E,
        speed_S=speed_S,
        quantity_UA=quantity_UA,
        first_UA=first_UA,
        count_UA=count_UA,
        knots_M=np.array(knots, dtype=np.float64),
        corner_U=corner_U,
        value_X=np.array(values, dtype=np.float64),
    )


@njit(cache=True, nogil=True)
def balanced_group_s(costs, expert, rank, tokens, rows, groups):  # type: ignore[no-untyped-def]  # types are numba's
    """Seconds of `groups` experts like `expert` with `tokens` tokens (`rows` in whole tiles) each, at speed 1."""
    curve = costs.curve
    speed = curve.speed_S[rank]  # rates of the tables are with the device's speed
    weight_bytes, flops = groups * costs.weight_bytes_E[expert], 2.0 * costs.params_E[expert] * rows * groups
    roof = max(weight_bytes * costs.byte_s_S[rank], 0.5 * flops * costs.flop_s_S[rank])
    moved_s = groups * tokens * costs.activation_bytes_E[expert] * costs.moved_s_S[rank]
    log2_of = np.log2(np.array([tokens, groups, curve.d_model, curve.d_ff_E[expert], weight_bytes, flops]))
    factor = 0.0
    for surface in range(curve.corner_U.size):
        factor += _at(curve, surface, log2_of)
    return (costs.launch_s + (roof + moved_s) * speed) * np.exp(factor)


@njit(cache=True, nogil=True)
def with_speed(costs, rank, mean_s):  # type: ignore[no-untyped-def]
    """Seconds on `rank` of what takes `mean_s` at speed 1: the launch goes no slower on a slow device."""
    launch_s = min(costs.launch_s, mean_s)
    return launch_s + (mean_s - launch_s) / costs.curve.speed_S[rank]


@njit(cache=True, nogil=True)
def _at(curve, surface, log2_of):  # type: ignore[no-untyped-def]
    """The surface's value: multilinear between knots, flat outside."""
    left, share = _place(curve, surface, 0, log2_of)
    row = curve.corner_U[surface] + left * curve.count_UA[surface, 1]
    if curve.quantity_UA[surface, 1] < 0:
        return (1.0 - share) * curve.value_X[row] + share * curve.value_X[row + 1]
    below, part = _place(curve, surface, 1, log2_of)
    row += below
    above = row + curve.count_UA[surface, 1]
    lower = (1.0 - part) * curve.value_X[row] + part * curve.value_X[row + 1]
    upper = (1.0 - part) * curve.value_X[above] + part * curve.value_X[above + 1]
    return (1.0 - share) * lower + share * upper


@njit(cache=True, nogil=True)
def _place(curve, surface, axis, log2_of):  # type: ignore[no-untyped-def]
    """The knot left of the point on an axis, and how far between it and the next the point is."""
    first, count = curve.first_UA[surface, axis], curve.count_UA[surface, axis]
    x = min(max(log2_of[curve.quantity_UA[surface, axis]], curve.knots_M[first]), curve.knots_M[first + count - 1])
    left = 0
    while left < count - 2 and curve.knots_M[first + left + 1] <= x:
        left += 1
    start = curve.knots_M[first + left]
    return left, (x - start) / (curve.knots_M[first + left + 1] - start)
