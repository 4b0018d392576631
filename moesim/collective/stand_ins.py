"""Stand-ins: the live devices that pass on what an algorithm would relay through a dead one.

Array letters: D device (or rank), W wait.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from moesim.collective.leg import Leg, Legs


def stand_ins(dead_D: NDArray[np.bool_], devices_per_node: int, group_size: int) -> NDArray[np.int64]:
    """The device that relays in each device's place, int64 [D]: itself while alive.

    For a dead one the next live local index of its node, round and round; where the node is dead, the same local index of
    the next node of its expert-parallel group, and so on. A group without a live device has no stand-ins (and no flows).

    >>> stand_ins(np.array([False, False, True, True]), 2, 4).tolist()
    [0, 1, 0, 1]
    """
    stand_in_D = np.arange(len(dead_D), dtype=np.int64)
    for device in np.flatnonzero(dead_D):
        first = device // group_size * group_size
        node, local = divmod(device - first, devices_per_node)
        for step in range(group_size):
            nodes_on, locals_on = divmod(step, devices_per_node)
            in_node = (local + locals_on) % devices_per_node
            candidate = first + (node * devices_per_node + nodes_on * devices_per_node + in_node) % group_size
            if not dead_D[candidate]:
                stand_in_D[device] = candidate
                break
    return stand_in_D


def through(legs: Legs, stand_in_D: NDArray[np.int64]) -> Legs:
    """The legs with every end and every wait of a dead device moved to its stand-in."""
    waits_W = legs.waits_W.copy()
    waits_W[:, 0], waits_W[:, 2] = stand_in_D[waits_W[:, 0]], stand_in_D[waits_W[:, 2]]
    return Legs(legs=tuple(_moved(leg, stand_in_D) for leg in legs.legs), waits_W=np.unique(waits_W, axis=0))


def _moved(leg: Leg, stand_in_D: NDArray[np.int64]) -> Leg:
    return dataclasses.replace(leg, source_F=stand_in_D[leg.source_F], target_F=stand_in_D[leg.target_F])
