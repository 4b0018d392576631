"""Filling: max-min fair levels for the open links, the closed ones left as they stand.

When a flow ends, the links that closed before its owner did so without knowing of it: the flow was still open there. So only
its owner and the links after it are reopened (`reopen`) and closed again (`refill`). Most links keep their own flows; then
closing is one sweep that takes their new level from the other links they cross.

The order in which links closed last time is nearly right this time. Rates are max-min fair if every flow's owner is full and
carries no flow of a larger level (the bottleneck theorem, see maxmin.py). So links close about in the expected order, each
checked against that, and one found too late is moved forward; only when nothing is expected, or too much of it is wrong,
does a heap find the order as in maxmin.py.
"""

import numpy as np
from numba import njit

from moesim.network.link_heap import drop_top, heapify, runner_up, sift_down
from moesim.network.running import NO_OWNER, NUM_SAVES, UNKNOWN, add_weight, join_owner, leave_owner

WINDOW = 8  # expected links that are compared for which fills first
MOST_MOVES = 16  # links moved forward before the expected order is given up
ROUNDING = 1e-12  # relative: less than this is not a difference


@njit(cache=True)
def reopen(s, position, time):  # type: ignore[no-untyped-def]
    """Open the links that closed at `position` or later, as they were before, and bring their clocks to `time`."""
    run = s.run[0]
    if run.closed == 0:
        return
    run.expected = run.closed
    _rewind(s.run, s.open, s.save, s.link, s.active, s.order, position, time)


@njit(cache=True)
def _rewind(runs, opens, saves, links, active, order, position, time):  # type: ignore[no-untyped-def]
    run = runs[0]
    save = min(position // run.spacing, NUM_SAVES - 1)
    for at in range(save * run.spacing, run.closed):
        link = links[order[at]]
        link.served += link.level * (time - link.served_at)
        link.served_at = time
        link.level = np.inf
        link.due = np.inf
    run.closed = save * run.spacing
    for at in range(run.active):
        opens[active[at]] = saves[save, active[at]]


@njit(cache=True)
def _drop_idle(s):  # type: ignore[no-untyped-def]
    """Forget links whose last flow has ended."""
    run = s.run[0]
    kept = 0
    for at in range(run.active):
        link = s.active[at]
        if s.link[link].row_count == 0:
            s.link[link].is_active = 0
        else:
            s.active[kept] = link
            kept += 1
    run.active = kept


@njit(cache=True, nogil=True)
def refill(s, time):  # type: ignore[no-untyped-def]
    """Close links at their max-min fair levels until no flow is open."""
    _drop_idle(s)
    # Local names: reaching through the tuple in the loop would count references to an array each time.
    runs, opens, saves, links, active, order = s.run, s.open, s.save, s.link, s.active, s.order
    key, heap, row, own_flow = s.heap_key, s.heap_link, s.row, s.own_flow
    pairs, pair_weight, hops, flows = s.pair, s.pair_weight, s.hop, s.flow
    run = runs[0]
    run.solves += 1
    equal = run.equal == 1
    by_order = run.closed < run.expected
    highest = _highest_closed(runs, links, order)
    moves = 0
    size = -1  # of the heap, which is made when it is first needed
    while True:
        if by_order:
            position, share = _pick_expected(runs, opens, order, equal)
            frozen, owner_position = 0.0, -1
            if position < 0:
                position = _expect_overfull(runs, opens, saves, links, active, order)
                if position < 0:
                    return
                share = _share(saves[0], order[position], equal)
            if share < highest:
                frozen, owner_position = _frozen_above(links, row, flows, order[position], share)
            if frozen > share * (1.0 + ROUNDING):
                if moves == MOST_MOVES:
                    by_order = False
                    continue
                moves += 1
                _rewind(runs, opens, saves, links, active, order, owner_position, time)
                _move_forward(order, position, owner_position)
                highest = _highest_closed(runs, links, order)
                continue
            level = max(share, frozen)
            _move_forward(order, position, run.closed)
        else:
            if size < 0:
                if run.closed:
                    _rewind(runs, opens, saves, links, active, order, np.int64(0), time)
                size = _make_heap(runs, opens, active, key, heap, equal)
                highest = 0.0
            size, share = _settle_top(opens, key, heap, size, equal)
            if size == 0:
                run.expected = run.closed
                return
            level = max(highest, share)
            order[run.closed] = heap[0]
        highest = max(highest, level)
        if run.closed == 0:
            run.spacing = max(8, max(size, run.expected) // NUM_SAVES + 1)
        if run.closed % run.spacing == 0 and run.closed < NUM_SAVES * run.spacing:
            save = run.closed // run.spacing
            for at in range(run.active):
                saves[save, active[at]] = opens[active[at]]
        closing = order[run.closed]
        link = links[closing]
        if opens[closing].count != link.own_count:
            _take_over(links, row, own_flow, pairs, pair_weight, hops, flows, closing)
        if link.next_served == UNKNOWN:
            link.next_served = np.inf
            for at in range(link.row, link.row + link.own_count):
                link.next_served = min(link.next_served, flows[own_flow[at]].end_served)
        rate = level
        for at in range(link.pairs, link.pairs + link.pair_count):
            other = opens[pairs[at].link]
            if not equal:
                rate = pair_weight[at] * level
                add_weight(other, -pair_weight[at])
            other.count -= 1
            left = other.left
            rest = left - rate
            other.left = rest
            other.left_lost += (left - rest) - rate
        opens[closing].count = 0
        link.level = level
        link.served_at = time
        link.due = time + max(0.0, link.next_served - link.served) / level
        link.position = run.closed
        run.closed += 1


@njit(cache=True, inline="always")
def _share(opens, link, equal):  # type: ignore[no-untyped-def]
    """The level at which a link fills if no other link freezes one of its open flows first."""
    left = opens[link].left + opens[link].left_lost
    if equal:
        return left / opens[link].count
    return left / (opens[link].weight + opens[link].weight_lost)


@njit(cache=True, inline="always")
def _pick_expected(runs, opens, order, equal):  # type: ignore[no-untyped-def]
    """(position, share) of the link that fills first among those expected next; position -1 when no flow is open."""
    best, best_share = -1, np.inf
    at = runs[0].closed
    while at < runs[0].expected and at < runs[0].closed + WINDOW:
        if opens[order[at]].count == 0:  # it will not fill: forget it
            runs[0].expected -= 1
            for later in range(at, runs[0].expected):
                order[later] = order[later + 1]
            continue
        share = _share(opens, order[at], equal)
        if share < best_share:
            best, best_share = at, share
        at += 1
    return best, best_share


@njit(cache=True)
def _expect_overfull(runs, opens, saves, links, active, order):  # type: ignore[no-untyped-def]
    """Add an overfull link to those expected to close and return its position, -1 when there is none."""
    for at in range(runs[0].active):
        link = active[at]
        left = opens[link].left + opens[link].left_lost
        if links[link].level == np.inf and left < -ROUNDING * saves[0, link].left:
            order[runs[0].expected] = link
            runs[0].expected += 1
            return runs[0].expected - 1
    return -1


@njit(cache=True)
def _frozen_above(links, row, flows, index, share):  # type: ignore[no-untyped-def]
    """Flows on an open link that others have frozen above `share`: (highest level, first position of their owners)."""
    link = links[index]
    highest, position = 0.0, np.int64(1) << 40
    for place in range(link.row, link.row + link.row_count):
        owner = links[flows[row[place].flow].owner]
        if share < owner.level < np.inf:
            highest = max(highest, owner.level)
            position = min(position, owner.position)
    return highest, position


@njit(cache=True, inline="always")
def _move_forward(order, position, to):  # type: ignore[no-untyped-def]
    moved = order[position]
    for at in range(position, to, -1):
        order[at] = order[at - 1]
    order[to] = moved


@njit(cache=True)
def _highest_closed(runs, links, order):  # type: ignore[no-untyped-def]
    highest = 0.0
    for at in range(runs[0].closed):
        highest = max(highest, links[order[at]].level)
    return highest


@njit(cache=True)
def _make_heap(runs, opens, active, key, heap, equal):  # type: ignore[no-untyped-def]
    size = np.int64(0)
    for at in range(runs[0].active):
        if opens[active[at]].count:
            key[size] = _share(opens, active[at], equal)
            heap[size] = active[at]
            size += 1
    heapify(key, heap, size)
    return size


@njit(cache=True)
def _settle_top(opens, key, heap, size, equal):  # type: ignore[no-untyped-def]
    """Bring the link that fills first to the top of the heap; returns (size, its share), size 0 when no flow is open."""
    while size:
        if opens[heap[0]].count == 0:
            size = drop_top(key, heap, size)
            continue
        share = _share(opens, heap[0], equal)
        if share <= key[0] or share <= runner_up(key, size):
            return size, share
        key[0] = share
        sift_down(key, heap, size, 0)
    return 0, np.inf


@njit(cache=True)
def _take_over(links, row, own_flow, pairs, pair_weight, hops, flows, owner):  # type: ignore[no-untyped-def]
    """Make a link the owner of all open flows on it."""
    link = links[owner]
    if link.own_count == 0:
        link.served = 0.0  # nobody reads this clock: a small one rounds less
    for place in range(link.row, link.row + link.row_count):
        index = row[place].flow
        flow = flows[index]
        if flow.owner == owner:
            continue
        if flow.owner != NO_OWNER:
            if links[flow.owner].level < np.inf:
                continue  # frozen
            flow.end_served -= links[flow.owner].served
            leave_owner(links, own_flow, pairs, pair_weight, hops, flows, index)
        flow.end_served += link.served
        join_owner(links, own_flow, pairs, pair_weight, hops, flows, owner, index)
