"""Steps of a shared fluid run between two events of the simulated clock: completions, arrivals, looking ahead."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.network.filling import refill, reopen
from moesim.network.fluid import commit, first_due, gather, plan
from moesim.network.running import ACTIVE, EPOCH, EXPECTED, TIME, Running, insert, left_to_send, new_running
from moesim.network.waits import flow_ended


@njit(cache=True, nogil=True)
def step(run, waits, arriving, num_arriving, now, horizon, window):  # type: ignore[no-untyped-def]
    """Bring the run to `now`, start the arriving flows, then run ahead while nothing can disturb it.

    now and horizon are absolute seconds; nothing but this run's own waits may act before the horizon. Returns how many
    waits were found over (in `waits.over_P`, with `over_at_P`) and the absolute time of the next completion.
    """
    over = 0
    until = now - run.clock[EPOCH]
    while True:
        count, time = plan(run, window)
        if count == 0 or time > until:
            break
        over = _end_batch(run, waits, count, time, window, over)
    if num_arriving:
        over = _arrive(run, waits, arriving, num_arriving, now, window, over)
    until = horizon - run.clock[EPOCH]
    told = 0
    while True:
        while told < over:  # a participant may act as soon as it is told
            until = min(until, waits.over_at_P[told] - run.clock[EPOCH])
            told += 1
        count, time = plan(run, window)
        if count == 0 or time > until:
            return over, time + run.clock[EPOCH]
        over = _end_batch(run, waits, count, time, window, over)


@njit(cache=True)
def _end_batch(run, waits, count, time, window, over):  # type: ignore[no-untyped-def]
    commit(run, count, time, window > 0.0)
    for at in range(count):
        over = flow_ended(waits, run.batch[at], run.finish[run.batch[at]], over)
    return over


@njit(cache=True)
def _arrive(run, waits, arriving, num_arriving, now, window, over):  # type: ignore[no-untyped-def]
    time = max(now - run.clock[EPOCH], run.clock[TIME])
    if first_due(run) <= time:  # a merged completion is cut short: what has ended by now ends now
        count, _ = gather(run, time)
        over = _end_batch(run, waits, count, time, window, over)
    if run.number[ACTIVE] == 0:
        run.clock[EPOCH] = now
        time = 0.0
    reopen(run, 0, time)
    run.number[EXPECTED] = 0
    run.clock[TIME] = time
    moving = False
    for at in range(num_arriving):
        flow = arriving[at]
        if run.size[flow] > 0.0 and run.offsets[flow + 1] > run.offsets[flow]:
            insert(run, flow)
            moving = True
        else:
            run.finish[flow] = run.clock[EPOCH] + time
            over = flow_ended(waits, flow, run.finish[flow], over)
    if moving or run.number[ACTIVE]:
        refill(run, time)
    return over


@njit(cache=True)
def _sent(run, started):  # type: ignore[no-untyped-def]
    """Bytes each flow has sent as of the last change of rates."""
    sent = np.zeros(len(started))
    for flow in range(len(started)):
        if started[flow]:
            sent[flow] = run.size[flow]
            if np.isnan(run.finish[flow]):
                sent[flow] -= left_to_send(run, flow, run.clock[TIME]) * run.weight[flow]
    return sent


def bytes_sent(run: Running, start_F: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bytes each flow has sent as of the last change of rates, float64 [F]; start_F is NaN for flows not started."""
    sent: NDArray[np.float64] = _sent(run, ~np.isnan(start_F))
    return sent


@njit(cache=True)
def resume(run, flows):  # type: ignore[no-untyped-def]
    """Put flows that were running into a new run at its present time."""
    for flow in flows:
        insert(run, flow)
    if len(flows):
        refill(run, run.clock[TIME])


def rebuild(
    run: Running,
    bandwidth: NDArray[np.float64],
    keep_F: NDArray[np.bool_],
    start_F: NDArray[np.float64],
    added: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]],
    weight_F: NDArray[np.float64],
) -> Running:
    """A run with the kept flows of `run` in order, then the added ones (offsets, links, bytes, weight), not started.

    weight_F: weights of the flows of `run` as given; when all weights are equal the kernels work with weight 1.
    """
    left = run.size - bytes_sent(run, start_F)
    hops = np.diff(run.offsets)
    new_offsets, new_links, new_size, new_weight = added
    links = np.concatenate([run.hop_link[np.repeat(keep_F, hops)], new_links])
    offsets = np.zeros(int(keep_F.sum()) + len(new_offsets), np.int64)
    np.cumsum(np.concatenate([hops[keep_F], np.diff(new_offsets)]), out=offsets[1:])
    weight = np.concatenate([weight_F[keep_F], new_weight])
    if len(weight) and (weight == weight[0]).all():
        weight = np.ones(len(weight))
    fresh = new_running(bandwidth, offsets, links, np.concatenate([run.size[keep_F], new_size]), weight)
    fresh.clock[:4] = run.clock[:4]
    kept = len(weight) - len(new_weight)
    fresh.finish[:kept] = run.finish[keep_F]
    fresh.end_served[:kept] = left[keep_F] / weight[:kept]
    running = keep_F & ~np.isnan(start_F) & np.isnan(run.finish)
    resume(fresh, np.flatnonzero(running[keep_F]).astype(np.int32))
    return fresh
