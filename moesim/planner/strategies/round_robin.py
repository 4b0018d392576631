"""Experts dealt to devices in turn: neighbours in number are on different devices."""

import numpy as np

from moesim.planner.entries import copy_entries
from moesim.planner.problem import PlacementAnswer, PlacementProblem

REPLICA_POLICY = "nearest"


def place(problem: PlacementProblem) -> PlacementAnswer:
    """Entry j of the list of copies goes to device j mod D, as its next slot; the same in every layer.

    The first P mod D devices get one entry more, which is exactly their extra slot.
    """
    entries_P = copy_entries(problem.num_slots, problem.num_experts)
    by_device_P = np.argsort(np.arange(problem.num_slots) % problem.num_devices, kind="stable")
    placement = problem.placement(entries_P[by_device_P])
    return PlacementAnswer((placement,) * problem.num_layers)
