"""Audit of a trace: experts that were busier or idler in some steps than the inputs of those steps explain.

What the inputs were is read off the other experts: of every input unit (sequences of a window) the shares of all even
experts predict those of the odd ones and the other way round, by regression on other windows.
Array letters: V window, U unit, L layer, E expert, X (layer, expert) columns, N units of all windows, F features.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

ALARM_RATE = 0.01  # chance that a stationary trace has any flag, did scores follow their law
_LEAST_WINDOWS = 4
_FEATURES = 6
_LISTED = 50
_FLOOR = 4.0  # tokens^2 added to a variance: an expert nearly never chosen is not flagged for a few tokens


def audit(
    count_VULE: NDArray[np.int32], tokens_VUL: NDArray[np.int64], layers: tuple[int, ...]
) -> dict[str, Any] | None:
    """{windows, cells, threshold, flagged, table}, or None for fewer than 4 windows or 24 units with tokens.

    z = (tokens - expected) / standard deviation for each window, layer and expert. The variance is what the binomial law
    gives times the dispersion of that expert's units in other windows; all z are divided by their common robust scale
    where it is above 1. Flagged: |z| above the quantile at which all cells together alarm with chance 0.01, of Student's
    law with as many degrees of freedom as a window has units (sums of few units have heavy tails). `table` has the 50
    largest: {window, layer, expert, tokens, expected, z}; windows are equal parts of the steps, counted from 0, `layer`
    is the model layer index.
    """
    num_windows, _, num_layers, num_experts = count_VULE.shape
    tokens_VU = tokens_VUL.max(axis=2)
    window_N, unit_N = np.nonzero(tokens_VU)
    if num_windows < _LEAST_WINDOWS or len(window_N) < 4 * _FEATURES or num_experts < 4:
        return None
    tokens_N = tokens_VU[window_N, unit_N].astype(np.float64)
    count_NX = count_VULE[window_N, unit_N].reshape(len(window_N), -1).astype(np.float64)
    is_odd_X = np.tile(np.arange(num_experts) % 2 == 1, num_layers)
    expected_NX = np.empty_like(count_NX)
    for predicts_X in (is_odd_X, ~is_odd_X):
        feature_NF = _features(count_NX[:, predicts_X], tokens_N)
        expected_NX[:, ~predicts_X] = _expected(count_NX[:, ~predicts_X], tokens_N, feature_NF, window_N, num_windows)
    z_VX, sum_VX, mean_VX = _scores(count_NX, expected_NX, tokens_N, window_N, num_windows)
    threshold = float(student.isf(ALARM_RATE / 2 / z_VX.size, len(window_N) / num_windows))
    flagged = np.argwhere(np.abs(z_VX) > threshold)
    order = np.argsort(-np.abs(z_VX[tuple(flagged.T)]), kind="stable")[:_LISTED]
    table = [
        {
            "window": int(window),
            "layer": layers[column // num_experts],
            "expert": int(column % num_experts),
            "tokens": int(sum_VX[window, column]),
            "expected": float(mean_VX[window, column]),
            "z": float(z_VX[window, column]),
        }
        for window, column in flagged[order]
    ]
    return {
        "windows": num_windows,
        "cells": int(z_VX.size),
        "threshold": threshold,
        "flagged": len(flagged),
        "table": table,
    }


def _features(count_NX: NDArray[np.float64], tokens_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, F] a one and the main directions in which the units' shares differ."""
    share_NX = np.sqrt(
        count_NX / tokens_N[:, None]
    )  # square roots: noise of the same size for rare and frequent experts
    weight_N1 = np.sqrt(tokens_N)[:, None]
    centred_NX = (share_NX - np.average(share_NX, axis=0, weights=tokens_N)) * weight_N1
    values_N, vectors_NN = np.linalg.eigh(centred_NX @ centred_NX.T)
    main_NF = vectors_NN[:, ::-1][:, :_FEATURES] * np.sqrt(np.maximum(values_N[::-1][:_FEATURES], 0.0)) / weight_N1
    return np.concatenate([np.ones_like(weight_N1), main_NF], axis=1)


def _expected(
    count_NX: NDArray[np.float64],
    tokens_N: NDArray[np.float64],
    feature_NF: NDArray[np.float64],
    window_N: NDArray[np.int64],
    num_windows: int,
) -> NDArray[np.float64]:
    """[N, X] tokens expected of each unit: shares regressed on the features over the units of all other windows."""
    expected_NX = np.empty_like(count_NX)
    share_NX = count_NX / tokens_N[:, None]
    for window in range(num_windows):
        here_N = window_N == window
        weight_N1 = np.sqrt(tokens_N[~here_N])[:, None]
        fit_FX = np.linalg.lstsq(feature_NF[~here_N] * weight_N1, share_NX[~here_N] * weight_N1, rcond=1e-10)[0]
        expected_NX[here_N] = np.clip(feature_NF[here_N] @ fit_FX, 0.0, 1.0) * tokens_N[here_N, None]
    return expected_NX


def _scores(
    count_NX: NDArray[np.float64],
    expected_NX: NDArray[np.float64],
    tokens_N: NDArray[np.float64],
    window_N: NDArray[np.int64],
    num_windows: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """[V, X] z, tokens, expected tokens."""
    is_in_VN = (window_N == np.arange(num_windows)[:, None]).astype(np.float64)
    binomial_NX = expected_NX * (1.0 - expected_NX / tokens_N[:, None])
    squares_VX, binomial_VX = is_in_VN @ (count_NX - expected_NX) ** 2, is_in_VN @ binomial_NX
    elsewhere_VX = squares_VX.sum(axis=0) - squares_VX
    dispersion_VX = np.maximum(elsewhere_VX / (binomial_VX.sum(axis=0) - binomial_VX + 1.0), 1.0)
    sum_VX, mean_VX = is_in_VN @ count_NX, is_in_VN @ expected_NX
    spread_VX = np.sqrt(dispersion_VX * binomial_VX * num_windows / (num_windows - 1) + _FLOOR)
    z_VX = (sum_VX - mean_VX) / spread_VX
    scale = 1.4826 * float(np.median(np.abs(z_VX - np.median(z_VX))))
    return z_VX / max(scale, 1.0), sum_VX, mean_VX
