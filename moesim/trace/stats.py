"""Statistics of a trace, layer by layer: load, overlap of neighbouring tokens, experts chosen together; in one pass.

Array letters: L layer of the trace, E expert, W row of the file, K top-k, H neighbour place (see `TokenTally`).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.routing import TraceInfo
from moesim.trace.rows import TokenRows

_MOST_PAIRS = 2**26  # layers x experts x experts counted: 512 MiB; above, co-activation is left out
_MOST_NEIGHBOUR_IDS = 2**24  # expert ids remembered for the next token of their sequence: 64 MiB
_LEAST_PAIR_TOKENS = 32  # a lift of fewer joint tokens is noise


def max_over_mean(load_LE: NDArray[np.int64]) -> NDArray[np.float64]:
    """Load of each layer's hottest expert / mean load of its experts; 1 = balanced, 0 for a layer without load."""
    mean_L = load_LE.mean(axis=1)
    peaks: NDArray[np.float64] = np.divide(load_LE.max(axis=1), mean_L, out=np.zeros_like(mean_L), where=mean_L > 0)
    return peaks


def gini(load_LE: NDArray[np.int64]) -> NDArray[np.float64]:
    """Gini coefficient of each layer's loads: 0 = all equal, (E-1)/E = all on one expert, 0 without load.

    >>> gini(np.array([[5, 5], [0, 4]])).tolist()
    [0.0, 0.5]
    """
    sorted_LE = np.sort(load_LE, axis=1).astype(np.float64)
    num_experts = load_LE.shape[1]
    total_L = sorted_LE.sum(axis=1)
    ranked_L = sorted_LE @ (2.0 * np.arange(1, num_experts + 1) - num_experts - 1)
    values: NDArray[np.float64] = np.divide(
        ranked_L, num_experts * total_L, out=np.zeros_like(total_L), where=total_L > 0
    )
    return values


def independent_overlap(load_LE: NDArray[np.int64], num_tokens: int, top_k: int) -> NDArray[np.float64]:
    """Share of its K experts a token would have in common with another by load alone: sum over e of p_e^2 / K."""
    share_LE = load_LE / num_tokens
    overlap_L: NDArray[np.float64] = (share_LE**2).sum(axis=1) / top_k
    return overlap_L


@dataclass(slots=True)
class TokenTally:
    """Counts of a token-level trace: made empty, fed every batch of rows in order, read at the end.

    The last token of a sequence is remembered in place (sequence mod H) until its next token comes or another sequence
    takes the place; a pair so lost is not counted, and with fewer sequences than H, or whole ones in a row, none is.
    """

    info: TraceInfo
    load_LE: NDArray[np.int64] = field(init=False)
    joint_LEE: NDArray[np.int64] | None = field(init=False)  # tokens with both experts, upper triangle
    shared_L: NDArray[np.int64] = field(init=False)  # experts in common of neighbouring tokens, summed
    neighbours_L: NDArray[np.int64] = field(init=False)  # pairs of neighbouring tokens
    _last_LHK: NDArray[np.int32] = field(init=False)
    _last_sequence_LH: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.info.num_layers, self.info.num_experts)
        self.load_LE = np.zeros(shape, np.int64)
        counts_pairs = shape[0] * shape[1] ** 2 <= _MOST_PAIRS
        self.joint_LEE = np.zeros((*shape, shape[1]), np.int64) if counts_pairs else None
        self.shared_L, self.neighbours_L = np.zeros((2, shape[0]), np.int64)
        places = max(1, min(self.info.num_tokens, _MOST_NEIGHBOUR_IDS // (shape[0] * self.info.top_k)))
        self._last_LHK = np.full((shape[0], places, self.info.top_k), -1, np.int32)
        self._last_sequence_LH = np.full((shape[0], places), -1, np.int64)

    def add(self, rows: TokenRows) -> None:
        """Count checked rows; a file without sequences has one a rank."""
        layer_W = np.searchsorted(self.info.layers, rows.layer_W)
        sequence_W = (rows.rank_W if rows.sequence_W is None else rows.sequence_W).astype(np.int64)
        _count_load(layer_W, rows.experts_WK, self.load_LE)
        _count_neighbours(
            layer_W,
            sequence_W,
            rows.experts_WK,
            self._last_LHK,
            self._last_sequence_LH,
            self.shared_L,
            self.neighbours_L,
            np.full(self.info.num_experts, -1, np.int64),
        )
        if self.joint_LEE is not None:
            _count_joint(layer_W, rows.experts_WK, self.joint_LEE)

    def adjacent_overlap(self) -> NDArray[np.float64]:
        """Mean share of its K experts a token has in common with the token before it in its sequence; NaN: no pair."""
        with np.errstate(invalid="ignore"):
            return np.divide(self.shared_L, self.neighbours_L * self.info.top_k)

    def coactivation(self, top: int = 5) -> list[dict[str, Any]] | None:
        """Per layer the pairs of experts chosen together most above chance; None where too many to count.

        lift = tokens with both x tokens / (tokens with one x tokens with the other): 1 = by chance. mean_lift is over
        all chosen pairs, each as often as it is chosen; top pairs have at least 32 joint tokens.
        """
        if self.joint_LEE is None:
            return None
        pairs = zip(self.joint_LEE, self.load_LE, strict=True)
        return [_layer_coactivation(joint_EE, load_E, self.info.num_tokens, top) for joint_EE, load_E in pairs]


def _layer_coactivation(
    joint_EE: NDArray[np.int64], load_E: NDArray[np.int64], num_tokens: int, top: int
) -> dict[str, Any]:
    first, second = np.nonzero(joint_EE)
    joint = joint_EE[first, second].astype(np.float64)
    lift = joint * num_tokens / (load_E[first].astype(np.float64) * load_E[second])
    frequent = np.flatnonzero(joint >= _LEAST_PAIR_TOKENS)
    best = frequent[np.argsort(-lift[frequent], kind="stable")[:top]]
    return {
        "mean_lift": float((lift * joint).sum() / joint.sum()) if len(joint) else None,
        "top_pairs": [
            {"experts": [int(first[i]), int(second[i])], "lift": float(lift[i]), "tokens": int(joint[i])} for i in best
        ],
    }


@njit(cache=True, nogil=True)
def _count_load(layer_W, experts_WK, load_LE):  # type: ignore[no-untyped-def]  # types are numba's
    for row in range(experts_WK.shape[0]):
        for expert in experts_WK[row]:
            if expert >= 0:
                load_LE[layer_W[row], expert] += 1


@njit(cache=True, nogil=True)
def _count_joint(layer_W, experts_WK, joint_LEE):  # type: ignore[no-untyped-def]  # types are numba's
    top_k = experts_WK.shape[1]
    for row in range(experts_WK.shape[0]):
        for i in range(top_k):
            for j in range(i + 1, top_k):
                one, other = experts_WK[row, i], experts_WK[row, j]
                if one >= 0 and other >= 0:
                    joint_LEE[layer_W[row], min(one, other), max(one, other)] += 1


@njit(cache=True, nogil=True)
def _count_neighbours(  # type: ignore[no-untyped-def]  # types are numba's
    layer_W, sequence_W, experts_WK, last_LHK, last_sequence_LH, shared_L, neighbours_L, marked_E
):
    for row in range(experts_WK.shape[0]):
        layer, sequence = layer_W[row], sequence_W[row]
        place = sequence % last_LHK.shape[1]
        if last_sequence_LH[layer, place] == sequence:
            neighbours_L[layer] += 1
            for expert in last_LHK[layer, place]:
                if expert >= 0:
                    marked_E[expert] = row
            for expert in experts_WK[row]:
                if expert >= 0 and marked_E[expert] == row:
                    shared_L[layer] += 1
        last_sequence_LH[layer, place] = sequence
        last_LHK[layer, place] = experts_WK[row]
