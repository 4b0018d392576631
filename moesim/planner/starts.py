"""Where the search of a layer starts: copies by load, copies by node, and the published balancer's.

Array letters: E expert, D device, N node, T token.
"""

import numpy as np
from numpy.typing import NDArray

from moesim.errors import Declined
from moesim.placement import ExpertPlacement
from moesim.planner.coarsen import MOST_VERTICES, coarsen
from moesim.planner.eplb import rebalance
from moesim.planner.hypergraph import Hypergraph, token_hypergraph
from moesim.planner.packing import pack_longest_first
from moesim.planner.partition import partition
from moesim.planner.problem import PlacementProblem, TokenSketch
from moesim.planner.replication import replicate_on_nodes
from moesim.planner.water_fill import water_fill

Copies = NDArray[np.bool_]
LOAD_PRICE = 0.1  # a token of load, in saved copies between nodes
_MOST_TOKENS = 4096  # the hypergraph's: its start is improved on more


def by_load(problem: PlacementProblem, layer: int) -> Copies:
    """Copies by water-filling, longest first [E, D]."""
    slots_D, load_E = problem.slots_of_devices, problem.load_LE[layer]
    copies_E = water_fill(load_E, problem.num_slots, int((slots_D > 0).sum()))
    packed_P = pack_longest_first(load_E, copies_E, problem.num_devices, slots_D, problem.speeds)
    return _held(problem, packed_P)


def by_one_copy(problem: PlacementProblem, layer: int) -> Copies:
    """One copy of each expert, experts on devices in proportion to speed as far as there are slots [E, D].

    Where a step is bound by weight reads this is near the best, and many moves away from starts that fill every slot.
    """
    slots_D, load_E = problem.slots_of_devices, problem.load_LE[layer]
    experts_D = np.zeros(problem.num_devices, dtype=np.int64)
    for _ in range(problem.num_experts):  # each to the device that reads its experts soonest
        experts_D[np.argmin(np.where(experts_D < slots_D, (experts_D + 1) / problem.speeds, np.inf))] += 1
    packed_P = pack_longest_first(
        load_E, np.ones(load_E.size, dtype=np.int64), problem.num_devices, experts_D, problem.speeds
    )
    holds_ED = np.zeros((problem.num_experts, problem.num_devices), dtype=np.bool_)
    holds_ED[packed_P, np.repeat(np.arange(problem.num_devices), experts_D)] = True
    return holds_ED


def by_node(problem: PlacementProblem, sketch: TokenSketch, layer: int, *, thorough: bool = True) -> Copies:
    """Experts to nodes by their tokens, copies where they save trips between nodes, then longest first in each node."""
    slots_D, load_E, node_D = problem.slots_of_devices, problem.load_LE[layer], problem.node_of_devices
    slots_N = np.bincount(node_D, weights=slots_D, minlength=problem.num_nodes).astype(np.int64)
    speed_N = np.bincount(node_D, weights=problem.speeds * (slots_D > 0), minlength=problem.num_nodes)
    step = max(1, sketch.num_tokens // _MOST_TOKENS)
    experts_TK = np.ascontiguousarray(sketch.experts_LTK[layer, ::step])
    node_T = problem.node_of_devices[sketch.source_T[::step] % problem.num_devices]
    weight_T = sketch.weight_T[::step]
    graph = token_hypergraph(experts_TK, node_T, weight_T, problem.num_experts, problem.num_nodes)
    node_E = _parted(graph, speed_N / speed_N.sum(), slots_N, problem.seed, thorough=thorough)
    holds_EN = replicate_on_nodes(experts_TK, node_T, weight_T, node_E, slots_N, LOAD_PRICE)
    holds_ED = np.zeros((problem.num_experts, problem.num_devices), dtype=np.bool_)
    for node in range(problem.num_nodes):
        mine = np.flatnonzero(holds_EN[:, node])
        local_D = np.flatnonzero((node_D == node) & (slots_D > 0))
        if mine.size and local_D.size:
            share = load_E[mine] / holds_EN[mine].sum(axis=1)
            copies = water_fill(share, max(int(slots_D[local_D].sum()), mine.size), local_D.size)
            packed = pack_longest_first(share, copies, local_D.size, slots_D[local_D], problem.speeds[local_D])
            holds_ED[mine[packed], np.repeat(local_D, slots_D[local_D])] = True
    return holds_ED


def by_eplb(problem: PlacementProblem, layer: int, *, hierarchical: bool) -> ExpertPlacement:
    """The published balancer's placement of a layer, on the slots it accepts; raises Declined where it has no answer."""
    devices, experts, nodes = problem.num_devices, problem.num_experts, problem.num_nodes
    used = problem.num_slots - problem.num_slots % devices
    if problem.slots_D is not None:
        used = int(problem.slots_D.min()) * devices
    if used < experts:
        raise Declined(f"EPLB needs a multiple of {devices} slots, at least {experts}")
    groups = problem.num_groups
    if hierarchical and (groups % nodes or devices % nodes or (nodes > 1 and devices % problem.devices_per_node)):
        raise Declined(f"groups={groups} do not fill {nodes} nodes equally")
    groups, nodes = (groups, nodes) if hierarchical else (1, 1)
    row_P = rebalance(problem.load_LE[layer].astype(np.float32), used, groups, nodes, devices)
    return ExpertPlacement(row_P, experts, devices)


def _parted(
    graph: Hypergraph, share_N: NDArray[np.float64], slots_N: NDArray[np.int64], seed: int, *, thorough: bool
) -> NDArray[np.int64]:
    """The node of each expert; super-experts of experts often used together where there are too many of them."""
    if graph.num_experts <= MOST_VERTICES:
        return partition(graph, share_N, slots_N, seed, thorough=thorough)
    coarse = coarsen(graph, slots_N)
    node_V = partition(coarse.graph, share_N, coarse.slots_N, seed, thorough=thorough)
    node_E: NDArray[np.int64] = node_V[coarse.vertex_of_expert_E]
    return node_E


def _held(problem: PlacementProblem, expert_of_slot_P: NDArray[np.int32]) -> Copies:
    holds_ED = np.zeros((problem.num_experts, problem.num_devices), dtype=np.bool_)
    holds_ED[expert_of_slot_P, np.repeat(np.arange(problem.num_devices), problem.slots_of_devices)] = True
    return holds_ED
