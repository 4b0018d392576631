"""The hypergraph of tokens, its partition, coarsening and node-aware copies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.planner import partition as partition_module
from moesim.planner.coarsen import coarsen
from moesim.planner.hypergraph import token_hypergraph
from moesim.planner.partition import LOAD_SLACK, partition, refine
from moesim.planner.replication import remote_copies, replicate_on_nodes
from moesim.planner.source_tables import nearest_sources
from moesim.traffic import count_traffic
from tests.strategies.placement import routed


def topics(tokens: int = 600, experts: int = 32, nodes: int = 4, seed: int = 0):
    """Tokens that mostly keep to one of eight topics of four experts; topics lie across experts."""
    rng = np.random.default_rng(seed)
    topic_T = rng.integers(0, 8, tokens)
    own = rng.permuted(np.tile(np.arange(4), (tokens, 1)), axis=1)[:, :3] * 8 + topic_T[:, None]
    experts_TK = np.where(rng.random((tokens, 3)) < 0.1, (own + 1) % experts, own).astype(np.int32)
    experts_TK[:, 1:][experts_TK[:, 1:] == experts_TK[:, :1]] = -1
    experts_TK = -np.sort(-experts_TK, axis=1)
    return experts_TK, rng.integers(0, nodes, tokens), np.ones(tokens)


@given(st.data(), st.integers(1, 9), st.integers(1, 5))
@settings(max_examples=60)
def test_km1_is_the_number_of_copies_between_nodes(data, experts, nodes):
    """The metric equals what traffic counts with a copy for each distinct remote node."""
    experts_TK, source_T = data.draw(routed(experts, nodes))
    node_E = np.array(
        data.draw(st.lists(st.integers(0, nodes - 1), min_size=experts, max_size=experts)), dtype=np.int32
    )
    graph = token_hypergraph(experts_TK, source_T, np.ones(len(source_T)), experts, nodes)
    copies_DN = count_traffic(experts_TK, source_T, node_E, nodes, 1).per_node_DN
    assert int(copies_DN.sum() - np.trace(copies_DN)) == graph.km1(node_E)
    used_EN = np.repeat(node_E[:, None], nodes, axis=1)
    assert graph.km1(node_E) == remote_copies(experts_TK, source_T, np.ones(len(source_T)), used_EN)


@pytest.mark.parametrize("installed", [True, False])
def test_a_partition_keeps_load_cap_and_slots_and_finds_the_topics(monkeypatch, installed):
    """No node is above its share by more than the slack, none has more experts than slots; far fewer copies than by load."""
    if not installed:
        monkeypatch.setattr(partition_module, "_engine", lambda: None)
    elif not partition_module.has_mtkahypar():
        pytest.skip("no wheel of mtkahypar for this machine")
    experts_TK, node_T, weight_T = topics()
    graph = token_hypergraph(experts_TK, node_T, weight_T, 32, 4)
    share_N, slots_N = np.full(4, 0.25), np.full(4, 9)
    node_E = partition(graph, share_N, slots_N, seed=0)
    load_N = np.bincount(node_E, weights=graph.load_E, minlength=4)
    assert load_N.max() <= np.ceil((1 + LOAD_SLACK) * 0.25 * graph.load_E.sum())
    assert np.bincount(node_E, minlength=4).max() <= 9
    assert graph.km1(node_E) < 0.75 * graph.km1(np.arange(32) % 4 * 0 + np.arange(32) // 8)
    assert np.array_equal(node_E, partition(graph, share_N, slots_N, seed=0))


@given(st.integers(0, 50))
@settings(max_examples=15)
def test_refinement_never_adds_copies_where_caps_hold(seed):
    """km1 falls or stays; slots stay kept."""
    experts_TK, node_T, weight_T = topics(tokens=80, seed=seed)
    graph = token_hypergraph(experts_TK, node_T, weight_T, 32, 4)
    start_E = np.random.default_rng(seed).permutation(np.arange(32) % 4)
    cap_N = np.full(4, np.bincount(start_E, weights=graph.load_E).max()).astype(np.int64)
    node_E = refine(graph, start_E, cap_N, np.full(4, 9))
    assert graph.km1(node_E) <= graph.km1(start_E)
    assert np.bincount(node_E, minlength=4).max() <= 9
    assert np.bincount(node_E, weights=graph.load_E, minlength=4).max() <= cap_N[0]


def test_coarsening_joins_experts_of_common_tokens_and_fits_nodes():
    """Eight vertices of four experts are the eight topics; loads add up; nodes take as many as fit their slots."""
    experts_TK, node_T, weight_T = topics(tokens=4000)
    graph = token_hypergraph(experts_TK, node_T, weight_T, 32, 4)
    coarse = coarsen(graph, np.full(4, 9), most_vertices=8)
    assert 8 == coarse.graph.num_experts
    assert graph.load_E.sum() == coarse.graph.load_E.sum()
    assert [2, 2, 2, 2] == coarse.slots_N.tolist()
    assert 8 == len({tuple(np.flatnonzero(coarse.vertex_of_expert_E == v) % 8) for v in range(8)})
    node_E = partition(coarse.graph, np.full(4, 0.25), coarse.slots_N, 0)[coarse.vertex_of_expert_E]
    assert np.bincount(node_E, minlength=4).max() <= 9


def test_copies_on_nodes_fill_slots_and_save_trips():
    """Spare slots of all nodes hold further experts; tokens that use near copies travel less than without them."""
    experts_TK, node_T, weight_T = topics()
    node_E, slots_N = np.arange(32) % 4, np.full(4, 12)
    holds_EN = replicate_on_nodes(experts_TK, node_T, weight_T, node_E, slots_N, load_price=0.0)
    assert [12] * 4 == holds_EN.sum(axis=0).tolist()
    assert holds_EN[np.arange(32), node_E].all()
    home_EN = np.repeat(node_E[:, None], 4, axis=1)
    near_EN = np.where(holds_EN, np.arange(4), home_EN)
    without, with_copies = (remote_copies(experts_TK, node_T, weight_T, used) for used in (home_EN, near_EN))
    assert with_copies < 0.95 * without


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_sources_use_a_copy_that_is_there_and_near(experts, devices, per_node, seed):
    """A device that holds the expert uses its own copy, one whose node does uses that node's."""
    rng = np.random.default_rng(seed)
    holds_ED = rng.random((experts, devices)) < 0.4
    holds_ED[np.arange(experts), rng.integers(0, devices, experts)] = True
    table_ED = nearest_sources(holds_ED, per_node)
    for expert in range(experts):
        for source in range(devices):
            used = table_ED[expert, source]
            assert holds_ED[expert, used]
            if holds_ED[expert, source]:
                assert source == used
            node = np.arange(source // per_node * per_node, min(devices, (source // per_node + 1) * per_node))
            if holds_ED[expert, node].any():
                assert used in node
