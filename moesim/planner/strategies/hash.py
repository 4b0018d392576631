"""Experts by a hash of their number: what any rank can work out without a table of experts."""

import numpy as np

from moesim.hashing import hash_pairs
from moesim.planner.entries import copy_entries
from moesim.planner.problem import PlacementAnswer, PlacementProblem

REPLICA_POLICY = "nearest"


def place(problem: PlacementProblem) -> PlacementAnswer:
    """The list of copies in the order of hash(seed, expert, copy number), ties by entry; the same in every layer."""
    entries_P = copy_entries(problem.num_slots, problem.num_experts)
    copy_P = np.arange(problem.num_slots) // problem.num_experts
    order_P = np.argsort(hash_pairs(problem.seed, entries_P, copy_P), kind="stable")
    placement = problem.placement(entries_P[order_P])
    return PlacementAnswer((placement,) * problem.num_layers)
