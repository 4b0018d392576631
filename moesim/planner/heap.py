"""A heap of numbered things, smallest key first, for numba kernels.

`heap[:size]` holds ids; an id comes before another when its `key` is smaller, then its `count`, then its number.
Written out because numba takes seconds to compile heapq over tuples, in every kernel anew.
"""

from numba import njit


@njit(cache=True, nogil=True)
def before(one, other, key, count):  # type: ignore[no-untyped-def]  # numba's: int64 ids and count, float64 key
    """Whether id `one` leaves the heap before id `other`."""
    if key[one] != key[other]:
        return key[one] < key[other]
    if count[one] != count[other]:
        return count[one] < count[other]
    return one < other


@njit(cache=True, nogil=True)
def sift_down(heap, size, at, key, count):  # type: ignore[no-untyped-def]
    """Restore the order below position `at`, whose id may have become larger."""
    moved = heap[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and before(heap[child + 1], heap[child], key, count):
            child += 1
        if before(moved, heap[child], key, count):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = moved


@njit(cache=True, nogil=True)
def sift_up(heap, at, key, count):  # type: ignore[no-untyped-def]
    """Restore the order above position `at`, whose id may have become smaller."""
    moved = heap[at]
    while at > 0:
        parent = (at - 1) // 2
        if before(heap[parent], moved, key, count):
            break
        heap[at] = heap[parent]
        at = parent
    heap[at] = moved


@njit(cache=True, nogil=True)
def order(heap, size, key, count):  # type: ignore[no-untyped-def]
    """Make a heap of the ids in `heap[:size]`, whatever their order."""
    for at in range(size // 2 - 1, -1, -1):
        sift_down(heap, size, at, key, count)


@njit(cache=True, nogil=True)
def drop_first(heap, size, key, count):  # type: ignore[no-untyped-def]
    """Take the first id away; returns the new size."""
    heap[0] = heap[size - 1]
    sift_down(heap, size - 1, 0, key, count)
    return size - 1
