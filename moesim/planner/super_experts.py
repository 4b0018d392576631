"""Where a search on single experts starts from: super-experts on nodes, for layers of a million experts.

With product keys super-experts are tiles of the grid, several for each node, and Mt-KaHyPar deals them to nodes under a cap
on load and one on experts; without keys they are experts that tokens often use together, merged by heavy-edge matching.
Array letters: T token, K top-k, E expert, U super-expert, N node.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from moesim.planner.coarsen import coarsen
from moesim.planner.hypergraph import Hypergraph, token_hypergraph
from moesim.planner.key_tiles import tiles_of_nodes
from moesim.planner.partition import has_mtkahypar, partition
from moesim.planner.product_keys import KeyGrid
from moesim.planner.smooth_fan_out import spread_smoothly, vertex_tokens

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
TILES = 4  # of a node, where Mt-KaHyPar deals them
MOST_EDGES = 1024  # tokens that Mt-KaHyPar sees
_MOST_PARTED = 1 << 10  # super-experts; with more it takes minutes
_COARSE_TOKENS = 4096  # that matching sees
_LOAD_UNITS = 1 << 20  # whole numbers that loads are rounded to


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NodeRoom:
    """What nodes take: their share of the load (sums to 1), the load and the experts they may hold at most, all [N]."""

    share_N: Floats
    most_load_N: Floats
    most_size_N: Floats


def start_by_keys(
    experts_TK: NDArray[np.int32],
    node_T: Ints,
    load_E: Floats,
    grid: KeyGrid,
    room: NodeRoom,
    seed: int,
    *,
    thorough: bool,
) -> Ints:
    """The node of each expert [E] by tiles of the grid; `thorough`: tiles dealt anew by Mt-KaHyPar where that is there."""
    num_nodes = room.share_N.size
    if not (thorough and has_mtkahypar() and num_nodes * TILES <= _MOST_PARTED):
        return tiles_of_nodes(experts_TK, load_E, grid, room.share_N)
    tile_E = tiles_of_nodes(experts_TK, load_E, grid, np.repeat(room.share_N / TILES, TILES))
    some = slice(None, None, max(1, -(-len(experts_TK) // MOST_EDGES)))
    tile_TK = np.sort(np.where(experts_TK[some] >= 0, tile_E[experts_TK[some]], -1), axis=1)
    tile_TK[:, 1:][np.diff(tile_TK, axis=1) == 0] = -1
    graph = token_hypergraph(
        tile_TK.astype(np.int32), node_T[some], np.ones(len(tile_TK)), num_nodes * TILES, num_nodes
    )
    graph = dataclasses.replace(graph, load_E=_whole(_total(tile_E, load_E, num_nodes * TILES)))
    size_U = np.bincount(tile_E, weights=load_E > 0, minlength=num_nodes * TILES)
    most_U = np.maximum(room.most_size_N / max(float(size_U.mean()), 1.0), TILES).astype(np.int64)
    node_U = partition(graph, room.share_N, most_U, seed, most_edges=MOST_EDGES)
    return better_of(graph, np.arange(num_nodes * TILES) // TILES, node_U)[tile_E]


def better_of(graph: Hypergraph, one_E: Ints, other_E: Ints) -> Ints:
    """The assignment with fewer copies between nodes."""
    return one_E if graph.km1(one_E) <= graph.km1(other_E) else other_E


def start_by_use(
    vertex_TK: NDArray[np.integer], weight_T: Floats, load_V: Floats, room: NodeRoom, start_V: Ints
) -> Ints:
    """The node of each of some experts [V], numbered as in `vertex_TK` (-1 = another): those used together go together.

    Experts that share tokens are merged to super-experts; the smoothed search deals these from the nodes where `start_V`
    has their heaviest member. Experts too many for that start where `start_V` says.
    """
    num_vertices, num_nodes = load_V.size, room.share_N.size
    some = slice(None, None, max(1, -(-len(vertex_TK) // _COARSE_TOKENS)))
    graph = token_hypergraph(
        vertex_TK[some].astype(np.int32),
        np.zeros(len(vertex_TK[some]), dtype=np.int64),
        np.ones(len(vertex_TK[some])),
        num_vertices,
        num_nodes,
    )
    coarse = coarsen(graph, np.full(num_nodes, num_vertices, dtype=np.int64), 16 * num_nodes)
    super_V = coarse.vertex_of_expert_E
    number = int(super_V.max()) + 1
    load_U = _total(super_V, load_V, number)
    size_U = np.bincount(super_V, minlength=number).astype(np.float64)
    node_U = np.empty(number, dtype=np.int64)
    light_first = np.argsort(load_V, kind="stable")
    node_U[super_V[light_first]] = start_V[light_first]
    super_TK = np.where(vertex_TK >= 0, super_V[vertex_TK], -1)
    tokens = vertex_tokens(super_TK, number)
    return spread_smoothly(node_U, tokens, weight_T, load_U, size_U, room.most_load_N, room.most_size_N)[super_V]


def _total(super_E: Ints, load_E: Floats, number: int) -> Floats:
    """Summed load of the experts of each super-expert."""
    total: Floats = np.bincount(super_E, weights=load_E, minlength=number).astype(np.float64)
    return total


def _whole(load_U: Floats) -> Ints:
    """Loads as whole numbers, at least 1."""
    return np.maximum(np.rint(load_U * (_LOAD_UNITS / max(float(load_U.sum()), 1e-300))), 1).astype(np.int64)
