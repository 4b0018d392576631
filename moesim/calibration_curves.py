"""Curves of a CalibrationProfile: figures, costs against a count, and expert rates against shape, each with its error.

Array letters: A active expert (one with at least one token on its device), X corner of a surface.
"""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from moesim.provenance import Kind

Floats = NDArray[np.float64]
Against = Literal["nodes", "ranks", "message_bytes", "rank_bytes"]
Quantity = Literal["tokens", "groups", "d_model", "d_ff", "weight_bytes", "flops"]
LARGEST_CORRECTION = 20.0  # natural logarithm


class ProfilePart(BaseModel):
    """What every part of a profile is: frozen, without unknown keys, without NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FitError(ProfilePart):
    """Relative errors of a fit: |predicted / measured - 1| over `n` measurements; `protocol` says which ones were held out."""

    n: int = Field(ge=1)
    median: float = Field(ge=0)
    mape: float = Field(ge=0)
    p90: float = Field(ge=0)
    protocol: str = Field(min_length=3)


class Figure(ProfilePart):
    """One positive number with its kind and source; `fit_error` is the relative error of a fit, absent when not fitted."""

    value: float = Field(ge=0, le=1e30)
    kind: Kind
    source: str = Field(min_length=3)
    fit_error: float | None = Field(default=None, ge=0)
    measurements: tuple[str, ...] = ()


class Curve(ProfilePart):
    """A value against log2 of a count or size: linear between its points, and beyond them said to be extrapolated.

    `beyond`: how it goes on outside its points, along the end segment or flat. `scale`: whether the value or its logarithm
    is linear. `measurements` are ids, or one digest of many.
    """

    against: Against
    at: tuple[float, ...] = Field(min_length=1)
    value: tuple[float, ...] = Field(min_length=1)
    kind: Kind
    source: str = Field(min_length=3)
    measurements: tuple[str, ...] = ()
    fit_error: float | None = Field(default=None, ge=0)
    beyond: Literal["slope", "flat"] = "slope"
    scale: Literal["linear", "log"] = "linear"

    def model_post_init(self, _context: Any) -> None:
        """Check that the points are usable."""
        if len(self.at) != len(self.value) or list(self.at) != sorted(set(self.at)) or self.at[0] <= 0:
            raise ValueError(
                f"curve needs increasing positive `at` with one `value` each, got {self.at} and {self.value}"
            )
        if min(self.value) < 0:
            raise ValueError(f"curve values must not be negative, got {min(self.value)}")
        if self.scale == "log" and min(self.value) <= 0:
            raise ValueError("curve values on a log scale must be positive")

    @property
    def valid_range(self) -> tuple[float, float]:
        """Counts between which the curve rests on published points."""
        return self.at[0], self.at[-1]

    def covers(self, count: float) -> bool:
        """Whether `count` is inside the valid range."""
        return self.at[0] <= count <= self.at[-1]

    def read(self, count: float) -> float:
        """Value at `count`, linear in log2(count); outside the range as `beyond` says, never below zero.

        >>> Curve(against="nodes", at=(2, 4), value=(10.0, 30.0), kind="measured", source="doc").read(8)
        50.0
        """
        if len(self.at) == 1:
            return self.value[0]
        if self.beyond == "flat":
            count = min(max(count, self.at[0]), self.at[-1])
        x = math.log2(count)
        right = next((i for i in range(1, len(self.at) - 1) if count <= self.at[i]), len(self.at) - 1)
        left = right - 1
        x0, x1 = math.log2(self.at[left]), math.log2(self.at[right])
        share = (x - x0) / (x1 - x0)
        if self.scale == "log":
            return float(self.value[left] * (self.value[right] / self.value[left]) ** share)
        return max(self.value[left] + (self.value[right] - self.value[left]) * share, 0.0)


class Surface(ProfilePart):
    """A correction against one or two quantities: multilinear in their log2 between knots, flat outside.

    `knots[i]` are log2 of `against[i]`, increasing; `value` holds natural logarithms of the factor, the last quantity
    running fastest.
    """

    against: tuple[Quantity, ...] = Field(min_length=1, max_length=2)
    knots: tuple[tuple[float, ...], ...]
    value: tuple[float, ...]

    def model_post_init(self, _context: Any) -> None:
        """Check that knots and values fit each other."""
        if len(self.knots) != len(self.against) or any(
            len(axis) < 2 or list(axis) != sorted(set(axis)) for axis in self.knots
        ):
            raise ValueError(f"surface needs one list of two or more increasing knots for each of {self.against}")
        if len(self.value) != math.prod(len(axis) for axis in self.knots):
            raise ValueError(f"surface needs one value per corner of its knots, got {len(self.value)}")
        if max(abs(value) for value in self.value) > LARGEST_CORRECTION:
            raise ValueError(f"surface values are logarithms of at most {LARGEST_CORRECTION:g}")

    def log_factor(self, log2_of: dict[str, Floats]) -> Floats:
        """The correction's logarithm [A] at log2 of every quantity [A]."""
        value_X = np.array(self.value)
        total: Floats = np.zeros(len(log2_of[self.against[0]]))
        for index, weight in corners(self.knots, [log2_of[name] for name in self.against]):
            total += weight * value_X[index]
        return total


def corners(knots: tuple[tuple[float, ...], ...], log2_A: list[Floats]) -> list[tuple[NDArray[np.int64], Floats]]:
    """Corner indices and multilinear weights of points among `knots`: 2 pairs for one axis, 4 for two; weights sum to 1."""
    result: list[tuple[NDArray[np.int64], Floats]] = [
        (np.zeros(len(log2_A[0]), dtype=np.int64), np.ones(len(log2_A[0])))
    ]
    for axis, x_A in zip(knots, log2_A, strict=True):
        at = np.array(axis)
        x = np.clip(x_A, at[0], at[-1])
        left = np.clip(np.searchsorted(at, x, side="right") - 1, 0, len(at) - 2)
        upper = (x - at[left]) / (at[left + 1] - at[left])
        result = [
            (index * len(at) + left + side, weight * share)
            for index, weight in result
            for side, share in ((0, 1.0 - upper), (1, upper))
        ]
    return result


class ExpertCurve(ProfilePart):
    """Time of one device's grouped expert MLP in one weight type: a roofline, times corrections fitted to measurements.

    A balanced group of G experts with n tokens each takes
    (launch + max(weights / (memory_fraction x HBM rate), FLOP of whole tiles / (flops_fraction x peak))
     + activations x activation_factor / HBM rate) x exp(sum of surfaces at n, G, d_model, d_ff);
    an uneven group takes the mean over its active experts of what a balanced group of theirs would take.
    `valid_range`: what was measured of each quantity.
    """

    kernel: str = Field(min_length=1)
    launch_s: float = Field(gt=0, le=1)
    memory_fraction: float = Field(gt=0, le=10)
    flops_fraction: float = Field(gt=0, le=10)
    activation_factor: float = Field(ge=0, le=100)
    tile_tokens: int = Field(ge=1, le=4096)
    surfaces: tuple[Surface, ...] = ()
    valid_range: dict[Quantity, tuple[float, float]]
    kind: Kind
    source: str = Field(min_length=3)
    measurements: tuple[str, ...] = ()
    error: FitError

    def outside(self, **quantities: float) -> list[str]:
        """The quantities that were not measured at the value given, each with its measured range."""
        found = []
        for name, value in quantities.items():
            low, high = self.valid_range.get(name, (0.0, math.inf))  # type: ignore[call-overload]
            if not low <= value <= high:
                found.append(f"{name} {value:g} (measured: {low:g} to {high:g})")
        return found
