"""Layers side by side: they are placed one apart from the other, so that the cores of a machine can share them."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from numba import get_num_threads

MOST_BYTES = 1 << 30  # of all that is in work at once
Item = TypeVar("Item")
Answer = TypeVar("Answer")


def side_by_side(function: Callable[[Item], Answer], items: Iterable[Item], bytes_each: int = 0) -> list[Answer]:
    """`function` of every item, in order, on as many threads as numba has and as room for `bytes_each` allows.

    For functions that spend their time in kernels and solvers, which hold no interpreter lock.
    """
    threads = max(1, min(get_num_threads(), MOST_BYTES // max(bytes_each, 1)))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))
