"""The linear relaxation of the aggregate: how many pairs of tokens and experts must leave their node (or device).

Array letters: E expert, N node (or device).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from moesim.planner.solver import solve_linear

MOST_CELLS = 8192  # experts x nodes of one layer: a few hundredths of a second


def fewest_far(pairs_NE: NDArray[np.float64], slots_N: NDArray[np.int64]) -> float:
    """Pairs that no placement serves on their own node, of all steps that share the placement; 0 where too large to tell.

    Data        q[n,e] pairs of tokens on node n and expert e, summed over steps; slots[n]
    Variables   0 <= y[e,n] <= 1: whether n holds e
    Constraints slots:  sum over e of y[e,n] <= slots[n]   for every n
                placed: sum over n of y[e,n] >= 1          for every e
    Objective   max sum over e, n of q[n,e] y[e,n]; what is left of the pairs is far. The rows are those of a bipartite
                graph, so that the relaxation is whole: no placement of this aggregate does better, and one does as well.
    """
    nodes, experts = pairs_NE.shape
    if nodes * experts > MOST_CELLS:
        return 0.0
    node, expert = np.divmod(np.arange(nodes * experts), experts)
    cell = np.arange(node.size)
    signs = np.concatenate([np.ones(node.size), -np.ones(node.size)])
    rows = np.concatenate([node, nodes + expert])
    matrix = csr_matrix((signs, (rows, np.concatenate([cell, cell]))), (nodes + experts, node.size))
    total = float(pairs_NE.sum())
    most_B = np.concatenate([slots_N, -np.ones(experts)]).astype(np.float64)
    equal_B, one_V = np.zeros(most_B.size, dtype=np.bool_), np.ones(node.size)
    answer = solve_linear(-pairs_NE.ravel() / max(total, 1.0), matrix, most_B, equal_B, one_V)
    if answer.status != "optimal":
        return 0.0
    near = float(pairs_NE.ravel() @ answer.value_V)
    return max(total - near - 1e-9 * total, 0.0)
