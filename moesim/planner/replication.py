"""Node-aware copies: the spare slots of every node go to the experts whose copies there save most traffic between nodes.

The saving of a copy is submodular: what one copy saves, another cannot save again. So the greedy choice, largest saving
first, is within 1 - 1/e of the best one. Load counts beside it: `load_price` is what a token of load above the mean of a
node's experts is worth in saved copies. Array letters: T token, K top-k, E expert, N node.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray


def replicate_on_nodes(
    experts_TK: NDArray[np.int32],
    node_T: NDArray[np.int64],
    weight_T: NDArray[np.float64],
    node_E: NDArray[np.int64],
    slots_N: NDArray[np.int64],
    load_price: float,
) -> NDArray[np.bool_]:
    """Which nodes hold each expert [E, N]: `node_E` and, in the slots left, one more copy after the other.

    A token saves the trip to a node when all experts it goes there for are on its own node. A token whose last but one
    such expert gets a copy counts in part: its weight / the experts still missing. At most one copy of an expert per node;
    slots that no copy is left for stay free.
    """
    holds_EN = np.zeros((node_E.size, slots_N.size), dtype=np.bool_)
    holds_EN[np.arange(node_E.size), node_E] = True
    load_E = np.bincount(
        experts_TK[experts_TK >= 0],
        weights=np.broadcast_to(weight_T[:, None], experts_TK.shape)[experts_TK >= 0],
        minlength=node_E.size,
    )
    home_E = node_E.astype(np.int64)
    _greedy(
        experts_TK, node_T.astype(np.int64), weight_T, home_E, holds_EN, slots_N.astype(np.int64), load_E, load_price
    )
    return holds_EN


def remote_copies(
    experts_TK: NDArray[np.int32], node_T: NDArray[np.int64], weight_T: NDArray[np.float64], used_EN: NDArray[np.int64]
) -> float:
    """Copies to other nodes when tokens of node n use the copy of expert e on node `used_EN[e, n]`, one per node."""
    return float(_remote(experts_TK, node_T.astype(np.int64), weight_T, used_EN.astype(np.int64)))


@njit(cache=True, nogil=True)
def _greedy(experts_TK, node_T, weight_T, home_E, holds_EN, slots_N, load_E, load_price):  # type: ignore[no-untyped-def]
    """Rounds over the nodes: each takes the copy that saves most, until no slot or no expert is left."""
    num_experts, num_nodes = holds_EN.shape
    left_N = slots_N.copy()
    copies_E = np.zeros(num_experts, dtype=np.int64)
    for expert in range(num_experts):
        left_N[home_E[expert]] -= 1
        copies_E[expert] = 1
    save_EN = np.zeros((num_experts, num_nodes))
    missing_N = np.zeros(num_nodes, dtype=np.int64)
    while left_N.max() > 0:
        save_EN[:] = 0.0
        for token in range(node_T.size):
            _add_savings(experts_TK[token], node_T[token], weight_T[token], home_E, holds_EN, missing_N, save_EN)
        took = False
        for node in range(num_nodes):
            if left_N[node] <= 0:
                continue
            chosen, most = -1, -1.0
            for expert in range(num_experts):
                worth = save_EN[expert, node] + load_price * load_E[expert] / copies_E[expert]
                if not holds_EN[expert, node] and worth > most:
                    chosen, most = expert, worth
            if chosen >= 0:
                holds_EN[chosen, node] = True
                copies_E[chosen] += 1
                left_N[node] -= 1
                took = True
        if not took:
            break


@njit(cache=True, nogil=True)
def _add_savings(experts_K, own, weight, home_E, holds_EN, missing_N, save_EN):  # type: ignore[no-untyped-def]
    """For every expert the token leaves its node for: its part of the trip."""
    missing_N[:] = 0
    for expert in experts_K:
        if expert >= 0 and not holds_EN[expert, own]:
            missing_N[home_E[expert]] += 1
    for expert in experts_K:
        if expert >= 0 and not holds_EN[expert, own]:
            save_EN[expert, own] += weight / missing_N[home_E[expert]]


@njit(cache=True, nogil=True)
def _remote(experts_TK, node_T, weight_T, used_EN):  # type: ignore[no-untyped-def]
    stamp_N = np.full(used_EN.shape[1], -1, dtype=np.int64)
    total = 0.0
    for token in range(node_T.size):
        stamp_N[node_T[token]] = token
        for expert in experts_TK[token]:
            if expert >= 0:
                node = used_EN[expert, node_T[token]]
                if stamp_N[node] != token:
                    total += weight_T[token]
                stamp_N[node] = token
    return total
