"""The key_grid strategy: whole rows on nodes, whole columns on devices, as level as whole rows and columns can be."""

import itertools

import numpy as np
import pytest

from moesim.errors import Declined
from moesim.planner import PlacementProblem, place
from moesim.planner.product_keys import group_by_keys, square_grid


def grid_cost(expert_of_slot_P, load_E, devices: int, per_node: int, columns: int) -> tuple[int, float]:
    """Pairs of (row, node) in use, and the largest load of a node."""
    device_P = np.repeat(np.arange(devices), len(expert_of_slot_P) // devices)
    node_P = device_P // per_node
    pairs = np.unique(expert_of_slot_P // columns * devices + node_P)
    return pairs.size, float(np.bincount(node_P, weights=load_E[expert_of_slot_P]).max())


def best_by_hand(load_R, nodes: int) -> float:
    """The smallest largest load of a node over all ways to give every node as many rows."""
    best = np.inf
    for nodes_R in itertools.product(range(nodes), repeat=load_R.size):
        if (np.bincount(nodes_R, minlength=nodes) == load_R.size // nodes).all():
            best = min(best, float(np.bincount(nodes_R, weights=load_R).max()))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_rows_stay_whole_and_nodes_are_nearly_as_level_as_all_ways_tried(seed: int) -> None:
    """4 x 4 experts on 2 nodes: every row on one node, and the fuller node within 7/6 of brute force over all ways."""
    load_E = np.random.default_rng(seed).gamma(0.7, size=16) * 100
    problem = PlacementProblem(load_E[None], num_devices=4, devices_per_node=2, num_slots=16)
    placement = place("key_grid", problem).placements[0]
    pairs, fullest = grid_cost(placement.expert_of_slot_P, load_E, 4, 2, 4)
    best = best_by_hand(load_E.reshape(4, 4).sum(axis=1), 2)
    assert 4 == pairs
    assert best - 1e-9 <= fullest <= best * 7 / 6 + 1e-9


def test_columns_stay_on_devices_of_their_node() -> None:
    """On each node a column of the grid lies on one device."""
    problem = PlacementProblem(np.ones((1, 64)), num_devices=8, devices_per_node=4, num_slots=64)
    placement = place("key_grid", problem).placements[0]
    column_P, node_P = placement.expert_of_slot_P % 8, placement.device_of_slot_P // 4
    devices = {(c, n): set() for c, n in zip(column_P.tolist(), node_P.tolist(), strict=True)}
    for column, node, device in zip(column_P, node_P, placement.device_of_slot_P, strict=True):
        devices[int(column), int(node)].add(int(device))
    assert [1] * len(devices) == [len(found) for found in devices.values()]


@pytest.mark.parametrize("slots", [36, 37, 42, 60, 80])
def test_any_slots_hold_every_expert_and_spare_ones_hold_hot_rows(slots: int) -> None:
    """6 x 6 experts on 6 devices of 3 nodes with spare slots: all experts are there, in exactly the slots."""
    load_E = np.arange(36.0)
    placement = place("key_grid", PlacementProblem(load_E[None], 6, 2, slots)).placements[0]
    assert slots == placement.num_slots
    assert placement.replicas_E.min() >= 1


def test_experts_that_are_no_grid_are_declined() -> None:
    """12 experts are no square, and 5 nodes of one row each do not hold 6 rows whole: both say why."""
    with pytest.raises(Declined, match="experts=12 are not a product"):
        place("key_grid", PlacementProblem(np.ones((1, 12)), 4, 2, 12))
    with pytest.raises(Declined, match="nodes hold 5 whole rows"):
        place("key_grid", PlacementProblem(np.ones((1, 36)), 5, 1, 36))
    assert (1024, 1024) == tuple(square_grid(1 << 20))


def test_rows_are_told_from_the_tokens() -> None:
    """Tokens of few rows are grouped by row, of few columns by column, random ones not at all."""
    rng = np.random.default_rng(0)
    few, many = rng.integers(0, 4, (50, 12)), rng.integers(0, 32, (50, 12))
    rows = group_by_keys((few * 32 + many).astype(np.int32), 1024)
    columns = group_by_keys((many * 32 + few).astype(np.int32), 1024)
    assert rows is not None and np.array_equal(np.arange(1024) // 32, rows)
    assert columns is not None and np.array_equal(np.arange(1024) % 32, columns)
    assert group_by_keys(rng.integers(0, 1024, (50, 12)).astype(np.int32), 1024) is None
    assert group_by_keys(rng.integers(0, 1000, (50, 12)).astype(np.int32), 1000) is None
