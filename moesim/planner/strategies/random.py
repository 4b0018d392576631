"""Experts shuffled anew in every layer: the baseline that no structure of the routing can favour."""

import numpy as np

from moesim.planner.entries import copy_entries
from moesim.planner.problem import PlacementAnswer, PlacementProblem

REPLICA_POLICY = "nearest"


def place(problem: PlacementProblem) -> PlacementAnswer:
    """The list of copies in an order drawn from the problem's seed, layer after layer."""
    rng = np.random.default_rng(problem.seed)
    entries_P = copy_entries(problem.num_slots, problem.num_experts)
    return PlacementAnswer(tuple(problem.placement(rng.permutation(entries_P)) for _ in range(problem.num_layers)))
