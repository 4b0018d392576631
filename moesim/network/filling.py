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
    EXPECTED,
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
    join_owner,
    leave_owner,
)

WINDOW = 8  # links that are compared for which fills first
ROUNDING = 1e-12  # relative: less than this is not a difference

# The kernels give the arrays they use local names: reaching through the tuple inside a loop counts references each time.


@njit(cache=True)
def reopen(run, position, time):  # type: ignore[no-untyped-def]
    """Open the links that closed at `position` or later, as they were before, and bring their clocks to `time`."""
    order, level, number = run.order, run.level, run.number
    if number[CLOSED] == 0:
        return
    save = position // number[SPACING]
    kept = save * number[SPACING]
    for at in range(kept, number[CLOSED]):
        link = order[at]
        run.served[link] += level[link] * (time - run.served_at[link])
        run.served_at[link] = time
        level[link] = np.inf
        run.due[link] = np.inf
    _restore(run.open_state, run.open_count, run.save_state[save], run.save_count[save], run.active, number[ACTIVE])
    number[EXPECTED] = number[CLOSED]
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
    run.clock[SOLVES] += 1.0
    if run.number[CLOSED] < run.number[EXPECTED]:
        if _close_as_expected(run, time):
            return
        reopen(run, 0, time)
    _close_by_heap(run, time)


@njit(cache=True)
def _close_by_heap(run, time):  # type: ignore[no-untyped-def]
    """Progressive filling as in maxmin.py."""
    key, heap, number = run.heap_key, run.heap_link, run.number
    open_state, open_count, equal = run.open_state, run.open_count, run.clock[EQUAL] == 1.0
    size = 0
    for at in range(number[ACTIVE]):
        link = run.active[at]
        if open_count[link]:
            key[size] = _share(open_state, open_count, link, equal)
            heap[size] = link
            size += 1
    heapify(key, heap, size)
    number[SPACING] = max(8, size // NUM_SAVES + 1)
    level = 0.0
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
        level = max(level, share)
        run.order[number[CLOSED]] = link
        _close(run, link, level, time)
        size = drop_top(key, heap, size)
    number[EXPECTED] = number[CLOSED]


@njit(cache=True)
def _close_as_expected(run, time):  # type: ignore[no-untyped-def]
    """Close links about in the order in which they closed last time; False when that cannot be right.

    The next link is the one that fills first among a few expected next. Rates are max-min fair if in the end each flow's
    owner is full and no flow on it has a larger level, so it suffices that no link is overfull and none closes at less
    than the level of a flow on it that another link owns (Bertsekas & Gallager, bottleneck theorem).
    """
    order, number = run.order, run.number
    open_state, open_count, equal = run.open_state, run.open_count, run.clock[EQUAL] == 1.0
    highest = 0.0
    for at in range(number[CLOSED]):
        highest = max(highest, run.level[order[at]])
    while number[CLOSED] < number[EXPECTED]:
        closed = number[CLOSED]
        best, best_share = -1, np.inf
        at = closed
        while at < min(closed + WINDOW, number[EXPECTED]):
            link = order[at]
            if open_count[link] == 0:
                number[EXPECTED] -= 1
                for later in range(at, number[EXPECTED]):
                    order[later] = order[later + 1]
                continue
            share = _share(open_state, open_count, link, equal)
            if share < best_share:
                best, best_share = at, share
            at += 1
        if best < 0:
            break
        link = order[best]
        for at in range(best, closed, -1):
            order[at] = order[at - 1]
        order[closed] = link
        if best_share < highest:
            frozen = _highest_frozen(run, link)
            if best_share < frozen * (1.0 - ROUNDING):
                return False
            best_share = max(best_share, frozen)
        highest = max(highest, best_share)
        _close(run, link, best_share, time)
    for at in range(number[ACTIVE]):
        link = run.active[at]
        if run.level[link] == np.inf:
            left = open_state[link, LEFT] + open_state[link, LEFT_LOST]
            if left < -ROUNDING * run.save_state[0, link, LEFT]:
                return False
    return True


@njit(cache=True)
def _highest_frozen(run, link):  # type: ignore[no-untyped-def]
    """The highest level of a flow on an open link that another link has frozen."""
    highest = 0.0
    for place in range(run.base[link], run.base[link] + run.row_count[link]):
        level = run.level[run.owner[run.hop_flow[run.row_hop[place]]]]
        if level < np.inf:
            highest = max(highest, level)
    return highest


@njit(cache=True)
def _close(run, link, level, time):  # type: ignore[no-untyped-def]
    """Close the link that stands next in `order` at `level`: its open flows become its own, other links lose their rates."""
    pair_link, pair_weight, number = run.pair_link, run.pair_weight, run.number
    open_state, open_count, equal = run.open_state, run.open_count, run.clock[EQUAL] == 1.0
    closed = number[CLOSED]
    if closed % number[SPACING] == 0:
        save = closed // number[SPACING]
        _restore(run.save_state[save], run.save_count[save], open_state, open_count, run.active, number[ACTIVE])
    if open_count[link] != run.own_count[link]:
        _take_over(run, link)
    if run.next_served[link] == UNKNOWN:
        first = run.base[link]
        run.next_served[link] = _first_end(run.end_served, run.own_flow, first, first + run.own_count[link])
    first = run.pair_base[link]
    rate = level
    for pair in range(first, first + run.pair_count[link]):
        other = pair_link[pair]
        if not equal:
            rate = pair_weight[pair] * level
            add_exactly(open_state, other, WEIGHT, -pair_weight[pair])
        open_count[other] -= 1
        left = open_state[other, LEFT]
        rest = left - rate
        open_state[other, LEFT] = rest
        open_state[other, LEFT_LOST] += (left - rest) - rate
    open_count[link] = 0
    run.level[link] = level
    run.served_at[link] = time
    run.due[link] = time + max(0.0, run.next_served[link] - run.served[link]) / level
    run.position[link] = closed
    number[CLOSED] = closed + 1


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
    if run.own_count[link] == 0:
        run.served[link] = 0.0  # nobody reads this clock: a small one rounds less
    first = run.base[link]
    for place in range(first, first + run.row_count[link]):
        flow = hop_flow[row_hop[place]]
        before = owner[flow]
        if before == link:
            continue
        if before != NO_OWNER:
            if level[before] < np.inf:
                continue  # frozen
            run.end_served[flow] -= run.served[before]
            leave_owner(run, flow)
        run.end_served[flow] += run.served[link]
        join_owner(run, link, flow)
