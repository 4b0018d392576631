"""Whole groups: the nearest order of experts in which every routing group stays together.

Array letters: E expert, G group.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from moesim.plan_file import Plan


def whole_groups(plan: Plan, num_groups: int) -> Plan:
    """A plan without replicas whose positions of one group hold one group, moving as few experts as that takes.

    Whole groups go where most of their experts are; inside, an expert keeps its device where there is room.
    """
    size, each = plan.num_experts // num_groups, plan.num_experts // plan.num_devices
    rows = []
    for row in plan.expert_of_slot:
        old_E = np.array(row)
        overlap_GG = np.zeros((num_groups, num_groups), dtype=np.int64)  # [place, group]
        np.add.at(overlap_GG, (np.arange(plan.num_experts) // size, old_E // size), 1)
        _, group_of_place = linear_sum_assignment(-overlap_GG)
        device_of_expert = np.empty(plan.num_experts, dtype=np.int64)
        device_of_expert[old_E] = np.arange(plan.num_experts) // each
        parts = [
            _inside(np.arange(group * size, (group + 1) * size), place * size, device_of_expert, each)
            for place, group in enumerate(group_of_place.tolist())
        ]
        rows.append(tuple(expert for part in parts for expert in part))
    return plan.model_copy(update={"expert_of_slot": tuple(rows), "slots_per_device": None})


def _inside(experts: NDArray[np.int64], first: int, device_of_expert: NDArray[np.int64], each: int) -> list[int]:
    """The experts of one group on the positions from `first` on, as many as possible on the device they had."""
    device_of_place = np.arange(first, first + len(experts)) // each
    stays = device_of_place[:, None] == device_of_expert[experts][None, :]
    _, chosen = linear_sum_assignment(~stays)
    return [int(expert) for expert in experts[chosen]]
