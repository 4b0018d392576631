"""Experts by a hash of their number: what any rank can work out without a table of experts."""

import numpy as np
from numpy.typing import NDArray

from moesim.hashing import hash_pairs
from moesim.planner.entries import copy_entries
from moesim.planner.problem import PlacementAnswer, PlacementProblem

REPLICA_POLICY = "nearest"


def place(problem: PlacementProblem) -> PlacementAnswer:
    """The list of copies in the order of hash(seed, expert, copy number), ties by entry; the same in every layer."""
    entries_P = copy_entries(problem.num_slots, problem.num_experts)
    copy_P = np.arange(problem.num_slots) // problem.num_experts
    order_P = _ascending(hash_pairs(problem.seed, entries_P, copy_P))
    placement = problem.placement(entries_P[order_P])
    return PlacementAnswer((placement,) * problem.num_layers)


def _ascending(hash_P: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Places of the numbers from the smallest up, equal ones as they stand; they are hardly ever equal."""
    order_P = np.argsort(hash_P)  # twice as fast as a stable sort, and the same where no two are equal
    sorted_P = hash_P[order_P]
    return np.argsort(hash_P, kind="stable") if (sorted_P[1:] == sorted_P[:-1]).any() else order_P
