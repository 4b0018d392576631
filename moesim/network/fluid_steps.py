"""Steps of a shared fluid run between two events of the simulated clock: completions, arrivals, looking ahead."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.network.flow import Paths
from moesim.network.fluid import commit, first_due, gather, plan, start
from moesim.network.running import Running, left_to_send, new_running
from moesim.network.waits import flow_ended


@njit(cache=True, nogil=True)
def step(s, waits, arriving, num_arriving, now, horizon, window):  # type: ignore[no-untyped-def]
    """Bring the run to `now`, start the arriving flows, then run ahead while nothing can disturb it.

    now and horizon are absolute seconds; nothing but this run's own waits may act before the horizon. Returns how many
    waits were found over (in `waits.over_P`, with `over_at_P`) and the absolute time of the next completion.
    """
    over = np.int64(0)  # not a literal, for which numba would compile everything below once more
    until = now - s.run[0].epoch
    while True:
        count, time = plan(s, window)
        if count == 0 or time > until:
            break
        over = _end_batch(s, waits, count, time, window, over)
    if num_arriving:
        over = _arrive(s, waits, arriving, num_arriving, now, window, over)
    until = horizon - s.run[0].epoch
    told = 0
    while True:
        while told < over:  # a participant may act as soon as it is told
            until = min(until, waits.over_at_P[told] - s.run[0].epoch)
            told += 1
        count, time = plan(s, window)
        if count == 0 or time > until:
            return over, time + s.run[0].epoch
        over = _end_batch(s, waits, count, time, window, over)


@njit(cache=True)
def _end_batch(s, waits, count, time, window, over):  # type: ignore[no-untyped-def]
    commit(s, count, time, window > 0.0)
    for at in range(count):
        over = flow_ended(waits, s.batch[at], s.flow[s.batch[at]].finish, over)
    return over


@njit(cache=True)
def _arrive(s, waits, arriving, num_arriving, now, window, over):  # type: ignore[no-untyped-def]
    run = s.run[0]
    time = max(now - run.epoch, run.time)
    if first_due(s) <= time:  # a merged completion is cut short: what has ended by now ends now
        count, _ = gather(s, time)
        over = _end_batch(s, waits, count, time, window, over)
    if run.closed == 0:  # nothing runs: a new busy period
        run.epoch = now
        run.time = time = 0.0
    moving = np.int64(0)
    for at in range(num_arriving):
        index = arriving[at]
        flow = s.flow[index]
        if flow.size > 0.0 and s.flow[index + 1].hops > flow.hops:
            arriving[moving] = index
            moving += 1
        else:
            flow.finish = run.epoch + time
            over = flow_ended(waits, index, flow.finish, over)
    if moving:
        start(s, arriving, moving, time)
    return over


@njit(cache=True)
def bytes_sent(s, started):  # type: ignore[no-untyped-def]
    """Bytes each flow has sent as of the last change of rates, float64 [F]; started: bool [F]."""
    sent = np.zeros(len(started))
    for index in range(len(started)):
        if started[index]:
            flow = s.flow[index]
            sent[index] = flow.size
            if np.isnan(flow.finish):
                sent[index] -= left_to_send(s, index, s.run[0].time) * flow.weight
    return sent


def rebuild(
    old: Running,
    bandwidth: NDArray[np.float64],
    keep_F: NDArray[np.bool_],
    start_F: NDArray[np.float64],
    added: tuple[Paths, NDArray[np.float64], NDArray[np.float64]],
    weight_F: NDArray[np.float64],
) -> Running:
    """A run with the kept flows of `old` in order, then the added ones (paths, bytes, weight), none of which has started.

    weight_F: the weights of the flows of `old` as given; when all weights are equal the kernels work with weight 1.
    """
    paths, new_size, new_weight = added
    flow = old.flow[:-1]
    hops = np.diff(old.flow["hops"])
    links = np.concatenate([old.hop["link"][np.repeat(keep_F, hops)], paths.links])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([hops[keep_F], np.diff(paths.offsets)]))])
    weight = np.concatenate([weight_F[keep_F], new_weight])
    if len(weight) and (weight == weight[0]).all():
        weight = np.ones(len(weight))
    new = new_running(bandwidth, offsets, links, np.concatenate([flow["size"][keep_F], new_size]), weight)
    for name in ("time", "epoch", "backward_error", "solves"):
        new.run[name] = old.run[name]
    kept = new.flow[: int(keep_F.sum())]
    kept["finish"] = flow["finish"][keep_F]
    running = (~np.isnan(start_F) & np.isnan(flow["finish"]))[keep_F]
    left = flow["size"] - bytes_sent(old, ~np.isnan(start_F))
    kept["end_served"][running] = left[keep_F][running] / kept["weight"][running]
    if running.any():
        flows = np.flatnonzero(running).astype(np.int32)
        start(new, flows, len(flows), float(new.run["time"][0]))
    return new
