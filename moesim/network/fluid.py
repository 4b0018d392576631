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
from moesim.network.running import ACTIVE, BACKWARD, CLOSED, EPOCH, EXPECTED, TIME, insert, remove

TIE = 1e-12  # relative: ends this close are one completion


@njit(cache=True)
def first_due(run):  # type: ignore[no-untyped-def]
    """Time of the next completion at the present rates, infinity when nothing runs."""
    first = np.inf
    for at in range(run.number[ACTIVE]):
        first = min(first, run.due[run.active[at]])
    return max(first, run.clock[TIME])


@njit(cache=True)
def gather(run, limit):  # type: ignore[no-untyped-def]
    """Fill `run.batch` with the flows that end by `limit`; returns their number and mean end weighted by rate."""
    count = 0
    rate_sum = 0.0
    moment = 0.0
    for at in range(run.number[ACTIVE]):
        link = run.active[at]
        if run.due[link] > limit:
            continue
        level, served, since = run.level[link], run.served[link], run.served_at[link]
        threshold = max(run.next_served[link], served + level * (limit - since))
        for place in range(run.base[link], run.base[link] + run.own_count[link]):
            flow = run.own_flow[place]
            if run.end_served[flow] <= threshold:
                run.batch[count] = flow
                count += 1
                rate = run.weight[flow] * level
                rate_sum += rate
                moment += rate * (since + max(0.0, run.end_served[flow] - served) / level - limit)
    return count, (limit + moment / rate_sum if count else limit)


@njit(cache=True)
def plan(run, window):  # type: ignore[no-untyped-def]
    """Gather the next completion: (number of flows in `run.batch`, its time); infinity when nothing runs."""
    first = first_due(run)
    if first == np.inf:
        return 0, first
    limit = first + max(window, TIE * first)
    count, mean = gather(run, limit)
    time = min(max(mean, first), limit)
    if window > 0.0:
        while True:
            time = max(time, _latest_floor(run, count))
            if time <= limit:
                break
            limit = time
            count, mean = gather(run, limit)
    return count, time


@njit(cache=True)
def _latest_floor(run, count):  # type: ignore[no-untyped-def]
    """The latest `floor_s` among links whose last flows are the first `count` of the batch."""
    for at in range(count):
        _count_on_links(run, run.batch[at], -1)
    latest = 0.0
    for at in range(count):
        flow = run.batch[at]
        for hop in range(run.offsets[flow], run.offsets[flow + 1]):
            link = run.hop_link[hop]
            if run.row_count[link] == 0:
                latest = max(latest, run.floor_s[link])
    for at in range(count):
        _count_on_links(run, run.batch[at], 1)
    return latest


@njit(cache=True)
def _count_on_links(run, flow, change):  # type: ignore[no-untyped-def]
    for hop in range(run.offsets[flow], run.offsets[flow + 1]):
        run.row_count[run.hop_link[hop]] += change


@njit(cache=True, nogil=True)
def commit(run, count, time, merged):  # type: ignore[no-untyped-def]
    """End the first `count` flows of the batch at `time` and share the links anew among the others."""
    position = run.number[CLOSED]
    for at in range(count):
        flow = run.batch[at]
        owner = run.owner[flow]
        level = run.level[owner]
        position = min(position, run.position[owner])
        run.finish[flow] = run.clock[EPOCH] + time
        if merged:
            served = run.served[owner] + level * (time - run.served_at[owner])
            run.excess[flow] = (served - run.end_served[flow]) * run.weight[flow]
            run.clock[BACKWARD] = max(run.clock[BACKWARD], abs(run.excess[flow]) / run.size[flow])
    reopen(run, position, time)
    for at in range(count):
        remove(run, run.batch[at])
    run.clock[TIME] = time
    refill(run, time)


@njit(cache=True)
def start(run, flows, count, time):  # type: ignore[no-untyped-def]
    """Start the first `count` of `flows` at `time`, which is not before the last completion, and share the links anew."""
    reopen(run, 0, time)
    for at in range(count):
        insert(run, flows[at])
    run.clock[TIME] = time
    run.number[EXPECTED] = 0
    refill(run, time)


@njit(cache=True, nogil=True)
def run_to_end(run, window):  # type: ignore[no-untyped-def]
    """Advance until no flow runs."""
    while True:
        count, time = plan(run, window)
        if count == 0:
            break
        commit(run, count, time, window > 0.0)
