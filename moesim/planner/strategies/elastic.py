"""Placement that splits can level again after loads have changed: which copies, so that tokens can flow between devices.

Data        load[s,e] tokens of expert e in sample s of what may come: the window's load x lognormal(0, 0.3), 16 samples,
            seeded; slots[d], speed[d]
Graph       experts and devices, an edge where a device holds a copy. With tokens split anew, the fullest device is full
            where no tokens can flow away along edges: few copies of many experts that join all devices are worth more
            than many copies of the hottest, which join only their own
Value       V = mean over s of the largest load[d] / speed[d] under the split that levels sample s (planner/levelling.py)
Start       copies by water-filling, longest first (what `balanced` starts from)
Search      slots trade their experts across devices, or a slot of an expert with several copies gets another one, at
            random; kept where V falls. No change puts an expert twice on a device
Answer      the copies, and the split that levels the window itself: after a drift it must be solved anew at run time
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.errors import Declined
from moesim.planner.levelling import copy_graph, level_shares, levelled
from moesim.planner.packing import pack_longest_first
from moesim.planner.problem import PlacementAnswer, PlacementProblem
from moesim.planner.water_fill import water_fill

REPLICA_POLICY = "split"
READS_TOKENS = False
DRIFT = 0.3  # standard deviation of the logarithm of an expert's load between windows
SAMPLES = 16
PROPOSALS = 3000  # of a layer, at work limit 1
_SWEEPS = 3  # of levelling in each sample: what few passes cannot level, counts as not level
_MOST_CELLS = 1 << 17  # experts x devices: beyond it a proposal takes milliseconds

Floats = NDArray[np.float64]


def place(problem: PlacementProblem) -> PlacementAnswer:
    """Minimise the mean largest load / speed after a drift, the split solved anew; layer by layer."""
    if problem.survive or problem.num_experts * problem.num_devices > _MOST_CELLS:
        raise Declined(
            f"elastic moves copies one by one, up to {_MOST_CELLS} experts x devices and without failure domains; got "
            f"{problem.num_experts} experts x {problem.num_devices} devices, survive={problem.survive}, "
            f"slots={problem.num_slots}; take balanced"
        )
    proposals = int(PROPOSALS * problem.work_limit)
    placements = []
    for layer, load_E in enumerate(problem.load_LE):
        placement = problem.placement(_searched(problem, load_E, proposals, problem.seed + layer))
        share_P = level_shares(placement, load_E, problem.speeds)
        placements.append(problem.placement(placement.expert_of_slot_P, share_P[None, :]))
    return PlacementAnswer(tuple(placements), ("elastic is made for splits that are solved anew at run time",))


def _searched(problem: PlacementProblem, load_E: Floats, proposals: int, seed: int) -> NDArray[np.int64]:
    """The experts of one layer's slots [P]."""
    slots_D, speed_D = problem.slots_of_devices, problem.speeds
    copies_E = water_fill(load_E, problem.num_slots, int((slots_D > 0).sum()))
    start_P = pack_longest_first(load_E, copies_E, problem.num_devices, slots_D, speed_D).astype(np.int64)
    if not load_E.sum() > 0.0:
        return start_P
    rng = np.random.default_rng(seed)
    load_SE = load_E / load_E.sum() * rng.lognormal(0.0, DRIFT, (SAMPLES, load_E.size))
    load_SE /= load_SE.sum(axis=1, keepdims=True)
    pairs_M2 = rng.integers(0, problem.num_slots, (proposals, 2))
    trades_M = rng.random(proposals) < 0.5
    device_P = np.repeat(np.arange(problem.num_devices), slots_D)
    found_P: NDArray[np.int64] = _search(start_P, device_P, load_SE, speed_D, pairs_M2, trades_M)
    return found_P


@njit(cache=True, nogil=True)
def _search(expert_P, device_P, load_SE, speed_D, pairs_M2, trades_M):  # type: ignore[no-untyped-def]  # numba's types
    """Try the proposed pairs of slots in order: a trade, or the first slot takes the expert of the second."""
    held_ED = np.zeros((load_SE.shape[1], speed_D.size), dtype=np.int64)
    for slot in range(expert_P.size):
        held_ED[expert_P[slot], device_P[slot]] += 1
    best = _value(expert_P, device_P, load_SE, speed_D, np.inf)
    for number in range(trades_M.size):
        first, second = pairs_M2[number, 0], pairs_M2[number, 1]
        ours, theirs, here, there = expert_P[first], expert_P[second], device_P[first], device_P[second]
        trade = trades_M[number] or held_ED[ours].sum() == 1
        if held_ED[theirs, here] or (trade and (held_ED[ours, there] or here == there)):
            continue
        expert_P[first] = theirs
        if trade:
            expert_P[second] = ours
        value = _value(expert_P, device_P, load_SE, speed_D, best)
        if value >= best:
            expert_P[first], expert_P[second] = ours, theirs
            continue
        best = value
        held_ED[ours, here] -= 1
        held_ED[theirs, here] += 1
        if trade:
            held_ED[theirs, there] -= 1
            held_ED[ours, there] += 1
    return expert_P


@njit(cache=True, nogil=True)
def _value(expert_P, device_P, load_SE, speed_D, best):  # type: ignore[no-untyped-def]
    """V; where it cannot fall below `best` any more, a number that is no less than `best`."""
    home_E, hot_H, home_HC, copies_H = copy_graph(expert_P, device_P, load_SE.shape[1])
    samples, least = load_SE.shape[0], 1.0 / speed_D.sum()  # loads of a sample add up to 1
    total = 0.0
    for sample in range(samples):
        _, load_D = levelled(load_SE[sample], home_E, hot_H, home_HC, copies_H, speed_D, _SWEEPS)
        total += (load_D / speed_D).max()
        if total + (samples - 1 - sample) * least >= best * samples:
            return best
    return total / samples
