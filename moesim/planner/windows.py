"""What a sketch says of single windows and of where tokens come from, as matrices.

Array letters: W window, E expert, D device of a group, S rank.
"""

import numpy as np
from numpy.typing import NDArray

from moesim.planner.problem import PlacementProblem

Floats = NDArray[np.float64]


def window_loads(problem: PlacementProblem, layer: int) -> tuple[Floats, Floats]:
    """Tokens of every expert in every window of MoE ordinal `layer` [W, E], and the windows' weights [W] (sum 1).

    Without a sketch there is one window, the whole.
    """
    sketch = problem.sketch
    if sketch is None:
        return problem.load_LE[layer][None, :], np.ones(1)
    token, k = np.nonzero(sketch.experts_LTK[layer] >= 0)
    cell = sketch.window_T[token].astype(np.int64) * problem.num_experts + sketch.experts_LTK[layer][token, k]
    size = sketch.num_windows * problem.num_experts
    load_WE: Floats = np.bincount(cell, weights=sketch.weight_T[token], minlength=size).astype(np.float64)
    return load_WE.reshape(sketch.num_windows, problem.num_experts), sketch.window_weight_W


def tokens_by_home(problem: PlacementProblem, layer: int) -> Floats:
    """Tokens of a step that the devices of a group (all groups together) send to every expert [D, E], mean over windows.

    Zeros without a sketch.
    """
    sketch, shape = problem.sketch, (problem.num_devices, problem.num_experts)
    if sketch is None:
        return np.zeros(shape)
    token, k = np.nonzero(sketch.experts_LTK[layer] >= 0)
    home = sketch.source_T[token].astype(np.int64) % problem.num_devices
    weight = (sketch.weight_T * sketch.window_weight_W[sketch.window_T])[token]
    cell = home * problem.num_experts + sketch.experts_LTK[layer][token, k]
    load_DE: Floats = np.bincount(cell, weights=weight, minlength=shape[0] * shape[1]).astype(np.float64)
    return load_DE.reshape(shape)
