"""Side by side: answers in order, no more at once than memory allows, errors as they are."""

import threading

import pytest

from moesim.errors import Declined
from moesim.planner.side_by_side import MOST_BYTES, side_by_side


def test_answers_come_in_the_order_of_items():
    """Whatever thread is first."""
    assert [number * number for number in range(50)] == side_by_side(lambda number: number * number, range(50))


def test_where_one_fills_the_memory_they_run_one_by_one():
    """Every item is done before the next begins, by one thread."""
    seen = []

    def note(number: int) -> int:
        seen.append((number, threading.get_ident()))
        return number

    side_by_side(note, range(20), MOST_BYTES)
    assert list(range(20)) == [number for number, _ in seen]
    assert 1 == len({thread for _, thread in seen})


def test_an_error_of_one_is_the_error_of_all():
    """With its own words."""

    def decline(number: int) -> int:
        if number == 3:
            raise Declined("three")
        return number

    with pytest.raises(Declined, match="three"):
        side_by_side(decline, range(5))
