"""ring: every device sends (n - 1) / n of the bytes to its neighbour, twice for an all-reduce (NCCL ring).

On a non-blocking switch an all-reduce of B bytes takes 2 (n - 1) / n x B / bandwidth + 2 (n - 1) x latency.
Across nodes there is one ring for each of the k devices of a node, each with its share of the bytes, so that every NIC
carries 1 / k of them. Ring r enters even nodes at device r and leaves them at device r + 1, odd nodes the other way
round, so that steps between nodes stay on one rail; of an odd number of nodes the last is entered at r + 2.
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
    rounds = passes * (size - 1)
    return (ReductionLeg(source_F, target_F, np.full(len(source_F), each), rounds, in_turn=True),)


def _rings(group: Ints, node_of_device: NDArray[np.integer[Any]]) -> list[Ints]:
    node_F = node_of_device[group]
    members = [group[node_F == node] for node in np.unique(node_F)]
    per_node = len(members[0])
    if len(members) == 1 or any(len(devices) != per_node for devices in members):
        return [np.concatenate(members)]
    entry_N = np.arange(len(members)) % 2
    if len(members) % 2:
        entry_N[-1] = 2
    exit_N = np.roll(entry_N, -1)
    return [
        np.concatenate(
            [devices[_way(ring + entry_N[n], ring + exit_N[n], per_node)] for n, devices in enumerate(members)]
        )
        for ring in range(per_node)
    ]


def _way(first: int, last: int, size: int) -> Ints:
    """Places 0..size-1 of a node from `first` to `last` (both modulo size; where they are one, it only comes first)."""
    places = (first + np.arange(size, dtype=np.int64)) % size
    end = last % size
    if end == places[0]:
        return places
    return np.append(places[places != end], end)
