"""Copies by water-filling, then longest first: the quick balancer without divisibility rules or repeated experts."""

from moesim.planner.packing import pack_longest_first
from moesim.planner.problem import PlacementAnswer, PlacementProblem
from moesim.planner.water_fill import water_fill

REPLICA_POLICY = "nearest"


def place(problem: PlacementProblem) -> PlacementAnswer:
    """Minimise the largest load per copy, then pack copies to the lightest device with room, layer by layer."""
    placements = []
    for load_E in problem.load_LE:
        copies_E = water_fill(load_E, problem.num_slots, problem.num_devices)
        placements.append(problem.placement(pack_longest_first(load_E, copies_E, problem.num_devices)))
    return PlacementAnswer(tuple(placements))
