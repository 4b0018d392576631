"""Experts in order: the first device holds the first experts, as launchers do by default."""

from moesim.planner.entries import copy_entries
from moesim.planner.problem import PlacementAnswer, PlacementProblem

REPLICA_POLICY = "nearest"


def place(problem: PlacementProblem) -> PlacementAnswer:
    """Slot j holds expert j, slots past the last expert start again at expert 0; the same in every layer."""
    placement = problem.placement(copy_entries(problem.num_slots, problem.num_experts))
    return PlacementAnswer((placement,) * problem.num_layers)
