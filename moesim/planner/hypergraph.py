"""Hypergraph of a layer's tokens: experts are vertices, and every distinct token is an edge that joins its experts.

With the token's own node as one more pin, fixed to that node, the connectivity-minus-one metric of an assignment of
experts to nodes, km1 = sum over edges of weight x (distinct blocks - 1), *is* the number of copies that travel to other
nodes when each node gets one copy of a token. Array letters: T token, K top-k, E expert, N node (block), M edge, V vertex
(experts, then nodes), I pin.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypergraph:
    """Edge m joins vertices pins_I[offsets_M1[m]:offsets_M1[m + 1]] and stands for weight_M tokens.

    Vertices below `num_experts` are experts, vertex num_experts + n is node n. `load_E` are whole tokens, at least 1.
    """

    num_experts: int
    num_nodes: int
    offsets_M1: Ints
    pins_I: Ints
    weight_M: Ints
    load_E: Ints

    @property
    def num_edges(self) -> int:
        """Distinct tokens, M."""
        return self.weight_M.size

    def km1(self, node_E: NDArray[np.integer]) -> int:
        """Tokens' copies to nodes other than their own, when expert e lies on node `node_E[e]`."""
        block_V = np.concatenate([np.asarray(node_E, dtype=np.int64), np.arange(self.num_nodes)])
        return int(_km1(self.offsets_M1, self.pins_I, self.weight_M, block_V, self.num_nodes))


def token_hypergraph(
    experts_TK: NDArray[np.int32],
    node_T: NDArray[np.integer],
    weight_T: NDArray[np.float64],
    num_experts: int,
    num_nodes: int,
) -> Hypergraph:
    """The hypergraph of some tokens: experts `experts_TK` (-1 = none) from node `node_T`, `weight_T` rounded to whole tokens.

    Equal tokens become one edge.
    """
    rows_TK = np.concatenate([np.sort(experts_TK, axis=1), (num_experts + node_T)[:, None].astype(np.int32)], axis=1)
    rows_MK, edge_T = np.unique(rows_TK, axis=0, return_inverse=True)
    weight_M = np.bincount(edge_T.ravel(), weights=weight_T, minlength=len(rows_MK))
    there_MK = rows_MK >= 0
    pairs_T, column_T = np.nonzero(experts_TK >= 0)
    load_E = np.bincount(experts_TK[pairs_T, column_T], weights=weight_T[pairs_T], minlength=num_experts)
    return Hypergraph(
        num_experts=num_experts,
        num_nodes=num_nodes,
        offsets_M1=np.concatenate([[0], np.cumsum(there_MK.sum(axis=1))]).astype(np.int64),
        pins_I=rows_MK[there_MK].astype(np.int64),
        weight_M=np.maximum(np.rint(weight_M), 1).astype(np.int64),
        load_E=np.maximum(np.rint(load_E), 1).astype(np.int64),
    )


@njit(cache=True, nogil=True)
def _km1(offsets_M1, pins_I, weight_M, block_V, num_blocks):  # type: ignore[no-untyped-def]  # types are numba's
    stamp_N = np.full(num_blocks, -1, dtype=np.int64)
    total = 0
    for edge in range(weight_M.size):
        distinct = 0
        for i in range(offsets_M1[edge], offsets_M1[edge + 1]):
            block = block_V[pins_I[i]]
            distinct += stamp_N[block] != edge
            stamp_N[block] = edge
        total += weight_M[edge] * (distinct - 1)
    return total
