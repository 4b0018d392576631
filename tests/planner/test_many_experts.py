"""Placing more experts than a table of experts by devices holds: few nodes a token, level loads, exact slots."""

import numpy as np
import pytest

from moesim.errors import Declined
from moesim.planner import PlacementProblem, place
from moesim.planner.many_experts import place_many
from moesim.planner.problem import TokenSketch
from moesim.planner.smooth_fan_out import spread_smoothly, vertex_tokens
from moesim.planner.strategies import topology
from moesim.traffic import count_placed

EXPERTS, DEVICES, PER_NODE = 1024, 16, 2


def tokens(seed: int, count: int = 2048) -> np.ndarray:
    """Two crosses of four rows and four columns a token, of 12 topics; product keys in small."""
    rng, centres = np.random.default_rng(seed), np.random.default_rng(99)
    row_ZK, column_ZK = centres.integers(0, 32, (12, 8)), centres.integers(0, 32, (12, 8))
    topic_T = rng.integers(0, 12, count)
    pick = rng.integers(0, 8, (2, count, 16))
    rows = np.take_along_axis(row_ZK[topic_T], pick[0], axis=1)
    columns = np.take_along_axis(column_ZK[topic_T], pick[1], axis=1)
    return (rows * 32 + columns).astype(np.int32)


def sketch_of(experts_TK: np.ndarray) -> TokenSketch:
    count = len(experts_TK)
    return TokenSketch(
        experts_LTK=experts_TK[None],
        source_T=np.arange(count, dtype=np.int32) % DEVICES,
        weight_T=np.ones(count),
        window_T=np.zeros(count, dtype=np.int32),
        window_weight_W=np.ones(1),
        token_T=np.arange(count),
        whole=True,
    )


def problem_of(experts_TK: np.ndarray, slots: int = EXPERTS, **other) -> PlacementProblem:
    load_E = np.bincount(experts_TK.ravel(), minlength=EXPERTS).astype(float)
    return PlacementProblem(load_E[None], DEVICES, PER_NODE, slots, sketch=sketch_of(experts_TK), **other)


def judged(placement, experts_TK) -> tuple[float, float]:
    """Nodes a token and balancedness of devices on some tokens."""
    source_T = np.arange(len(experts_TK), dtype=np.int32) % DEVICES
    counts = count_placed(experts_TK, source_T, placement, "nearest", PER_NODE, 0).counts
    return counts.fanout_nodes, float(counts.load_D.mean() / counts.load_D.max())


def test_unseen_tokens_touch_fewer_nodes_than_with_whole_rows_at_level_load() -> None:
    """Planned on some tokens, judged on others: at least 5 % fewer nodes a token than key_grid, balancedness >= .8."""
    problem = problem_of(tokens(1))
    placement, unseen = place_many(problem, problem.sketch, 0), tokens(2)
    nodes, balancedness = judged(placement, unseen)
    grid_nodes, _ = judged(place("key_grid", problem).placements[0], unseen)
    assert nodes <= 0.95 * grid_nodes
    assert balancedness >= 0.8
    assert [EXPERTS // DEVICES] * DEVICES == np.bincount(placement.device_of_slot_P).tolist()


def test_more_slots_never_mean_more_nodes_and_room_for_all_means_one() -> None:
    """1, 2, 4, 8 copies of everything: fan-out falls to one node a token."""
    nodes = []
    for copies in (1, 2, 4, 8):
        problem = problem_of(tokens(1), slots=copies * EXPERTS)
        nodes.append(judged(place_many(problem, problem.sketch, 0), tokens(2))[0])
    assert sorted(nodes, reverse=True) == nodes
    assert 1.0 == nodes[-1]


def test_loads_alone_are_spread_evenly() -> None:
    """Without tokens every device gets the same load, up to an expert."""
    load_E = np.random.default_rng(3).gamma(0.5, size=EXPERTS)
    problem = PlacementProblem(load_E[None], DEVICES, PER_NODE, EXPERTS)
    placement = place_many(problem, None, 0)
    load_D = np.bincount(placement.device_of_slot_P, weights=load_E[placement.expert_of_slot_P])
    assert load_D.max() - load_D.min() <= load_E.max()


def test_smooth_search_finds_the_groups_that_tokens_use() -> None:
    """Four groups of vertices that tokens use together end whole on some node where nodes have room for two."""
    group_V = np.random.default_rng(5).permutation(np.repeat(np.arange(4), 6))
    vertex_TK = np.stack([np.flatnonzero(group_V == t % 4) for t in range(80)])
    node_V = spread_smoothly(
        np.arange(24) % 4, vertex_tokens(vertex_TK, 24), np.ones(80), np.full(24, 20.0), np.ones(24),
        np.full(4, 240.0), np.full(4, 12.0),
    )  # fmt: skip
    assert [1] * 4 == [np.unique(node_V[group_V == group]).size for group in range(4)]


def test_topology_takes_this_way_above_its_table_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the most cells `topology` answers with a note, repeats itself, and declines copies for survival."""
    monkeypatch.setattr(topology, "MOST_CELLS", 100)
    first, second = (place("topology", problem_of(tokens(1))) for _ in range(2))
    assert first == second
    assert "too many to search" in first.notes[0]
    with pytest.raises(Declined, match="survive=1"):
        place("topology", problem_of(tokens(1), slots=2 * EXPERTS, survive=1))
