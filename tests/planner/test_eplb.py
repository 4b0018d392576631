"""EPLB: examples worked out by hand, and slots it refuses."""

from collections.abc import Sequence

import numpy as np
import pytest

from moesim.errors import Declined
from moesim.planner import PlacementAnswer, PlacementProblem, place


def answer(
    name: str, load: Sequence[Sequence[float]], devices: int, per_node: int, slots: int, groups: int = 1
) -> PlacementAnswer:
    return place(name, PlacementProblem(np.array(load), devices, per_node, slots, num_groups=groups))


def slots_of(placed: PlacementAnswer) -> list[list[int]]:
    return [placement.expert_of_slot_P.tolist() for placement in placed.placements]


def test_the_example_of_the_published_readme() -> None:
    """Two layers of 12 experts in 4 groups, 16 slots on 2 nodes of 4 devices."""
    load = [
        [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
        [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
    ]
    expected = [
        [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
        [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
    ]
    placed = answer("eplb_hierarchical", load, devices=8, per_node=4, slots=16, groups=4)
    assert (expected, ()) == (slots_of(placed), placed.notes)


def test_ties_go_to_the_lower_number_and_copies_share_a_device() -> None:
    """Loads 4 4 2 2: 0 and 1 are copied, all six copies weigh 2, and dealing them in order repeats 0 and 1."""
    placed = answer("eplb_global", [[4, 4, 2, 2]], devices=2, per_node=2, slots=6)
    assert [[0, 2, 0, 1, 3, 1]] == slots_of(placed)
    assert 2 == placed.placements[0].same_device_duplicates


def test_one_hot_expert_fills_its_devices_twice() -> None:
    """Loads 9 1 1: all three extra slots copy expert 0 (9, 4.5, 3), and each device gets two of its four copies."""
    placed = answer("eplb_global", [[9, 1, 1]], devices=2, per_node=2, slots=6)
    assert [[0, 0, 1, 0, 0, 2]] == slots_of(placed)
    assert 2 == placed.placements[0].same_device_duplicates


def test_without_load_the_first_expert_is_copied_and_the_first_device_filled() -> None:
    """Zero is the largest load per copy, first found at expert 0 each time."""
    assert [[0, 1, 0, 0]] == slots_of(answer("eplb_global", [[0, 0]], devices=2, per_node=2, slots=4))


def test_one_slot_a_device_keeps_the_order_of_copies() -> None:
    """Nothing is sorted where each device holds one copy: first copies in order, then the extra one."""
    assert [[0, 1, 2, 1]] == slots_of(answer("eplb_global", [[1, 5, 2]], devices=4, per_node=4, slots=4))


def test_groups_go_to_the_lighter_node() -> None:
    """Groups of one expert, loads 1 4 2 3: node 0 packs 4 then 1, node 1 packs 3 then 2."""
    placed = answer("eplb_hierarchical", [[1, 4, 2, 3]], devices=2, per_node=1, slots=4, groups=4)
    assert [[1, 0, 3, 2]] == slots_of(placed)


def test_loads_are_compared_as_float32() -> None:
    """2**24 + 1 rounds to 2**24: a tie, which expert 0 wins, as upstream."""
    placed = answer("eplb_global", [[2.0**24, 2.0**24 + 1]], devices=3, per_node=3, slots=3)
    assert [[0, 1, 0]] == slots_of(placed)


def test_loads_of_1e18_are_placed() -> None:
    """Large loads are loads: the copy goes to the larger, and the three pack 5e17 + 4e17 against 5e17 + nothing."""
    placed = answer("eplb_global", [[1e18, 4e17, 0]], devices=2, per_node=2, slots=4)
    assert [[0, 1, 0, 2]] == slots_of(placed)


def test_slots_that_do_not_divide_are_rounded_down_with_a_note() -> None:
    """Seven slots on two devices become six."""
    placed = answer("eplb_global", [[4, 4, 2, 2]], devices=2, per_node=2, slots=7)
    assert [[0, 2, 0, 1, 3, 1]] == slots_of(placed)
    assert ("EPLB needs slots divisible by 2 devices: 6 used of 7 asked",) == placed.notes


def test_slots_that_round_down_below_the_experts_are_declined() -> None:
    """Sixty experts in 60 slots on 32 devices: 32 slots would be too few, 64 is what to ask for."""
    with pytest.raises(Declined, match=r"up to slots=60 is 32, fewer than experts=60; ask for 64"):
        answer("eplb_global", [[1.0] * 60], devices=32, per_node=8, slots=60)


@pytest.mark.parametrize(
    ("devices", "per_node", "groups", "note"),
    [(6, 2, 4, "groups=4 is not divisible by nodes=3"), (6, 4, 4, "the last of 2 nodes is partly used")],
)
def test_hierarchical_without_equal_nodes_is_global_and_says_so(
    devices: int, per_node: int, groups: int, note: str
) -> None:
    """The slots are those of eplb_global, with a note."""
    load = [[9.0, 1, 3, 5, 2, 2, 8, 4]]
    placed = answer("eplb_hierarchical", load, devices, per_node, slots=12, groups=groups)
    assert answer("eplb_global", load, devices, per_node, slots=12).placements == placed.placements
    assert note in placed.notes[0]
    assert "eplb_global" in placed.notes[0]
