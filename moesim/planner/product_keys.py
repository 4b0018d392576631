"""Product keys seen from a planner: expert r x columns + c has row key r and column key c, and tokens pick whole crosses.

A token's experts lie in few rows and few columns of the grid, so that rows (or columns) are natural super-experts.
Array letters: T token, K top-k, E expert, R row, C column.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.errors import Declined

_FEW_TOKENS = 2048  # looked at to tell whether tokens keep to rows
_KEYED = 0.8  # distinct rows a token / those of as many experts drawn at random, below which rows mean something


class KeyGrid(NamedTuple):
    """Numbers of half-keys: rows x columns experts, row by row."""

    rows: int
    columns: int


def square_grid(num_experts: int) -> KeyGrid:
    """The grid of as many rows as columns; raises Declined where the experts are no square.

    >>> square_grid(1048576)
    KeyGrid(rows=1024, columns=1024)
    """
    rows = math.isqrt(num_experts)
    if rows * rows != num_experts:
        raise Declined(
            f"experts={num_experts} are not a product of as many rows as columns; the next are {rows**2} and {(rows + 1) ** 2}"
        )
    return KeyGrid(rows, rows)


def group_by_keys(experts_TK: NDArray[np.int32], num_experts: int) -> NDArray[np.int64] | None:
    """The row of each expert [E], or its column, whichever a token has fewer of; None where tokens keep to neither.

    Told from the tokens alone: experts drawn at random would lie in almost as many rows as there are experts.
    """
    rows = math.isqrt(num_experts)
    if rows * rows != num_experts or len(experts_TK) == 0:
        return None
    some_TK = experts_TK[:: -(-len(experts_TK) // _FEW_TOKENS)]
    expert_E = np.arange(num_experts, dtype=np.int64)
    per_token = float((some_TK >= 0).sum(axis=1).mean())
    at_random = rows * -math.expm1(per_token * math.log1p(-1.0 / rows)) if rows > 1 else 1.0
    distinct = [_distinct(some_TK, group) for group in (some_TK // rows, some_TK % rows)]
    if min(distinct) >= _KEYED * at_random:
        return None
    return expert_E // rows if distinct[0] <= distinct[1] else expert_E % rows


def _distinct(experts_TK: NDArray[np.int32], group_TK: NDArray[np.int32]) -> float:
    """Mean number of groups that a token's experts lie in."""
    sorted_TK = np.sort(np.where(experts_TK >= 0, group_TK, -1), axis=1)
    fresh_TK = np.diff(sorted_TK, axis=1, prepend=-1) > 0
    return float(fresh_TK.sum(axis=1).mean())
