"""two_hop: reduce-scatter inside each node, a ring over the nodes on every rail, all-gather inside each node.

With k devices of the group in a node and N nodes, a NIC carries passes x (N - 1) / N of bytes / k, and a scale-up link
(k - 1) / k of the bytes for each hop inside. Also called hierarchical or 2D-ring.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.collective.reduction import Ints, Operation, ReductionLeg, passes_over_ring
from moesim.collective.reductions.ring import legs as ring_legs


def legs(
    group: Ints, num_bytes: float, operation: Operation, node_of_device: NDArray[np.integer[Any]]
) -> tuple[ReductionLeg, ...]:
    """Up to three legs; a plain ring where nodes hold unlike numbers of the group's devices, or one each."""
    node_F = node_of_device[group]
    members = [group[node_F == node] for node in np.unique(node_F)]
    per_node, nodes = len(members[0]), len(members)
    if nodes == 1 or per_node == 1 or any(len(devices) != per_node for devices in members):
        return ring_legs(group, num_bytes, operation, node_of_device)
    inside = _inside(members, num_bytes)
    rail_ND = np.stack(members)
    passes = passes_over_ring(operation)
    each = passes * (nodes - 1) / nodes * num_bytes / per_node
    next_ND = np.roll(rail_ND, -1, axis=0)
    rounds = passes * (nodes - 1)
    across = ReductionLeg(rail_ND.ravel(), next_ND.ravel(), np.full(len(group), each), rounds, in_turn=True)
    return {
        "all_reduce": (inside, across, inside),
        "reduce_scatter": (inside, across),
        "all_gather": (across, inside),
    }[operation]


def _inside(members: list[Ints], num_bytes: float) -> ReductionLeg:
    """A ring over the devices of each node."""
    per_node = len(members[0])
    source_F = np.concatenate(members)
    target_F = np.concatenate([np.roll(devices, -1) for devices in members])
    each_F = np.full(len(source_F), (per_node - 1) / per_node * num_bytes)
    return ReductionLeg(source_F, target_F, each_F, per_node - 1, in_turn=True)
