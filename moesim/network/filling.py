"""Filling: progressive filling of the running flows from a given level upwards, the rest left as it stands.

When a flow of level r ends, filling below r would do the same again step by step: the flow was still open there. So only
the links that closed at r or above are reopened (`reopen`) and closed again (`refill`). Most of them keep their own flows;
then nothing but their level and what they leave to others changes, and their flows need not be looked at one by one.
"""

import numpy as np
from numba import njit

from moesim.network.link_heap import drop_top, heapify, runner_up, sift_down
from moesim.network.running import (
    ACTIVE,
    CLOSED,
    EQUAL,
    LEFT,
    LEFT_LOST,
    NO_OWNER,
    NUM_SAVES,
    SOLVES,
    SPACING,
    UNKNOWN,
    WEIGHT,
    WEIGHT_LOST,
    add_exactly,
    leave_owner,
)

# The kernels give the arrays they use local names: reaching through the tuple inside a loop counts references each time.


@njit(cache=True, nogil=True)
def reopen(run, from_level, time):  # type: ignore[no-untyped-def]
    """Open the links that closed at `from_level` or above, as they were before, and bring their clocks to `time`."""
    order, level, number = run.order, run.level, run.number
    first, end = 0, number[CLOSED]
    while first < end:
        middle = (first + end) >> 1
        if level[order[middle]] < from_level:
            first = middle + 1
        else:
            end = middle
    save = first // max(1, number[SPACING])
    kept = save * number[SPACING]
    for at in range(kept, number[CLOSED]):
        link = order[at]
        run.served[link] += level[link] * (time - run.served_at[link])
        run.served_at[link] = time
        level[link] = np.inf
        run.due[link] = np.inf
    if number[CLOSED]:
        _restore(run.open_state, run.open_count, run.save_state[save], run.save_count[save], run.active, number[ACTIVE])
    number[CLOSED] = kept


@njit(cache=True)
def _restore(state, count, saved_state, saved_count, active, num_active):  # type: ignore[no-untyped-def]
    """Copy what the active links have open; also used the other way, to save."""
    for at in range(num_active):
        link = active[at]
        count[link] = saved_count[link]
        for column in range(4):
            state[link, column] = saved_state[link, column]


@njit(cache=True)
def _drop_idle(run):  # type: ignore[no-untyped-def]
    """Forget links whose last flow has ended."""
    kept = 0
    for at in range(run.number[ACTIVE]):
        link = run.active[at]
        if run.row_count[link] == 0:
            run.is_active[link] = False
        else:
            run.active[kept] = link
            kept += 1
    run.number[ACTIVE] = kept


@njit(cache=True, nogil=True)
def refill(run, time):  # type: ignore[no-untyped-def]
    """Close links at their max-min fair levels until no flow is open."""
    _drop_idle(run)
    key, heap, order, number = run.heap_key, run.heap_link, run.order, run.number
    offsets, hop_link, own_flow, weight = run.offsets, run.hop_link, run.own_flow, run.weight
    open_state, open_count, equal = run.open_state, run.open_count, run.clock[EQUAL] == 1.0
    size = 0
    for at in range(number[ACTIVE]):
        link = run.active[at]
        if open_count[link]:
            key[size] = _share(open_state, open_count, link, equal)
            heap[size] = link
            size += 1
    heapify(key, heap, size)
    closed = number[CLOSED]
    if closed == 0:
        number[SPACING] = max(8, size // NUM_SAVES + 1)
    level = run.level[order[closed - 1]] if closed else 0.0
    while size:
        link = heap[0]
        if open_count[link] == 0:
            size = drop_top(key, heap, size)
            continue
        share = _share(open_state, open_count, link, equal)
        if share > key[0] and share > runner_up(key, size):
            key[0] = share
            sift_down(key, heap, size, 0)
            continue
        if closed % number[SPACING] == 0:
            save = closed // number[SPACING]
            _restore(run.save_state[save], run.save_count[save], open_state, open_count, run.active, number[ACTIVE])
        level = max(level, share)
        if open_count[link] != run.own_count[link]:
            _take_over(run, link)
        first = run.base[link]
        end = first + run.own_count[link]
        if run.next_served[link] == UNKNOWN:
            run.next_served[link] = _first_end(run.end_served, own_flow, first, end)
        for place in range(first, end):
            flow = own_flow[place]
            share = weight[flow]
            rate = share * level
            for hop in range(offsets[flow], offsets[flow + 1]):
                other = hop_link[hop]
                if other == link:
                    continue
                open_count[other] -= 1
                left = open_state[other, LEFT]
                rest = left - rate
                open_state[other, LEFT] = rest
                open_state[other, LEFT_LOST] += (left - rest) - rate
                if not equal:
                    add_exactly(open_state, other, WEIGHT, -share)
        open_count[link] = 0
        run.level[link] = level
        run.served_at[link] = time
        run.due[link] = time + max(0.0, run.next_served[link] - run.served[link]) / level
        order[closed] = link
        closed += 1
        size = drop_top(key, heap, size)
    number[CLOSED] = closed
    run.clock[SOLVES] += 1.0


@njit(cache=True, inline="always")
def _share(open_state, open_count, link, equal):  # type: ignore[no-untyped-def]
    """The level at which a link fills if no other link freezes one of its open flows first."""
    left = open_state[link, LEFT] + open_state[link, LEFT_LOST]
    if equal:
        return left / open_count[link]
    return left / (open_state[link, WEIGHT] + open_state[link, WEIGHT_LOST])


@njit(cache=True)
def _first_end(end_served, own_flow, first, end):  # type: ignore[no-untyped-def]
    earliest = np.inf
    for place in range(first, end):
        earliest = min(earliest, end_served[own_flow[place]])
    return earliest


@njit(cache=True)
def _take_over(run, link):  # type: ignore[no-untyped-def]
    """Make `link` the owner of all open flows on it."""
    row_hop, hop_flow, owner, level = run.row_hop, run.hop_flow, run.owner, run.level
    own_flow, own_place, own_count, base = run.own_flow, run.own_place, run.own_count, run.base
    end_served, served, next_served = run.end_served, run.served, run.next_served
    if own_count[link] == 0:
        served[link] = 0.0  # nobody reads this clock: a small one rounds less
    for place in range(base[link], base[link] + run.row_count[link]):
        flow = hop_flow[row_hop[place]]
        before = owner[flow]
        if before == link:
            continue
        if before != NO_OWNER:
            if level[before] < np.inf:
                continue  # frozen
            end_served[flow] -= served[before]
            leave_owner(own_flow, own_place, own_count, next_served, base, before, flow)
        end_served[flow] += served[link]
        owner[flow] = link
        own_place[flow] = own_count[link]
        own_flow[base[link] + own_count[link]] = flow
        own_count[link] += 1
    next_served[link] = UNKNOWN
