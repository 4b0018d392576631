"""Robust least squares inside bounds by Levenberg-Marquardt steps: small normal equations, deterministic.

scipy's solver does the same by singular values, on which threaded LAPACK spends a hundred times the work of such small
matrices. Array letters: M residual, P parameter, Q row of the quadratic penalty.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_MOST_STEPS = 80
_ENOUGH = 1e-7  # relative decrease of the cost
_MOST_DAMPING = 1e8


def minimise(
    residual: Callable[[Floats], tuple[Floats, Floats]],
    penalty: Callable[[Floats], tuple[Floats, Floats]],
    start_P: Floats,
    low_P: Floats,
    high_P: Floats,
    scale: float,
) -> Floats:
    """Parameters [P] of least soft-L1 cost of `residual` plus squares of `penalty`, within bounds.

    Both give their values [M] or [Q] and derivatives [M, P] or [Q, P]. Residuals well above `scale` count linearly.
    """
    theta_P, damping = np.clip(start_P, low_P, high_P), 1e-3
    cost, gradient_P, curve_PP = _step(residual, penalty, theta_P, scale)
    for _ in range(_MOST_STEPS):
        free_P = ~(((theta_P <= low_P) & (gradient_P > 0.0)) | ((theta_P >= high_P) & (gradient_P < 0.0)))
        if not free_P.any():
            break
        free = np.flatnonzero(free_P)
        part_PP = curve_PP[np.ix_(free, free)]
        trial_P = theta_P.copy()
        damped_PP = part_PP + np.diag(damping * np.diag(part_PP) + 1e-9)
        trial_P[free] -= np.linalg.solve(damped_PP, gradient_P[free])
        trial_P = np.clip(trial_P, low_P, high_P)
        new_cost, new_gradient_P, new_curve_PP = _step(residual, penalty, trial_P, scale)
        if new_cost < cost:
            done = cost - new_cost < _ENOUGH * cost
            theta_P, cost, gradient_P, curve_PP = trial_P, new_cost, new_gradient_P, new_curve_PP
            damping = max(damping / 5.0, 1e-9)
            if done:
                break
        else:
            damping *= 4.0
            if damping > _MOST_DAMPING:
                break
    return theta_P


def _step(
    residual: Callable[[Floats], tuple[Floats, Floats]],
    penalty: Callable[[Floats], tuple[Floats, Floats]],
    theta_P: Floats,
    scale: float,
) -> tuple[float, Floats, Floats]:
    """The cost, half its gradient [P] and the Gauss-Newton matrix [P, P]."""
    value_M, slope_MP = residual(theta_P)
    quiet_Q, quiet_QP = penalty(theta_P)
    root_M = np.sqrt(1.0 + (value_M / scale) ** 2)
    cost = float((2.0 * scale**2 * (root_M - 1.0)).sum() + (quiet_Q**2).sum())
    weighted_MP = slope_MP / root_M[:, None]
    gradient_P = weighted_MP.T @ value_M + quiet_QP.T @ quiet_Q
    return cost, gradient_P, weighted_MP.T @ slope_MP + quiet_QP.T @ quiet_QP
