"""ring: every device sends (n - 1) / n of the bytes to its neighbour, twice for an all-reduce (NCCL ring).

Across nodes there is one ring for each device of a node, each with its share of the bytes, so that every NIC carries
1 / k of them. Ring r enters node j at its device (r - j) mod k and leaves it at the device before, which has the same
place as the one where the next node is entered: the step between nodes stays on one rail.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.collective.reduction import Ints, Operation, ReductionLeg, passes_over_ring


def legs(
    group: Ints, num_bytes: float, operation: Operation, node_of_device: NDArray[np.integer[Any]]
) -> tuple[ReductionLeg, ...]:
    """One leg of passes x (n - 1) rounds; one ring where nodes hold unlike numbers of the group's devices."""
    size, passes = len(group), passes_over_ring(operation)
    rings = _rings(group, node_of_device)
    source_F = np.concatenate(rings)
    target_F = np.concatenate([np.roll(ring, -1) for ring in rings])
    each = passes * (size - 1) / size * num_bytes / len(rings)
    return (ReductionLeg(source_F, target_F, np.full(len(source_F), each), passes * (size - 1)),)


def _rings(group: Ints, node_of_device: NDArray[np.integer[Any]]) -> list[Ints]:
    node_F = node_of_device[group]
    members = [group[node_F == node] for node in np.unique(node_F)]
    per_node = len(members[0])
    if len(members) == 1 or any(len(devices) != per_node for devices in members):
        return [np.concatenate(members)]
    return [
        np.concatenate([np.roll(devices, place - ring) for place, devices in enumerate(members)])
        for ring in range(per_node)
    ]
