"""EPLB's global policy: copies and packing over all devices at once, blind to nodes and groups."""

from moesim.planner.eplb import place_eplb
from moesim.planner.problem import PlacementAnswer, PlacementProblem

REPLICA_POLICY = "even"


def place(problem: PlacementProblem) -> PlacementAnswer:
    """Copy the most loaded experts, then pack largest first; see moesim.planner.eplb for slots and ties."""
    return place_eplb(problem, num_groups=1, num_nodes=1)
