"""Random numbers by key instead of by turn: any token's draw can be computed alone, in any order, on any thread.

Keys are uint64; splitmix64's finaliser mixes them (Steele, Lea, Flood 2014). All kernels are for other kernels.
"""

import numpy as np
from numba import njit

_BELL_MEAN = 131070.0  # of the sum of four uniform 16-bit integers
_BELL_SCALE = 3.0**0.5 / 65536.0  # 1 / its standard deviation


def root_key(*parts: int) -> np.uint64:
    """A key of its own for every tuple of non-negative integers; for seeding, not for inner loops."""
    return np.uint64(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


@njit(cache=True, nogil=True, inline="always")
def mix(state):  # type: ignore[no-untyped-def]  # types are numba's
    """A well-mixed uint64 of a uint64."""
    mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@njit(cache=True, nogil=True, inline="always")
def subkey(key, index):  # type: ignore[no-untyped-def]  # types are numba's
    """The key of item `index` (an integer) below `key`."""
    return mix(key + (np.uint64(index) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))


@njit(cache=True, nogil=True, inline="always")
def unit(key):  # type: ignore[no-untyped-def]  # types are numba's
    """The float in 0..1, 1 excluded, of a mixed key."""
    return (key >> np.uint64(11)) * 2.0**-53


@njit(cache=True, nogil=True, inline="always")
def below(key, end):  # type: ignore[no-untyped-def]  # types are numba's
    """The integer in 0..end-1 of a mixed key; uneven by at most end / 2**32."""
    return np.int64(((key >> np.uint64(32)) * np.uint64(end)) >> np.uint64(32))


@njit(cache=True, nogil=True, inline="always")
def bell(key):  # type: ignore[no-untyped-def]  # types are numba's
    """A bell-shaped number of mean 0 and variance 1 from a mixed key: the sum of four uniforms, within +-3.47."""
    low = np.uint64(0xFFFF)
    parts = (key & low) + ((key >> np.uint64(16)) & low) + ((key >> np.uint64(32)) & low) + (key >> np.uint64(48))
    return (np.float64(parts) - _BELL_MEAN) * _BELL_SCALE


@njit(cache=True, nogil=True, inline="always")
def gumbel(key):  # type: ignore[no-untyped-def]  # types are numba's
    """A standard Gumbel number of a mixed key: the largest of score + Gumbel draws by softmax of the scores."""
    return -np.log(-np.log(unit(key) + 2.0**-54))
