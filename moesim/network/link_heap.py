"""A binary heap of links by key, in two parallel arrays, for kernels that fill the most loaded link first.

Plain functions over arrays rather than `heapq`: the kernels reuse the arrays between solves and change the key at
the top in place, which is the common operation (keys only grow while links fill).
"""

from numba import njit


@njit(cache=True, inline="always")
def sift_down(key, link, size, at):  # type: ignore[no-untyped-def]
    """Move the pair at index `at` down until both children have keys at least as large."""
    moved_key = key[at]
    moved_link = link[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and key[child + 1] < key[child]:
            child += 1
        if key[child] >= moved_key:
            break
        key[at] = key[child]
        link[at] = link[child]
        at = child
    key[at] = moved_key
    link[at] = moved_link


@njit(cache=True)
def heapify(key, link, size):  # type: ignore[no-untyped-def]
    """Order the first `size` pairs so that index 0 has the smallest key; O(size)."""
    for at in range(size // 2 - 1, -1, -1):
        sift_down(key, link, size, at)


@njit(cache=True, inline="always")
def drop_top(key, link, size):  # type: ignore[no-untyped-def]
    """Remove the pair at index 0; returns the new size."""
    size -= 1
    if size > 0:
        key[0] = key[size]
        link[0] = link[size]
        sift_down(key, link, size, 0)
    return size


@njit(cache=True, inline="always")
def runner_up(key, size):  # type: ignore[no-untyped-def]
    """Smallest key below the top, infinity when the top is alone."""
    if size < 2:
        return float("inf")
    if size == 2:
        return key[1]
    return min(key[1], key[2])
