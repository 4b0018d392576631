"""Routes: which copies of which tokens go from rank to rank, counted so that every rank knows the sizes of its messages.

A real layer exchanges these counts first (DeepEP calls it notify, and has a cached mode without it); here every rank
counts the whole routing for itself before the clock starts, as in the cached mode.
Array letters: T token, K top-k, D rank, N node, C chunk, P slot.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """The routing of one layer: where each token is, and the slot of every expert copy it goes to (-1: none)."""

    source_T: Ints
    slots_TK: Ints
    device_of_slot_P: Ints
    num_ranks: int
    ranks_per_node: int

    @property
    def devices_TK(self) -> Ints:
        """The rank that holds each slot; -1 where there is none."""
        return np.where(self.slots_TK >= 0, self.device_of_slot_P[self.slots_TK], -1)

    @property
    def num_nodes(self) -> int:
        """Nodes of `ranks_per_node` ranks."""
        return self.num_ranks // self.ranks_per_node

    @property
    def local_T(self) -> Ints:
        """Position of each token among those of its rank; tokens of a rank stand together in order."""
        first_D = np.searchsorted(self.source_T, np.arange(self.num_ranks))
        return np.arange(len(self.source_T)) - first_D[self.source_T]

    def num_chunks(self, chunk_tokens: int) -> int:
        """Chunks of `chunk_tokens` tokens that the fullest rank needs; at least one."""
        most = int(np.bincount(self.source_T, minlength=self.num_ranks).max(initial=0))
        return max(-(-most // chunk_tokens), 1)


def count_pairs(routing: Routing) -> Ints:
    """Copies of a direct dispatch [D, D]: one per token and expert, own rank included."""
    devices_TK = routing.devices_TK
    copies_DD = np.zeros((routing.num_ranks, routing.num_ranks), dtype=np.int64)
    token_F, k_F = np.nonzero(devices_TK >= 0)
    np.add.at(copies_DD, (routing.source_T[token_F], devices_TK[token_F, k_F]), 1)
    return copies_DD


def count_hops(routing: Routing, chunk_tokens: int) -> tuple[Ints, Ints]:
    """Copies of a dispatch in two hops, by chunk of the source's tokens: to nodes [C, D, N] and to ranks [C, D, D].

    One per token and distinct node, and one per token and distinct rank; own node and own rank included.
    """
    devices_TK, ranks, nodes = routing.devices_TK, routing.num_ranks, routing.num_nodes
    chunk_T = routing.local_T // chunk_tokens
    reached_TD = np.zeros((len(chunk_T), ranks), dtype=bool)
    token_F, k_F = np.nonzero(devices_TK >= 0)
    reached_TD[token_F, devices_TK[token_F, k_F]] = True
    reached_TN = reached_TD.reshape(len(chunk_T), nodes, routing.ranks_per_node).any(axis=2)
    to_ranks_CDD = np.zeros((routing.num_chunks(chunk_tokens), ranks, ranks), dtype=np.int64)
    to_nodes_CDN = np.zeros((len(to_ranks_CDD), ranks, nodes), dtype=np.int64)
    np.add.at(to_ranks_CDD, (chunk_T, routing.source_T), reached_TD)
    np.add.at(to_nodes_CDN, (chunk_T, routing.source_T), reached_TN)
    return to_nodes_CDN, to_ranks_CDD
