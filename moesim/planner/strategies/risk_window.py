"""Placement for loads that vary: the smallest mean + z sigma of the fullest device over time windows (the idea of FlashLB).

Source      FlashLB, the placement of vllm-ascend (github.com/vllm-project/vllm-ascend, eplb policy "flashlb")
Data        load[w,e] tokens of expert e in window w, weight p[w]; slots[d], speed[d]; z = 1
Risk        risk(v) = sum over w of p[w] v[w] + z x sqrt(sum over w of p[w] (v[w] - mean)^2)
Copies      water-filled on risk(load[:,e]); each copy of an expert with c copies has load[:,e] / c
Packing     copies by falling risk, each to the device with a free slot (and without that expert, if there is one) where
            risk(load on the device with it) / speed is least
Swaps       of the device with the largest risk / speed against any other, the best one first, until none lowers the
            larger risk of the two or work ends
Experts that peak in different windows share a device: their peaks do not add up.
"""

import numpy as np
from numpy.typing import NDArray

from moesim.planner.problem import PlacementAnswer, PlacementProblem
from moesim.planner.water_fill import water_fill
from moesim.planner.windows import window_loads

REPLICA_POLICY = "even"
READS_TOKENS = True
Z = 1.0
MOST_SWAPS = 4096  # of all layers together at work limit 1

Floats = NDArray[np.float64]


def place(problem: PlacementProblem) -> PlacementAnswer:
    """Minimise the largest mean + z sigma of a device, layer by layer; without windows the mean alone, with a note."""
    swaps = max(int(MOST_SWAPS * problem.work_limit / problem.num_layers), 1)
    placements, windows = [], 1
    for layer in range(problem.num_layers):
        load_WE, weight_W = window_loads(problem, layer)
        windows = len(weight_W)
        placements.append(problem.placement(_placed(problem, load_WE, weight_W, swaps)))
    note = "risk_window saw one window: no load varies there, it minimises the largest mean"
    return PlacementAnswer(tuple(placements), (note,) if windows == 1 else ())


def risk(load_WX: Floats, weight_W: Floats) -> Floats:
    """Mean + z sigma over windows, axis 0, of each column [X]."""
    mean_X = np.tensordot(weight_W, load_WX, axes=1)
    variance_X = np.tensordot(weight_W, (load_WX - mean_X) ** 2, axes=1)
    answer: Floats = mean_X + Z * np.sqrt(variance_X)
    return answer


def _placed(problem: PlacementProblem, load_WE: Floats, weight_W: Floats, swaps: int) -> NDArray[np.int64]:
    """The experts of one layer's slots [P]."""
    slots_D, speed_D = problem.slots_of_devices, problem.speeds
    load_WE = load_WE / max(float(load_WE.max()), 1.0)  # squares of 1e18 tokens stay in range
    copies_E = water_fill(risk(load_WE, weight_W), problem.num_slots, int((slots_D > 0).sum()))
    copy_WE = load_WE / copies_E
    first_D = np.concatenate([[0], np.cumsum(slots_D)])
    expert_P = np.full(problem.num_slots, -1, dtype=np.int64)
    load_WD, filled_D = np.zeros((len(weight_W), problem.num_devices)), np.zeros_like(slots_D)
    holds_ED = np.zeros((problem.num_experts, problem.num_devices), dtype=np.bool_)
    for expert in np.argsort(-risk(copy_WE, weight_W), kind="stable"):
        for _ in range(copies_E[expert]):
            after_D = risk(load_WD + copy_WE[:, expert, None], weight_W) / speed_D
            free_D = filled_D < slots_D
            fresh_D = free_D & ~holds_ED[expert]
            device = int(np.argmin(np.where(fresh_D if fresh_D.any() else free_D, after_D, np.inf)))
            expert_P[first_D[device] + filled_D[device]] = expert
            filled_D[device] += 1
            holds_ED[expert, device] = True
            load_WD[:, device] += copy_WE[:, expert]
    device_P = np.repeat(np.arange(problem.num_devices), slots_D)
    for _ in range(swaps):
        if not _swapped(expert_P, device_P, load_WD, copy_WE, weight_W, speed_D):
            break
    return expert_P


def _swapped(
    expert_P: NDArray[np.int64],
    device_P: NDArray[np.int64],
    load_WD: Floats,
    copy_WE: Floats,
    weight_W: Floats,
    speed_D: Floats,
) -> bool:
    """Make the swap that lowers the largest risk / speed most; False where none does. Changes experts and loads."""
    risk_D = risk(load_WD, weight_W) / speed_D
    hottest = int(np.argmax(risk_D))
    mine, others = np.flatnonzero(device_P == hottest), np.flatnonzero(device_P != hottest)
    if others.size == 0:
        return False
    change_WMO = copy_WE[:, expert_P[others]][:, None, :] - copy_WE[:, expert_P[mine]][:, :, None]
    here_MO = risk(load_WD[:, hottest, None, None] + change_WMO, weight_W) / speed_D[hottest]
    there_MO = risk(load_WD[:, None, device_P[others]] - change_WMO, weight_W) / speed_D[device_P[others]]
    after_MO = np.maximum(here_MO, there_MO)
    holds_here, holds_there = np.isin(expert_P[others], expert_P[mine]), np.zeros(after_MO.shape, dtype=np.bool_)
    for row, slot in enumerate(mine):
        holding = device_P[expert_P == expert_P[slot]]
        holds_there[row] = np.isin(device_P[others], holding)
    after_MO[holds_there | holds_here[None, :]] = np.inf
    row, column = divmod(int(np.argmin(after_MO)), others.size)
    if not after_MO[row, column] < risk_D[hottest] * (1.0 - 1e-9):
        return False
    first, second = mine[row], others[column]
    load_WD[:, hottest] += change_WMO[:, row, column]
    load_WD[:, device_P[second]] -= change_WMO[:, row, column]
    expert_P[first], expert_P[second] = expert_P[second], expert_P[first]
    return True
