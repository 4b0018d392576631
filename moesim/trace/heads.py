"""Merging what several routing heads chose for one token: an expert chosen twice becomes one entry.

Array letters: W row, K top-k of all heads together.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray


def merge_heads(
    experts_WK: NDArray[np.int32], weights_WK: NDArray[np.float64] | None
) -> tuple[NDArray[np.int32], NDArray[np.float64] | None]:
    """Rows with each expert once, where it stood first, its weights summed; -1 and weight 0 fill the row's end."""
    merged_WK = np.full_like(experts_WK, -1)
    summed_WK = np.zeros(experts_WK.shape, np.float64)
    given_WK = np.ones(experts_WK.shape, np.float64) if weights_WK is None else weights_WK
    _merge(np.ascontiguousarray(experts_WK), given_WK, merged_WK, summed_WK)
    return merged_WK, None if weights_WK is None else summed_WK


@njit(cache=True, nogil=True)
def _merge(experts_WK, weights_WK, merged_WK, summed_WK):  # type: ignore[no-untyped-def]  # types are numba's
    for row in range(experts_WK.shape[0]):
        num_kept = 0
        for k in range(experts_WK.shape[1]):
            expert, place = experts_WK[row, k], 0
            if expert == -1:
                continue
            while place < num_kept and merged_WK[row, place] != expert:
                place += 1
            if place == num_kept:
                merged_WK[row, place] = expert
                num_kept += 1
            summed_WK[row, place] += weights_WK[row, k]
