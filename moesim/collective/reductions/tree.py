"""tree: all-reduce over two binary trees with half the bytes each (NCCL double tree, arXiv 0909.1187 for the trees).

Every half goes up to the root and down again, both ways at once, in 2 log2(n) rounds instead of a ring's 2 (n - 1). A
device that is inner in one tree is a leaf of the other, so that 2 x bytes go through it in either direction at most.
There is no tree for reduce-scatter and all-gather: those take the ring, as in NCCL.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.collective.reduction import Ints, Operation, ReductionLeg
from moesim.collective.reductions.ring import legs as ring_legs


def legs(
    group: Ints, num_bytes: float, operation: Operation, node_of_device: NDArray[np.integer[Any]]
) -> tuple[ReductionLeg, ...]:
    """One leg; the second tree is the first with every place moved by one."""
    if operation != "all_reduce":
        return ring_legs(group, num_bytes, operation, node_of_device)
    size = len(group)
    child, parent = _tree(size)
    low = np.concatenate([group[child], group[(child + 1) % size]])
    high = np.concatenate([group[parent], group[(parent + 1) % size]])
    each_F = np.full(2 * len(low), num_bytes / 2)
    rounds = 2 * max(int(size - 1).bit_length(), 1)
    return (ReductionLeg(np.concatenate([low, high]), np.concatenate([high, low]), each_F, rounds),)


def _tree(size: int) -> tuple[Ints, Ints]:
    """Children and parents of a binary tree over places 0..size-1 in which odd places are leaves and 0 is the root.

    A place hangs below its number with the lowest set bit moved up by one, or removed where that is beyond the end.
    """
    child = np.arange(1, size, dtype=np.int64)
    bit = child & -child
    parent = (child ^ bit) | (bit << 1)
    return child, np.where(parent < size, parent, child ^ bit)
