"""Starts for a million experts in small: tiles of a grid of keys, super-experts dealt by Mt-KaHyPar, experts used together."""

import numpy as np
import pytest

from moesim.planner.key_tiles import _add_product, tiles_of_nodes
from moesim.planner.partition import has_mtkahypar
from moesim.planner.product_keys import KeyGrid
from moesim.planner.super_experts import NodeRoom, start_by_keys, start_by_use

GRID, NODES = KeyGrid(16, 16), 4


def crosses(count: int = 400) -> np.ndarray:
    """Tokens that each pick four experts of one quarter of the grid, whose rows and columns lie apart by four."""
    rng = np.random.default_rng(1)
    quarter_T = rng.integers(0, 4, count)
    rows = 4 * rng.permuted(np.tile(np.arange(4), (count, 1)), axis=1)[:, :2] + quarter_T[:, None]
    columns = 4 * rng.permuted(np.tile(np.arange(4), (count, 1)), axis=1)[:, :2] + quarter_T[:, None]
    return (rows[:, :, None] * 16 + columns[:, None, :]).reshape(count, 4).astype(np.int32)


def nodes_a_token(node_E: np.ndarray, experts_TK: np.ndarray) -> float:
    return float(np.mean([np.unique(node_E[row[row >= 0]]).size for row in experts_TK]))


def room(load_E: np.ndarray) -> NodeRoom:
    return NodeRoom(
        share_N=np.full(NODES, 1 / NODES),
        most_load_N=np.full(NODES, 0.3 * load_E.sum()),
        most_size_N=np.full(NODES, 96.0),
    )


def test_tiles_find_the_rows_and_columns_that_searches_use_together() -> None:
    """Four quarters whose rows lie apart: hardly more than one node a token, a quarter of the load each; repeatable."""
    experts_TK = crosses()
    load_E = np.bincount(experts_TK.ravel(), minlength=256).astype(float)
    node_E = tiles_of_nodes(experts_TK, load_E, GRID, np.full(NODES, 1 / NODES))
    assert nodes_a_token(node_E, experts_TK) <= 1.25
    load_N = np.bincount(node_E, weights=load_E, minlength=NODES)
    assert load_N.max() <= 1.25 * load_N.mean()
    assert np.array_equal(node_E, tiles_of_nodes(experts_TK, load_E, GRID, np.full(NODES, 1 / NODES)))


def test_the_product_of_the_power_method_is_that_of_matrices() -> None:
    """(A + I) B for a symmetric A."""
    rng = np.random.default_rng(4)
    half_XX, basis_XC = rng.normal(size=(20, 20)).astype(np.float32), rng.normal(size=(20, 3)).astype(np.float32)
    whole_XX = half_XX + half_XX.T
    answer_CX = _add_product(whole_XX, np.ascontiguousarray(basis_XC.T))
    np.testing.assert_allclose(whole_XX @ basis_XC + basis_XC, answer_CX.T, rtol=1e-4, atol=1e-4)


def test_tiles_take_any_number_of_nodes_and_tokens_without_experts() -> None:
    """Three nodes of unlike shares, rows padded with -1: every node gets about its share of an even load."""
    share_N, experts_TK = np.array([0.5, 0.25, 0.25]), np.full((5, 4), -1, dtype=np.int32)
    node_E = tiles_of_nodes(experts_TK, np.ones(256), GRID, share_N)
    assert [128, 64, 64] == np.bincount(node_E, minlength=3).tolist()


def test_tiles_dealt_by_the_partitioner_touch_no_more_nodes() -> None:
    """Mt-KaHyPar's deal is taken only where fewer copies go between nodes, and keeps nodes to their load."""
    if not has_mtkahypar():
        pytest.skip("no wheel of mtkahypar for this machine")
    experts_TK = crosses()
    load_E = np.bincount(experts_TK.ravel(), minlength=256).astype(float)
    node_T = np.arange(len(experts_TK)) % NODES
    plain_E, dealt_E = (
        start_by_keys(experts_TK, node_T, load_E, GRID, room(load_E), 0, thorough=thorough)
        for thorough in (False, True)
    )
    assert nodes_a_token(dealt_E, experts_TK) <= nodes_a_token(plain_E, experts_TK)
    load_N = np.bincount(dealt_E, weights=load_E, minlength=NODES)
    assert load_N.max() <= 1.3 * load_N.mean()


def test_experts_used_together_start_together_without_keys() -> None:
    """Shuffled names: half the nodes a token of experts dealt by load, at a load below the cap."""
    name_E = np.random.default_rng(2).permutation(256)
    experts_TK = name_E[crosses()]
    used = np.unique(experts_TK)
    vertex_TK = np.searchsorted(used, experts_TK)
    load_V = np.bincount(vertex_TK.ravel(), minlength=used.size).astype(float)
    start_V = np.arange(used.size) % NODES
    node_V = start_by_use(vertex_TK, np.ones(len(vertex_TK)), load_V, room(load_V), start_V)
    assert nodes_a_token(node_V, vertex_TK) <= 0.5 * nodes_a_token(start_V, vertex_TK)
    assert np.bincount(node_V, weights=load_V, minlength=NODES).max() <= 0.31 * load_V.sum()
