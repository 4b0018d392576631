"""Splits: how the tokens of a replicated expert are shared among its copies, by a linear program over a fixed placement.

Letters: e replicated expert, n source node, p slot, s rank, d device, R resource (link under one operation), V variable.

Data        q[e,s] tokens a step that rank s sends to e (mean over windows); L0[R] copies on resource R, C0[s] seconds of
            compute on rank s, both with even splits; a[V,R] copies, b[V,s] seconds that share 1 of variable V = (e,n,p)
            brings: sum over ranks s of node n of q[e,s] x (copies a pair makes, de-duplication included)
Variables   x[e,n,p] >= 0; T_d, T_c, T_x >= 0: seconds of dispatch, combine, experts
Constraints whole:    sum over p of x[e,n,p] = 1                                     for every e, n
            link:     (L0[R] + sum over V of a[V,R] (x[V] - even)) seconds[R] + latency[R] <= T of R's operation
            device:   C0[s] + sum over V of b[V,s] (x[V] - even) <= T_x              for every rank s
Objective   min T_d + T_c + T_x
Solve       GLOP. The duals of link and device rows add up to 1 for each T: the largest names the congested resource.
Read back   the split is kept only where the objective itself (every sketched token sent by it) is below that of even
            splits: de-duplication makes copies not quite linear in the shares.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from moesim.placement import ExpertPlacement
from moesim.planner.objective import layer_time, make_state
from moesim.planner.objective_state import LayerState
from moesim.planner.objective_tables import CostTables
from moesim.planner.problem import PlacementProblem
from moesim.planner.solver import solve_linear

Floats = NDArray[np.float64]
_DECIMALS = 6  # of a share in a plan file
_SMALLEST_DUAL = 1e-6
PHASES = ("dispatch", "combine", "experts")


@dataclass(frozen=True, slots=True)
class SplitAnswer:
    """The placement with the best split found; seconds of the layer under it and under even splits.

    `resource` is the congested one of the linear program: ("link", index of the builder's link) or ("device", rank), with
    its `dual` (the share of its phase's time that depends on it); None where no copy is on what limits the layer.
    `binding` are all that bind: phase, resource and the seconds of the phase that its dual says depend on it.
    """

    placement: ExpertPlacement
    time_s: float
    even_time_s: float
    resource: tuple[str, int] | None = None
    dual: float = 0.0
    binding: tuple[tuple[str, tuple[str, int], float], ...] = ()


def even_split(placement: ExpertPlacement, num_nodes: int) -> Floats:
    """Equal shares for every copy of an expert, from every source node [N, P]."""
    share_P = 1.0 / placement.replicas_E[placement.expert_of_slot_P]
    return np.tile(share_P, (num_nodes, 1))


def best_split(problem: PlacementProblem, layer: int, placement: ExpertPlacement) -> SplitAnswer:
    """Solve the linear program of one layer; the answer is never slower than even splits on the problem's sketch.

    The problem must have a sketch and costs.
    """
    costs, sketch = problem.costs, problem.sketch
    assert costs is not None and sketch is not None
    even = problem.placement(placement.expert_of_slot_P, even_split(placement, problem.num_nodes))
    state = make_state(costs, sketch, layer, even, "split", problem.seed)
    even_s = float(layer_time(costs, state, 0.0))
    program = _program(problem, layer, even, state)
    if program is None or not program.resources:
        return SplitAnswer(even, even_s, even_s)
    answer = solve_linear(*program.arguments)
    if answer.status != "optimal":
        return SplitAnswer(even, even_s, even_s)
    resource, dual = program.congested(answer.dual_B)
    binding = program.binding(answer.dual_B, answer.value_V)
    better = problem.placement(placement.expert_of_slot_P, program.shares(answer.value_V))
    time_s = float(layer_time(costs, make_state(costs, sketch, layer, better, "split", problem.seed), 0.0))
    if time_s < even_s:
        return SplitAnswer(better, time_s, even_s, resource, dual, binding)
    return SplitAnswer(even, even_s, even_s, resource, dual, binding)


@dataclass(frozen=True, slots=True)
class _Program:
    """The linear program in arrays, and what its rows and variables stand for."""

    arguments: tuple[Floats, csr_matrix, Floats, NDArray[np.bool_], Floats]
    even_NP: Floats
    node_V: NDArray[np.int64]
    slot_V: NDArray[np.int64]
    resources: tuple[tuple[str, int], ...]  # of the rows in order
    phase_B: NDArray[np.int64]  # of the rows in order, an index of PHASES

    def shares(self, value_V: Floats) -> Floats:
        """The split table [N, P]."""
        share_NP = self.even_NP.copy()
        share_NP[self.node_V, self.slot_V] = np.round(np.maximum(value_V[: self.slot_V.size], 0.0), _DECIMALS)
        return share_NP

    def congested(self, dual_B: Floats) -> tuple[tuple[str, int], float]:
        """The row with the largest dual."""
        row = int(np.argmax(dual_B[: len(self.resources)]))
        return self.resources[row], float(dual_B[row])

    def binding(self, dual_B: Floats, value_V: Floats) -> tuple[tuple[str, tuple[str, int], float], ...]:
        """Rows with a dual, in order."""
        seconds_B = dual_B[: len(self.resources)] * value_V[-len(PHASES) :][self.phase_B]
        rows = np.flatnonzero(dual_B[: len(self.resources)] > _SMALLEST_DUAL)
        return tuple((PHASES[self.phase_B[row]], self.resources[row], float(seconds_B[row])) for row in rows)


def _program(problem: PlacementProblem, layer: int, even: ExpertPlacement, state: LayerState) -> _Program | None:
    """The program of one layer; None where no expert has two copies."""
    costs = problem.costs
    assert costs is not None and even.split_NP is not None
    copied_P = np.flatnonzero(even.replicas_E[even.expert_of_slot_P] > 1)
    if copied_P.size == 0:
        return None
    node_V = np.repeat(np.arange(problem.num_nodes), copied_P.size)
    slot_V = np.tile(copied_P, problem.num_nodes)
    expert_V = even.expert_of_slot_P[slot_V].astype(np.int64)
    pairs_ES = _pairs(problem, layer)
    copies_VR = _copies(costs, state, pairs_ES, node_V, slot_V, expert_V, even)
    seconds_VS = _seconds(costs, pairs_ES, node_V, slot_V, expert_V, even)
    even_V = even.split_NP[node_V, slot_V]
    load_R = np.average(state.load_WR, axis=0, weights=state.weight_W)
    compute_S = np.average(state.compute_WS + state.shared_WS, axis=0, weights=state.weight_W)
    link_RV = csr_matrix(copies_VR.multiply(costs.seconds_R[None, :]).T)
    device_SV = csr_matrix(seconds_VS.T)
    link_R = load_R * costs.seconds_R + costs.latency_R - link_RV @ even_V
    device_S = compute_S - device_SV @ even_V
    whole = np.unique(expert_V * problem.num_nodes + node_V, return_inverse=True)[1]
    whole_BV = csr_matrix((np.ones(slot_V.size), (whole, np.arange(slot_V.size))))
    # Columns behind the shares: dispatch, combine, experts.
    times_B3 = np.concatenate([np.eye(3)[costs.op_R], np.tile(np.eye(3)[2], (costs.num_ranks, 1))])
    keep_B = _can_bind(link_RV, link_R, device_SV, device_S, times_B3)
    limits = vstack([link_RV, device_SV]).tocsr()[keep_B]
    rows = vstack(
        [
            csr_matrix(np.hstack([limits.toarray(), -times_B3[keep_B]])),
            csr_matrix((whole_BV.data, whole_BV.indices, whole_BV.indptr), (whole_BV.shape[0], slot_V.size + 3)),
        ]
    ).tocsr()
    most_B = np.concatenate([-np.concatenate([link_R, device_S])[keep_B], np.ones(whole_BV.shape[0])])
    equal_B = np.concatenate([np.zeros(keep_B.sum(), dtype=np.bool_), np.ones(whole_BV.shape[0], dtype=np.bool_)])
    names = [("link", int(link)) for link in costs.link_R] + [("device", rank) for rank in range(costs.num_ranks)]
    cost_V = np.concatenate([np.zeros(slot_V.size), np.ones(3)])
    upper_V = np.concatenate([np.ones(slot_V.size), np.full(3, np.inf)])
    return _Program(
        arguments=(cost_V, rows, most_B, equal_B, upper_V),
        even_NP=even.split_NP,
        node_V=node_V,
        slot_V=slot_V,
        resources=tuple(name for name, keep in zip(names, keep_B, strict=True) if keep),
        phase_B=np.argmax(times_B3[keep_B], axis=1),
    )


def _can_bind(
    link_RV: csr_matrix, link_R: Floats, device_SV: csr_matrix, device_S: Floats, times_B3: Floats
) -> NDArray[np.bool_]:
    """Rows that could set their phase's time: the most they can take is above the least that some row must take."""
    least_B = np.concatenate([link_R, device_S])
    most_B = least_B + np.concatenate([np.asarray(m.sum(axis=1)).ravel() for m in (link_RV, device_SV)])
    needed_3 = np.array([least_B[times_B3[:, phase] > 0].max(initial=0.0) for phase in range(3)])
    keep_B: NDArray[np.bool_] = most_B > times_B3 @ needed_3
    return keep_B


def _pairs(problem: PlacementProblem, layer: int) -> Floats:
    """Tokens of a step that each rank sends to each expert, mean over windows [E, S]."""
    costs, sketch = problem.costs, problem.sketch
    assert costs is not None and sketch is not None
    token, k = np.nonzero(sketch.experts_LTK[layer] >= 0)
    weight = (sketch.weight_T * sketch.window_weight_W[sketch.window_T])[token]
    pairs_ES = np.zeros((problem.num_experts, costs.num_ranks))
    np.add.at(pairs_ES, (sketch.experts_LTK[layer][token, k], sketch.source_T[token]), weight)
    return pairs_ES


def _copies(
    costs: CostTables,
    state: LayerState,
    pairs_ES: Floats,
    node_V: NDArray[np.int64],
    slot_V: NDArray[np.int64],
    expert_V: NDArray[np.int64],
    placement: ExpertPlacement,
) -> csr_matrix:
    """Copies on each resource that a share of 1 brings, [V, R]: each pair makes the mean copies of a pair."""
    source_S = np.arange(costs.num_ranks)
    node_S = source_S % costs.group_size // costs.devices_per_node
    device_V = placement.device_of_slot_P[slot_V].astype(np.int64)
    v, s = np.nonzero((node_S[None, :] == node_V[:, None]) & (pairs_ES[expert_V] > 0))
    amount = pairs_ES[expert_V[v], s]
    held_T = state.count_TD.sum(axis=1, dtype=np.int64)
    pairs = max(int(held_T.sum()), 1)
    a_device = np.count_nonzero(state.count_TD) / pairs if costs.distinct else 1.0
    channel = [costs.channel_SD[s, device_V[v]]]
    copies, row = [amount * a_device], [v]
    if costs.node_copies:
        channel.append(costs.channel_SN[s, device_V[v] // costs.devices_per_node])
        copies.append(amount * (np.count_nonzero(state.count_TN) / pairs))
        row.append(v)
    channel_Y, copies_Y, row_Y = np.concatenate(channel), np.concatenate(copies), np.concatenate(row)
    used = channel_Y >= 0
    num_channels = costs.offsets_C1.size - 1
    by_channel = csr_matrix((copies_Y[used], (row_Y[used], channel_Y[used])), (slot_V.size, num_channels))
    by_resource = csr_matrix((costs.share_X, costs.resource_X, costs.offsets_C1), (num_channels, costs.seconds_R.size))
    return csr_matrix(by_channel @ by_resource)


def _seconds(
    costs: CostTables,
    pairs_ES: Floats,
    node_V: NDArray[np.int64],
    slot_V: NDArray[np.int64],
    expert_V: NDArray[np.int64],
    placement: ExpertPlacement,
) -> csr_matrix:
    """Seconds of compute on each rank that a share of 1 brings, [V, S]: arithmetic without tiles, and activations.

    Weight reads do not depend on the share; where they bind the arithmetic costs nothing, which is left to the check of
    the answer by the objective.
    """
    devices = costs.group_size
    node_S = np.arange(costs.num_ranks) % devices // costs.devices_per_node
    device_V = placement.device_of_slot_P[slot_V].astype(np.int64)
    rows, ranks, seconds = [], [], []
    for group in range(costs.num_ranks // devices):
        mine_S = np.arange(costs.num_ranks) // devices == group
        pairs_V = (pairs_ES[expert_V] * (mine_S & (node_S[None, :] == node_V[:, None]))).sum(axis=1)
        rank_V = group * devices + device_V
        each_V = costs.params_E[expert_V] * costs.flop_s_S[rank_V]
        each_V += costs.activation_bytes_E[expert_V] * costs.moved_s_S[rank_V]
        rows.append(np.arange(slot_V.size))
        ranks.append(rank_V)
        seconds.append(pairs_V * each_V)
    entries = (np.concatenate(seconds), (np.concatenate(rows), np.concatenate(ranks)))
    return csr_matrix(entries, (slot_V.size, costs.num_ranks))
