"""Weighted max-min fair rates of flows that share links, by progressive filling.

Definition. Rates are feasible when no link carries more than its bandwidth. Feasible rates are max-min fair when no
flow can be given more without taking from a flow whose rate per unit of weight is already no larger. They exist, are
unique, and are marked by this: every flow crosses a *bottleneck*, a link that is full and on which no other flow has a
larger rate per weight.

Algorithm. Raise one fill level for all flows together (rate = weight x level). The first link to fill is a bottleneck of
every flow on it: freeze them, take their rates from the other links they cross, and go on with the flows left. A link
with capacity c left for open flows of weight w fills at level c / w. That level only rises when other links freeze
flows first (they freeze at lower levels than c / w), so a heap may hold stale levels: they are lower bounds, and the
link at the top is looked at again before it is frozen.

Cost. O(H + K log L) for H hops (flow and link pairs), L links and K heap looks; K is L plus the number of stale looks,
at most H.

Sources. D. Bertsekas, R. Gallager, Data Networks, 2nd ed. 1992, section 6.5.2 (definition, bottleneck theorem, filling);
B. Radunovic, J.-Y. Le Boudec, A unified framework for max-min and min-max fairness, IEEE/ACM ToN 15(5), 2007 (weights).
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.network.flow import Paths, amounts
from moesim.network.link_heap import drop_top, heapify, runner_up, sift_down


def max_min_rates(link_bandwidth: Any, path_offsets: Any, path_links: Any, weight: Any = None) -> NDArray[np.float64]:
    """The weighted max-min fair rate of each flow, bytes/s, float64 [F].

    link_bandwidth: bytes/s [links], > 0. path_offsets [F + 1], path_links: the links each flow crosses (CSR), each at
    most once. weight: [F] > 0, or None for all 1. A flow without links has rate infinity. Raises InputError otherwise.

    Two flows on a link of 10 B/s, one of which also crosses a link of 2 B/s:

    >>> max_min_rates([10.0, 2.0], [0, 1, 3], [0, 0, 1]).tolist()
    [8.0, 2.0]
    """
    bandwidth = amounts("link bandwidth", link_bandwidth, positive=True)
    paths = Paths(path_offsets, path_links)
    paths.check_links(len(bandwidth))
    check_simple(paths)
    shares = np.ones(paths.num_flows) if weight is None else amounts("flow weight", weight, positive=True)
    if len(shares) != paths.num_flows:
        raise InputError(f"flow weight has {len(shares)} entries for {paths.num_flows} flows")
    rate: NDArray[np.float64] = _fill(bandwidth, paths.offsets, paths.links, shares)
    return rate


def check_simple(paths: Paths) -> None:
    """Raise InputError when a path crosses one link twice."""
    at = _first_repeat(paths.offsets, paths.links)
    if at >= 0:
        raise InputError(f"flow {at} crosses a link twice; a path names each link once")


@njit(cache=True)
def _first_repeat(offsets: NDArray[np.int64], links: NDArray[np.int32]) -> int:
    for flow in range(len(offsets) - 1):
        for hop in range(offsets[flow], offsets[flow + 1]):
            for earlier in range(offsets[flow], hop):
                if links[earlier] == links[hop]:
                    return flow
    return -1


@njit(cache=True)
def flows_of_links(offsets, links, num_links):  # type: ignore[no-untyped-def]
    """Transpose paths: the flows on link l are `flows[starts[l]:starts[l + 1]]`, in order."""
    starts = np.zeros(num_links + 1, np.int64)
    for link in links:
        starts[link + 1] += 1
    for link in range(num_links):
        starts[link + 1] += starts[link]
    place = starts[:-1].copy()
    flows = np.empty(len(links), np.int32)
    for flow in range(len(offsets) - 1):
        for hop in range(offsets[flow], offsets[flow + 1]):
            flows[place[links[hop]]] = flow
            place[links[hop]] += 1
    return starts, flows


@njit(cache=True, nogil=True)
def _fill(bandwidth, offsets, links, weight):  # type: ignore[no-untyped-def]
    starts, flows = flows_of_links(offsets, links, len(bandwidth))
    left = bandwidth.copy()
    lost = np.zeros(len(bandwidth))  # rounding lost by `left`: keeps a share exact after many subtractions
    open_flows = starts[1:] - starts[:-1]
    rate = np.full(len(weight), np.inf)
    open_weight = np.zeros(len(bandwidth))
    for link in range(len(bandwidth)):
        open_weight[link] = _sum_open(flows[starts[link] : starts[link + 1]], weight, rate)
    summed = open_weight.copy()
    key = np.empty(len(bandwidth))
    heap = np.empty(len(bandwidth), np.int32)
    size = 0
    for link in range(len(bandwidth)):
        if open_flows[link]:
            key[size] = left[link] / open_weight[link]
            heap[size] = link
            size += 1
    heapify(key, heap, size)
    level = 0.0
    while size:
        link = heap[0]
        if open_flows[link] == 0:
            size = drop_top(key, heap, size)
            continue
        if open_weight[link] < 0.5 * summed[link]:  # sum again before cancellation shows
            summed[link] = open_weight[link] = _sum_open(flows[starts[link] : starts[link + 1]], weight, rate)
        share = (left[link] + lost[link]) / open_weight[link]
        if share > runner_up(key, size):
            key[0] = share
            sift_down(key, heap, size, 0)
            continue
        level = max(level, share)
        for flow in flows[starts[link] : starts[link + 1]]:
            if rate[flow] == np.inf:
                rate[flow] = weight[flow] * level
                for hop in range(offsets[flow], offsets[flow + 1]):
                    other = links[hop]
                    before = left[other]
                    left[other] = before - rate[flow]
                    lost[other] += (before - left[other]) - rate[flow]
                    open_flows[other] -= 1
                    open_weight[other] -= weight[flow]
    return rate


@njit(cache=True)
def _sum_open(flows, weight, rate):  # type: ignore[no-untyped-def]
    total = 0.0
    for flow in flows:
        if rate[flow] == np.inf:
            total += weight[flow]
    return total
