"""What every fit shares: relative errors, the digest of many measurement ids, and robust ridge regression."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moesim.calibration_curves import FitError

Floats = NDArray[np.float64]
_MOST_IDS = 32
_ITERATIONS = 6
_CHUNK = 8192


def fit_error(predicted: Floats, measured: Floats, protocol: str) -> FitError:
    """|predicted / measured - 1| in the median, the mean and at the 90th percentile; raises ValueError without rows."""
    if len(measured) == 0:
        raise ValueError("an error needs at least one measurement")
    error = np.abs(predicted / measured - 1.0)
    return FitError(
        n=len(measured),
        median=round(float(np.median(error)), 5),
        mape=round(float(error.mean()), 5),
        p90=round(float(np.quantile(error, 0.9)), 5),
        protocol=protocol,
    )


def digest(ids: Sequence[str]) -> tuple[str, ...]:
    """The ids themselves, or one line that identifies a set too long to list.

    >>> digest(["b", "a"])
    ('b', 'a')
    """
    if len(ids) <= _MOST_IDS:
        return tuple(ids)
    name = hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]
    return (f"{len(ids)} measurements, sha256 of their sorted ids {name}",)


def weighted_ridge(design: Floats, target: Floats, penalty: Floats, half: float) -> Floats:
    """Least squares with a ridge penalty per column; rows whose residual exceeds `half` count for half / residual."""
    coefficients: Floats = np.zeros(design.shape[1])
    weight = np.ones(len(target))
    for _ in range(_ITERATIONS):
        normal, right = np.diag(penalty + 1e-6), np.zeros(design.shape[1])
        for first in range(0, len(target), _CHUNK):
            rows = slice(first, first + _CHUNK)
            weighted = design[rows] * weight[rows, None]
            normal += weighted.T @ design[rows]
            right += weighted.T @ target[rows]
        coefficients = np.asarray(np.linalg.solve(normal, right), dtype=np.float64)
        weight = half / np.maximum(np.abs(target - design @ coefficients), half)
    return coefficients
