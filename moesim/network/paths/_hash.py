"""A seeded hash of flows, as switches use to pick one of several equal ways: the same pair always gets the same one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Devices = NDArray[np.integer[Any]]


def hash_pairs(source_F: Devices, target_F: Devices, seed: int) -> NDArray[np.uint64]:
    """A number for each (source, target), evenly spread over 0..2^64 - 1 and unrelated between seeds (splitmix64)."""
    pair_F = source_F.astype(np.uint64) << np.uint64(32) | target_F.astype(np.uint64)
    return mix(mix(pair_F) + np.uint64(seed))


def mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The splitmix64 step of each number."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def pick(hash_F: NDArray[np.uint64], choices_F: NDArray[Any]) -> NDArray[np.int64]:
    """One of 0..choices - 1 for each flow; choices >= 1."""
    return (hash_F % choices_F.astype(np.uint64)).astype(np.int64)
