"""Fit an ExpertCurve: a roofline of four numbers, then corrections in log2 of shape, chosen by held-out shapes.

The corrections are piecewise multilinear surfaces with a ridge penalty, fitted to log(measured / roofline) by reweighted
least squares (Huber weights), so that a few wild rows do not move them. Array letters: M measurement, C corner of a surface.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from calibrate.expert_load import tokens_per_expert
from calibrate.fit.errors import digest, fit_error, weighted_ridge
from calibrate.measurement import Measurement
from moesim.calibration_curves import ExpertCurve, FitError, Quantity, Surface, corners
from moesim.cluster import Accelerator
from moesim.compute import arithmetic_type, expert_activation_bytes
from moesim.expert_time import BalancedGroups, group_time, roofline_terms
from moesim.model import dtype_bytes

Floats = NDArray[np.float64]
_TILE_TOKENS = 16  # rows of the smallest matrix instruction that grouped kernels use; larger tiles show in the surfaces
_FOLDS = 5
_HALF = 0.03  # residuals (in log) above this get less weight
_FEWEST_ROWS = 4
_MOST_JUDGED = 4000  # rows that sets of surfaces are compared on

# The sets of surfaces tried, simplest first: (quantities, spacing of knots in log2, ridge penalty).
_Surfaces = tuple[tuple[tuple[Quantity, ...], tuple[float, ...], float], ...]
_MAIN: _Surfaces = (
    (("tokens",), (1.0,), 0.3),
    (("groups",), (1.0,), 0.3),
    (("d_ff",), (1.0,), 0.3),
    (("d_model",), (0.5,), 0.3),
)
_PAIRS: _Surfaces = ((("tokens", "d_ff"), (1.0, 1.0), 1.0), (("tokens", "groups"), (1.0, 1.0), 1.0))
_ROOFS: _Surfaces = ((("weight_bytes", "flops"), (2.0, 1.0), 1.0),)
CANDIDATES: tuple[_Surfaces, ...] = ((), _MAIN[:1], _MAIN, _MAIN + _PAIRS, _MAIN + _PAIRS + _ROOFS)


class Rates(NamedTuple):
    """Peaks a curve is relative to: FLOP/s of the weight type's arithmetic and bytes/s of memory."""

    flops_per_s: float
    memory_bytes_per_s: float

    @classmethod
    def of(cls, accelerator: Accelerator, dtype: str) -> "Rates":
        """Datasheet peaks of the accelerator for weights of that type."""
        flops = accelerator.flops_per_s
        return cls(flops.get(arithmetic_type(dtype), flops["bf16"]), accelerator.memory_bytes_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRows:
    """Measurements of expert MLPs as balanced groups [M] with their times; `shape_M` numbers the models they are from."""

    groups: BalancedGroups
    time_M: Floats
    shape_M: NDArray[np.int64]
    ids: tuple[str, ...]

    def part(self, chosen_M: NDArray[np.bool_]) -> "ExpertRows":
        """Some of the rows."""
        groups = self.groups
        return ExpertRows(
            groups=BalancedGroups(
                tokens_A=groups.tokens_A[chosen_M],
                groups_A=groups.groups_A[chosen_M],
                d_model_A=groups.d_model_A[chosen_M],
                d_ff_A=groups.d_ff_A[chosen_M],
                params_A=groups.params_A[chosen_M],
                activation_bytes_A=groups.activation_bytes_A[chosen_M],
                weight_bytes=groups.weight_bytes,
            ),
            time_M=self.time_M[chosen_M],
            shape_M=self.shape_M[chosen_M],
            ids=tuple(name for name, kept in zip(self.ids, chosen_M.tolist(), strict=True) if kept),
        )


def expert_rows(measurements: Sequence[Measurement]) -> ExpertRows:
    """Balanced groups behind measurements of one weight type; each stands for its active experts' mean tokens."""
    tokens, groups, d_model, d_ff, matrices, shapes = [], [], [], [], [], []
    for measurement in measurements:
        params = measurement.params
        active = [load for load in tokens_per_expert(params) if load > 0]
        tokens.append(sum(active) / len(active))
        groups.append(len(active))
        d_model.append(float(params["d_model"]))
        d_ff.append(float(params["d_ff"]))
        matrices.append(3 if params.get("gated", True) else 2)
        # Tensor-parallel slices of one model are one shape: what is held out is a model, not one of its slices.
        shapes.append((params["d_model"], params.get("experts", params["groups"]), params.get("top_k", 1)))
    number_of = {shape: number for number, shape in enumerate(sorted(set(shapes)))}
    d_model_M, d_ff_M = np.array(d_model), np.array(d_ff)
    return ExpertRows(
        groups=BalancedGroups(
            tokens_A=np.array(tokens),
            groups_A=np.array(groups, dtype=np.float64),
            d_model_A=d_model_M,
            d_ff_A=d_ff_M,
            params_A=np.array(matrices) * d_model_M * d_ff_M,
            activation_bytes_A=np.array(
                [expert_activation_bytes(m, f) for m, f in zip(d_model_M, d_ff_M, strict=True)]
            ),
            weight_bytes=dtype_bytes(str(measurements[0].params["dtype"]).removesuffix("_block")),
        ),
        time_M=np.array([measurement.time_s for measurement in measurements]),
        shape_M=np.array([number_of[shape] for shape in shapes]),
        ids=tuple(measurement.id for measurement in measurements),
    )


def fit_expert_curve(rows: ExpertRows, rates: Rates, kernel: str, source: str) -> ExpertCurve:
    """The curve of those rows, with the candidate of least held-out error; raises ValueError below four rows."""
    if len(rows.time_M) < _FEWEST_ROWS:
        raise ValueError(f"{len(rows.time_M)} expert measurements of {kernel} are too few; at least {_FEWEST_ROWS}")
    best: tuple[float, _Surfaces, FitError] | None = None
    thin = rows.part(np.arange(len(rows.time_M)) % -(-len(rows.time_M) // _MOST_JUDGED) == 0)
    for candidate in CANDIDATES:
        error = _held_out(thin, rates, candidate, kernel, source)
        score = error.median + 0.25 * error.p90
        if best is None or score < 0.98 * best[0]:  # a richer set must earn its place
            best = (score, candidate, error)
    assert best is not None
    return _fitted(rows, rates, best[1], kernel, source, best[2])


def predicted(curve: ExpertCurve, rows: ExpertRows, rates: Rates) -> Floats:
    """Seconds of balanced rows [M] under a curve."""
    many = np.ones(len(rows.time_M))
    return group_time(curve, rows.groups, rates.flops_per_s * many, rates.memory_bytes_per_s * many)[0]


def _held_out(rows: ExpertRows, rates: Rates, candidate: _Surfaces, kernel: str, source: str) -> FitError:
    """Error at models that were not fitted, five folds; where all rows are of few models, at token counts not fitted."""
    predicted_M, what = held_out_times(rows, rates, candidate, kernel, source)
    return fit_error(predicted_M, rows.time_M, f"held out: {what} not fitted, {_FOLDS} folds")


def same_surfaces(curve: ExpertCurve) -> _Surfaces:
    """The candidate a curve was fitted with."""
    found = tuple(surface.against for surface in curve.surfaces)
    matching = [c for c in CANDIDATES if set(found) <= {against for against, _, _ in c}]
    return matching[0] if matching else CANDIDATES[-1]


def held_out_times(
    rows: ExpertRows, rates: Rates, candidate: _Surfaces, kernel: str, source: str
) -> tuple[Floats, str]:
    """Seconds of every row [M], predicted by a fit that did not see its model (or its token count), and which of the two."""
    by_shape = int(rows.shape_M.max()) + 1 >= _FOLDS
    _, size_M = np.unique(np.round(rows.groups.tokens_A, 6), return_inverse=True)
    fold_M = (rows.shape_M if by_shape else size_M) % _FOLDS
    predicted_M = np.zeros(len(rows.time_M))
    for fold in range(_FOLDS):
        out_M = fold_M == fold
        if not out_M.any() or out_M.all():
            predicted_M[out_M] = rows.time_M[out_M] * 2.0  # nothing to learn from: counts as an error of 100 %
            continue
        curve = _fitted(rows.part(~out_M), rates, candidate, kernel, source, None)
        predicted_M[out_M] = predicted(curve, rows.part(out_M), rates)
    return predicted_M, "models (width, experts, top-k)" if by_shape else "token counts"


def _fitted(
    rows: ExpertRows, rates: Rates, candidate: _Surfaces, kernel: str, source: str, error: FitError | None
) -> ExpertCurve:
    groups = rows.groups
    quantities: dict[Quantity, Floats] = {
        "tokens": groups.tokens_A,
        "groups": groups.groups_A,
        "d_model": groups.d_model_A,
        "d_ff": groups.d_ff_A,
    }
    roofline = _roofline(rows, rates, kernel, source)
    curve = roofline.model_copy(
        update={
            "surfaces": _surfaces(rows, rates, roofline, candidate),
            "valid_range": {name: (float(at.min()), float(at.max())) for name, at in quantities.items()},
            "measurements": digest(rows.ids),
        }
    )
    return curve if error is None else curve.model_copy(update={"error": error})


def _roofline(rows: ExpertRows, rates: Rates, kernel: str, source: str) -> ExpertCurve:
    """The curve without surfaces: launch, two efficiencies and an activation factor by robust least squares."""

    def curve(theta: Floats) -> ExpertCurve:
        return ExpertCurve(
            kernel=kernel,
            launch_s=float(np.exp(theta[0])),
            memory_fraction=float(np.exp(theta[1])),
            flops_fraction=float(np.exp(theta[2])),
            activation_factor=float(np.exp(theta[3])),
            tile_tokens=_TILE_TOKENS,
            valid_range={},
            kind="measured",
            source=source,
            error=FitError(n=len(rows.time_M), median=0.0, mape=0.0, p90=0.0, protocol="not judged"),
        )

    thin = rows.part(np.arange(len(rows.time_M)) % max(len(rows.time_M) // 2000, 1) == 0)
    fastest = float(np.log(rows.time_M.min()))
    start = np.array([fastest - 0.7, np.log(0.7), np.log(0.5), 0.0])
    bounds = ([-23.0, np.log(0.01), np.log(0.005), -3.0], [0.0, np.log(1.2), np.log(1.2), 3.5])

    def residual(theta: Floats) -> Floats:
        many = np.ones(len(thin.time_M))
        weights, arithmetic, moved = roofline_terms(
            curve(theta), thin.groups, rates.flops_per_s * many, rates.memory_bytes_per_s * many
        )
        log_ratio: Floats = np.log((np.exp(theta[0]) + np.maximum(weights, arithmetic) + moved) / thin.time_M)
        return log_ratio

    start = np.clip(start, *bounds)
    found = least_squares(residual, start, bounds=bounds, loss="soft_l1", f_scale=0.1, max_nfev=200)
    return curve(np.round(found.x, 6))


def _surfaces(rows: ExpertRows, rates: Rates, roofline: ExpertCurve, candidate: _Surfaces) -> tuple[Surface, ...]:
    """The corrections of that set; a quantity that does not vary gets none."""
    log2_of = rows.groups.log2(roofline.tile_tokens)
    axes = [
        (against, tuple(_knots(log2_of[name], step) for name, step in zip(against, steps, strict=True)), penalty)
        for against, steps, penalty in candidate
    ]
    axes = [axis for axis in axes if all(len(knots) > 1 for knots in axis[1])]
    if not axes:
        return ()
    design = np.hstack([_columns(knots, [log2_of[name] for name in against]) for against, knots, _ in axes])
    penalty = np.concatenate([np.full(int(np.prod([len(k) for k in knots])), ridge) for _, knots, ridge in axes])
    target = np.log(rows.time_M / predicted(roofline, rows, rates))
    value_C = weighted_ridge(design, target, penalty, _HALF)
    surfaces, first = [], 0
    for against, knots, _ in axes:
        count = int(np.prod([len(axis) for axis in knots]))
        value = np.clip(value_C[first : first + count], -15.0, 15.0)
        surfaces.append(Surface(against=against, knots=knots, value=tuple(float(x) for x in np.round(value, 5))))
        first += count
    return tuple(surfaces)


def _knots(log2_M: Floats, step: float) -> tuple[float, ...]:
    """Multiples of `step` that enclose the data; one knot where the data do not vary."""
    low, high = np.floor(log2_M.min() / step), np.ceil(log2_M.max() / step)
    if log2_M.max() - log2_M.min() < 1e-9:
        return (float(low * step),)
    return tuple(float(x * step) for x in np.arange(low, high + 0.5))


def _columns(knots: tuple[tuple[float, ...], ...], log2_M: list[Floats]) -> Floats:
    count = int(np.prod([len(axis) for axis in knots]))
    columns = np.zeros((len(log2_M[0]), count))
    for index, weight in corners(knots, log2_M):
        columns[np.arange(len(weight)), index] += weight
    return columns
