"""A seeded integer hash that gives the same numbers on every machine.

splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): a bijection of 64-bit
integers whose outputs pass the usual statistical tests, so that neighbouring tokens and experts get unrelated values.
"""

import numpy as np
from numpy.typing import NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The hash of each uint64 value; compiles under numba for scalars too.

    >>> [hex(value) for value in splitmix64(np.array([0, 1], dtype=np.uint64)).tolist()]
    ['0xe220a8397b1dcdaf', '0x910a2dec89025cc1']
    """
    mixed = values + _STEP
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    return mixed ^ (mixed >> np.uint64(31))


def hash_pairs(seed: int, first: NDArray[np.integer], second: NDArray[np.integer]) -> NDArray[np.uint64]:
    """One uint64 for each (first, second) pair of non-negative integers, different for each seed >= 0."""
    key = splitmix64(np.full(1, seed, dtype=np.uint64))
    return splitmix64(splitmix64(key ^ first.astype(np.uint64)) ^ second.astype(np.uint64))
