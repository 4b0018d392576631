"""EPLB's hierarchical policy: expert groups to nodes first, then copies and packing inside each node."""

from moesim.planner.eplb import place_eplb
from moesim.planner.problem import PlacementAnswer, PlacementProblem

REPLICA_POLICY = "even"


def place(problem: PlacementProblem) -> PlacementAnswer:
    """Keep each group on one node; the global policy, with a note, where groups or devices do not fill equal nodes."""
    groups, nodes = problem.num_groups, problem.num_nodes
    if groups % nodes:
        note = f"groups={groups} is not divisible by nodes={nodes}: eplb_hierarchical is eplb_global here, as upstream"
        return place_eplb(problem, 1, 1, (note,))
    if nodes > 1 and problem.num_devices % problem.devices_per_node:
        note = f"the last of {nodes} nodes is partly used, EPLB needs equal ones: eplb_hierarchical is eplb_global here"
        return place_eplb(problem, 1, 1, (note,))
    return place_eplb(problem, groups, nodes)
