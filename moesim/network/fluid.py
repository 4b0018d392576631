"""The fluid engine: running flows advance from one completion to the next.

`plan` says which flows end next, and when; `commit` ends them and shares the links anew. A flow ends because it is in
the batch of a completion, never because a remainder became zero, so rounding cannot keep it alive.

Merging. With a window w > 0 the batch is all flows that would end within w of the first. They end together at the mean of
their own ends, weighted by rate: what some send beyond their bytes others keep back. The answer is then exact for flows
whose bytes differ by `excess`, and the largest relative change is the backward error. With w = 0 only ends that differ
by rounding are merged (1e-12 of the time since the epoch).
"""

import numpy as np
from numba import njit

from moesim.network.filling import refill, reopen
from moesim.network.running import insert, remove, remove_all

TIE = 1e-12  # relative: ends this close are one completion


@njit(cache=True)
def first_due(s):  # type: ignore[no-untyped-def]
    """Time of the next completion at the present rates, infinity when nothing runs."""
    first = np.inf
    for at in range(s.run[0].closed):
        first = min(first, s.link[s.order[at]].due)
    return max(first, s.run[0].time)


@njit(cache=True)
def gather(s, limit):  # type: ignore[no-untyped-def]
    """Fill `batch` with the flows that end by `limit`; returns their number and their mean end weighted by rate."""
    count = 0
    rate_sum = 0.0
    moment = 0.0
    for at in range(s.run[0].closed):
        link = s.link[s.order[at]]
        if link.due > limit:
            continue
        threshold = max(link.next_served, link.served + link.level * (limit - link.served_at))
        for place in range(link.row, link.row + link.own_count):
            index = s.own_flow[place]
            end_served = s.flow[index].end_served
            if end_served <= threshold:
                s.batch[count] = index
                count += 1
                rate = s.flow[index].weight * link.level
                rate_sum += rate
                moment += rate * (link.served_at + max(0.0, end_served - link.served) / link.level - limit)
    return count, (limit + moment / rate_sum if count else limit)


@njit(cache=True)
def plan(s, window):  # type: ignore[no-untyped-def]
    """Gather the next completion: (number of flows in `batch`, its time); (0, infinity) when nothing runs."""
    first = first_due(s)
    if first == np.inf:
        return 0, first
    limit = first + max(window, TIE * first)
    count, mean = gather(s, limit)
    time = min(max(mean, first), limit)
    while window > 0.0:
        time = max(time, _latest_floor(s, count))
        if time <= limit:
            break
        limit = time
        count, mean = gather(s, limit)
    return count, time


@njit(cache=True)
def _latest_floor(s, count):  # type: ignore[no-untyped-def]
    """The latest `floor` among links whose last running flows are the first `count` of the batch."""
    _count_batch(s, count, np.int64(-1))
    latest = 0.0
    for at in range(count):
        for hop in range(s.flow[s.batch[at]].hops, s.flow[s.batch[at] + 1].hops):
            link = s.link[s.hop[hop].link]
            if link.row_count == 0:
                latest = max(latest, link.floor)
    _count_batch(s, count, np.int64(1))
    return latest


@njit(cache=True)
def _count_batch(s, count, change):  # type: ignore[no-untyped-def]
    for at in range(count):
        for hop in range(s.flow[s.batch[at]].hops, s.flow[s.batch[at] + 1].hops):
            s.link[s.hop[hop].link].row_count += change


@njit(cache=True, nogil=True)
def commit(s, count, time, merged):  # type: ignore[no-untyped-def]
    """End the first `count` flows of the batch at `time` and share the links anew among the others."""
    run = s.run[0]
    position = run.closed
    for at in range(count):
        flow = s.flow[s.batch[at]]
        owner = s.link[flow.owner]
        position = min(position, owner.position)
        flow.finish = run.epoch + time
        if merged:
            served = owner.served + owner.level * (time - owner.served_at)
            flow.excess = (served - flow.end_served) * flow.weight
            run.backward_error = max(run.backward_error, abs(flow.excess) / flow.size)
    run.time = time
    if count == run.running:
        remove_all(s)
        return
    reopen(s, position, time)
    for at in range(count):
        remove(s, s.batch[at])
    refill(s, time)


@njit(cache=True)
def start(s, flows, count, time):  # type: ignore[no-untyped-def]
    """Start the first `count` of `flows` at `time`, which is not before the last completion, and share the links anew."""
    reopen(s, np.int64(0), time)
    s.run[0].expected = 0
    for at in range(count):
        insert(s, flows[at])
    s.run[0].time = time
    refill(s, time)


@njit(cache=True, nogil=True)
def run_to_end(s, window):  # type: ignore[no-untyped-def]
    """Advance until no flow runs."""
    while True:
        count, time = plan(s, window)
        if count == 0:
            break
        commit(s, count, time, window > 0.0)
