"""tree: two binary trees with half the bytes each, in which a device is inner in one at most (NCCL double tree).

An all-reduce sends every half up to the root and down again, both ways at once: 2 x bytes through an inner device, in
2 x log2(n) rounds. A reduce-scatter is the way up with the result left at the root's side, an all-gather the way down.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.collective.reduction import Ints, Operation, ReductionLeg, passes_over_ring


def legs(
    group: Ints, num_bytes: float, operation: Operation, node_of_device: NDArray[np.integer[Any]]
) -> tuple[ReductionLeg, ...]:
    """One leg; the second tree is the first with every place moved by one."""
    size = len(group)
    child, parent = _tree(size)
    up = np.concatenate([child, (child + 1) % size]), np.concatenate([parent, (parent + 1) % size])
    pairs = {
        "all_reduce": [up, up[::-1]],
        "reduce_scatter": [up],
        "all_gather": [up[::-1]],
    }[operation]
    source_F = np.concatenate([group[source] for source, _ in pairs])
    target_F = np.concatenate([group[target] for _, target in pairs])
    rounds = passes_over_ring(operation) * max(int(size - 1).bit_length(), 1)
    return (ReductionLeg(source_F, target_F, np.full(len(source_F), num_bytes / 2), rounds),)


def _tree(size: int) -> tuple[Ints, Ints]:
    """Children and parents of a binary tree over places 0..size-1 whose odd places (from 0: even) are leaves.

    A place p = 1..size has the parent that its lowest set bit, moved up by one, points at: p - b or p + b, b = that bit,
    whichever has a lowest bit of 2 b and is there.
    """
    children, parents = [], []
    root = 1 << (size.bit_length() - 1)
    for place in range(1, size + 1):
        if place == root:
            continue
        bit = place & -place
        parent = (place ^ bit) | (bit << 1)
        while parent > size:
            parent = place - bit if bit else root
        children.append(place - 1)
        parents.append(parent - 1)
    return np.array(children, dtype=np.int64), np.array(parents, dtype=np.int64)
