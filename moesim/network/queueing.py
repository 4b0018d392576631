"""Queueing: the closed form of a link that never idles while it has work: transfers queue behind each other's bytes.

When flows start at time t, each link they cross is busy until max(busy, t) + bytes / bandwidth. A group of flows ends when
the most loaded of its links has carried all it was given before the group's last flow started, plus the smallest latency
among the transfer's flows there. For flows that start together this is the lower bound of bound.py.
"""

import numpy as np
from numba import njit

from moesim.network.waits import part_ended


@njit(cache=True, nogil=True)
def add_load(busy_s, bandwidth, link_bytes, offsets, links, size, flows, now):  # type: ignore[no-untyped-def]
    """Queue the bytes of `flows`, which start at `now`, on their links."""
    for flow in flows:
        if size[flow] == 0.0:
            continue
        for hop in range(offsets[flow], offsets[flow + 1]):
            link = links[hop]
            busy_s[link] = max(busy_s[link], now) + size[flow] / bandwidth[link]
            link_bytes[link] += size[flow]


@njit(cache=True, nogil=True)
def add_load_in_eras(since_A, rate_AJ, busy_s, link_bytes, offsets, links, size, flows, now):  # type: ignore[no-untyped-def]
    """As `add_load` where links serve at rate_AJ[a] from since_A[a] on: bytes left over at a change go on at the new rate."""
    for flow in flows:
        if size[flow] == 0.0:
            continue
        for hop in range(offsets[flow], offsets[flow + 1]):
            link = links[hop]
            link_bytes[link] += size[flow]
            time, left = max(busy_s[link], now), size[flow]
            era = np.searchsorted(since_A, time, side="right") - 1
            while era + 1 < len(since_A) and time + left / rate_AJ[era, link] > since_A[era + 1]:
                left -= rate_AJ[era, link] * (since_A[era + 1] - time)
                era += 1
                time = since_A[era]
            busy_s[link] = time + left / rate_AJ[era, link]


@njit(cache=True, nogil=True)
def end_groups(  # type: ignore[no-untyped-def]
    waits, starts_left_G, group_flows, group_starts, hop_latency, busy_s, offsets, links, size, start_F, finish_F, flows
):
    """Count `flows` as started and work out when the groups end that now have all of theirs; returns the waits over."""
    over = np.int64(0)
    for flow in flows:
        group = waits.group_F[flow]
        starts_left_G[group] -= 1
        if starts_left_G[group] > 0:
            continue
        group_end = -np.inf
        for member in group_flows[group_starts[group] : group_starts[group + 1]]:
            finish_F[member] = start_F[member]
            end = start_F[member] + waits.latency_F[member]
            if size[member] > 0.0:
                for hop in range(offsets[member], offsets[member + 1]):
                    finish_F[member] = max(finish_F[member], busy_s[links[hop]])
                    end = max(end, busy_s[links[hop]] + hop_latency[hop])
            group_end = max(group_end, end)
        over = part_ended(waits, group, np.int64(waits.flows_left_G[group]), group_end, over)
    return over
