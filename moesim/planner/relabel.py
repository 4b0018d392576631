"""Relabelling: which new device takes over from which old one, so that few copies travel.

An assignment problem: overlap[d, d'] = experts that old device d' holds of what new device d shall hold; devices trade
places only with devices of the same speed and the same number of slots. Array letters: E expert, D device, P slot.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from moesim.placement import ExpertPlacement
from moesim.planner.problem import PlacementProblem
from moesim.planner.search_state import copies_of

_FORBIDDEN = -1.0


def relabelled(
    problem: PlacementProblem, old: ExpertPlacement, new: ExpertPlacement, *, keep_nodes: bool
) -> ExpertPlacement:
    """The new placement with its devices renamed so that most copies stay where they are, without a split.

    `keep_nodes`: what shares a node still shares one (nodes trade places, and devices within them); else any device may
    take any place, which changes no load.
    """
    overlap_DD = copies_of(new).T.astype(np.float64) @ copies_of(old).astype(np.float64)  # new device, old device
    slots_D, speed_D = problem.slots_of_devices, problem.speeds
    alike_DD = (slots_D[:, None] == slots_D[None, :]) & (speed_D[:, None] == speed_D[None, :])
    overlap_DD = np.where(alike_DD, overlap_DD, _FORBIDDEN * problem.num_slots)
    place_D = _by_node(problem, overlap_DD) if keep_nodes and problem.num_nodes > 1 else _assigned(overlap_DD)
    offsets_D1 = np.concatenate([[0], np.cumsum(slots_D)])
    experts_P = np.empty(problem.num_slots, dtype=np.int32)
    for device, place in enumerate(place_D):
        row = new.expert_of_slot_P[offsets_D1[device] : offsets_D1[device + 1]]
        experts_P[offsets_D1[place] : offsets_D1[place + 1]] = row
    return problem.placement(experts_P)


def _assigned(overlap_DD: NDArray[np.float64]) -> NDArray[np.int64]:
    """The old name of each new device, most overlap in all; of equal answers the one that leaves names alone."""
    stay_DD = overlap_DD + 1e-6 * np.eye(len(overlap_DD))
    place_D: NDArray[np.int64] = linear_sum_assignment(stay_DD, maximize=True)[1].astype(np.int64)
    return place_D


def _by_node(problem: PlacementProblem, overlap_DD: NDArray[np.float64]) -> NDArray[np.int64]:
    """As `_assigned`, whole nodes with whole nodes of the same size."""
    node_D = problem.node_of_devices
    devices_N = [np.flatnonzero(node_D == node) for node in range(problem.num_nodes)]
    inner = {}
    value_NN = np.full((problem.num_nodes, problem.num_nodes), _FORBIDDEN * problem.num_slots * problem.num_devices)
    for new, mine in enumerate(devices_N):
        for old, theirs in enumerate(devices_N):
            if mine.size == theirs.size:
                block = overlap_DD[np.ix_(mine, theirs)]
                inner[new, old] = theirs[_assigned(block)]
                value_NN[new, old] = overlap_DD[mine, inner[new, old]].sum()
    place_D = np.empty(problem.num_devices, dtype=np.int64)
    for new, old in enumerate(_assigned(value_NN)):
        place_D[devices_N[new]] = inner[new, int(old)]
    return place_D
