"""Experts that follow each other on one device, or at least on one node (the idea of ExFlow).

Source      Yao et al., "Exploiting Inter-Layer Expert Affinity for Accelerating Mixture-of-Experts Model Inference", 2024
            (arXiv:2401.08383)
Data        tokens t with weight w[t], homes h[t], experts of layer l; slots[d]
Follows     A[l][i,j] = sum of w[t] / K over tokens with i in layer l - 1 and j in layer l; before the first layer a token
            is at home
Gain        g[j,d] = sum over i of A[l][i,j] x (share of i's copies on d + NODE x share on d's node)
Copies      water-filled on the loads of layer l
Assignment  one copy of every expert at a time: experts to free slots at the largest total gain (an assignment problem,
            solved exactly), never a second copy on a device where that is possible
Layers      one after the other, each given the one before; loads decide how many copies there are, not where they go

ExFlow keeps a token where its last expert was. Engines that return tokens to their home after every layer, as they are
simulated here, gain only as far as home and last expert agree: what `affinity` is worth there is for `compare` to say.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix

from moesim.errors import Declined
from moesim.placement import ExpertPlacement
from moesim.planner.problem import PlacementAnswer, PlacementProblem, TokenSketch
from moesim.planner.water_fill import water_fill
from moesim.planner.windows import tokens_by_home

REPLICA_POLICY = "nearest"
READS_TOKENS = True
NODE = 0.5  # of the gain on the same device
MOST_SLOTS = 4096  # of a layer: an assignment takes their cube at worst

Floats = NDArray[np.float64]


def place(problem: PlacementProblem) -> PlacementAnswer:
    """Follow the tokens of the sketch from layer to layer; declines without one, and where a layer is too large."""
    sketch = problem.sketch
    if sketch is None:
        raise Declined(
            f"affinity follows tokens from layer to layer and was given loads only (slots={problem.num_slots}); take balanced"
        )
    if problem.num_slots > MOST_SLOTS:
        raise Declined(
            f"affinity assigns up to {MOST_SLOTS} slots a layer; this problem has slots={problem.num_slots}; take topology"
        )
    device_P = np.repeat(np.arange(problem.num_devices), problem.slots_of_devices)
    placements: list[ExpertPlacement] = []
    gain_ED: Floats = tokens_by_home(problem, 0).T
    for layer in range(problem.num_layers):
        if layer > 0:
            gain_ED = _followers(sketch, layer, problem.num_experts) @ _shares(placements[-1])
        expert_P = _assigned(problem, layer, _with_nodes(problem, gain_ED), device_P)
        placements.append(problem.placement(expert_P))
    return PlacementAnswer(tuple(placements))


def _shares(placement: ExpertPlacement) -> Floats:
    """The part of each expert's copies on each device [E, D]."""
    share_ED = np.zeros((placement.num_experts, placement.num_devices))
    np.add.at(share_ED, (placement.expert_of_slot_P, placement.device_of_slot_P), 1.0)
    shares: Floats = share_ED / share_ED.sum(axis=1, keepdims=True)
    return shares


def _followers(sketch: TokenSketch, layer: int, num_experts: int) -> Floats:
    """Tokens of a step that go to j after i, each split over its experts of the layer before [j, i]."""
    weight_T = sketch.weight_T * sketch.window_weight_W[sketch.window_T]
    before_TE, after_TE = (_chosen(sketch.experts_LTK[ordinal], num_experts) for ordinal in (layer - 1, layer))
    count_T = np.maximum(np.asarray(before_TE.sum(axis=1)).ravel(), 1.0)
    scaled_TE = csr_matrix(before_TE.multiply((weight_T / count_T)[:, None]))
    followers: Floats = np.asarray((after_TE.T @ scaled_TE).todense())
    return followers


def _chosen(experts_TK: NDArray[np.int32], num_experts: int) -> csr_matrix:
    """1 where a token goes to an expert [T, E]."""
    token, k = np.nonzero(experts_TK >= 0)
    ones = np.ones(token.size)
    return csr_matrix((ones, (token, experts_TK[token, k])), (experts_TK.shape[0], num_experts))


def _with_nodes(problem: PlacementProblem, gain_ED: Floats) -> Floats:
    """The gain on a device and NODE x that on its node."""
    gain_EN = np.add.reduceat(gain_ED, np.arange(0, problem.num_devices, problem.devices_per_node), axis=1)
    both: Floats = gain_ED + NODE * gain_EN[:, problem.node_of_devices]
    return both


def _assigned(problem: PlacementProblem, layer: int, gain_ED: Floats, device_P: NDArray[np.int64]) -> NDArray[np.int64]:
    """The experts of the slots [P]: in round c, experts with more than c copies go to slots that are still free."""
    usable = int((problem.slots_of_devices > 0).sum())
    copies_E = water_fill(problem.load_LE[layer], problem.num_slots, usable)
    never = 1.0 + float(gain_ED.sum())  # worth more than any assignment: a repeat only where nothing else is left
    expert_P = np.full(problem.num_slots, -1, dtype=np.int64)
    holds_ED = np.zeros(gain_ED.shape, dtype=np.bool_)
    for turn in range(int(copies_E.max())):
        experts, free = np.flatnonzero(copies_E > turn), np.flatnonzero(expert_P < 0)
        worth = gain_ED[experts] / copies_E[experts, None] - never * holds_ED[experts]
        rows, columns = linear_sum_assignment(worth[:, device_P[free]], maximize=True)
        expert_P[free[columns]] = experts[rows]
        holds_ED[experts[rows], device_P[free[columns]]] = True
    return expert_P
