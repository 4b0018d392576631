"""Equal load on every device: copies by water-filling, longest first, then swaps off the most loaded device."""

from moesim.planner.packing import pack_longest_first
from moesim.planner.problem import PlacementAnswer, PlacementProblem
from moesim.planner.survival import surviving_slots
from moesim.planner.swapping import MOST_PAIRS, level_by_swaps
from moesim.planner.water_fill import water_fill

REPLICA_POLICY = "nearest"


def place(problem: PlacementProblem) -> PlacementAnswer:
    """Minimise the largest load / speed of a device, layer by layer, each expert's tokens split evenly over its copies.

    Any number of slots on any device, devices of any speed; a device repeats no expert where that is possible. Where
    experts must survive failures, each is first put into that many domains more than may fail.
    """
    if problem.survive:
        rows = (surviving_slots(problem, load_E) for load_E in problem.load_LE)
        return PlacementAnswer(tuple(problem.placement(slots_P) for slots_P in rows))
    slots_D, speed_D = problem.slots_of_devices, problem.speeds
    swaps = int(MOST_PAIRS * problem.work_limit / problem.num_layers)
    placements = []
    for load_E in problem.load_LE:
        copies_E = water_fill(load_E, problem.num_slots, int((slots_D > 0).sum()))
        packed_P = pack_longest_first(load_E, copies_E, problem.num_devices, slots_D, speed_D)
        placements.append(problem.placement(level_by_swaps(packed_P, load_E / copies_E, slots_D, speed_D, swaps)))
    return PlacementAnswer(tuple(placements))
