"""Bounds on the time of one collective by closed form: what links must carry, without asking how they are shared.

Lower bound: a link cannot carry its load in less than load / bandwidth, and the last byte takes the latency of its flow.
Upper bound: while a flow runs under max-min fair rates some link of its path is full, and a link can be full for
load / bandwidth at most; so no flow ends later than the sum of that over its links, plus its latency.
"""

import numpy as np
from numpy.typing import NDArray

from moesim.network.flow import Flows, Paths


def link_load(paths: Paths, bytes_F: NDArray[np.float64], num_links: int) -> NDArray[np.float64]:
    """Bytes each link carries, float64 [links]."""
    paths.check_links(num_links)
    carried = np.repeat(bytes_F, np.diff(paths.offsets))
    return np.bincount(paths.links, weights=carried, minlength=num_links).astype(np.float64, copy=False)


def link_busy_s(paths: Paths, bytes_F: NDArray[np.float64], link_bandwidth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Seconds each link needs for its load, float64 [links]."""
    return link_load(paths, bytes_F, len(link_bandwidth)) / link_bandwidth


def bound_completion(flows: Flows, link_bandwidth: NDArray[np.float64]) -> float:
    """Seconds no schedule of these flows can beat when all start together.

    The largest over links of load / bandwidth + the smallest latency among its flows that carry bytes, and the largest
    latency of any flow; 0 without flows.
    """
    if flows.num_flows == 0:
        return 0.0
    busy = link_busy_s(flows.paths, flows.bytes_F, link_bandwidth)
    latency = smallest_latency(flows, len(link_bandwidth))
    return float(max(np.max(busy + latency, initial=0.0), flows.latency_F.max()))


def upper_bound(flows: Flows, link_bandwidth: NDArray[np.float64]) -> float:
    """Seconds that max-min fair sharing never exceeds when all flows start together; 0 without flows."""
    if flows.num_flows == 0:
        return 0.0
    busy = link_busy_s(flows.paths, flows.bytes_F, link_bandwidth)
    return float(np.max(path_sums(flows.paths, busy) * (flows.bytes_F > 0.0) + flows.latency_F))


def path_sums(paths: Paths, amount: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of a per-link amount over each path, float64 [F]; 0 for an empty path."""
    total = np.zeros(paths.num_flows)
    crossing = np.flatnonzero(np.diff(paths.offsets))
    if len(crossing):
        total[crossing] = np.add.reduceat(amount[paths.links], paths.offsets[crossing])
    return total


def smallest_latency(flows: Flows, num_links: int) -> NDArray[np.float64]:
    """Smallest latency among the flows with bytes on each link, float64 [links]; 0 on a link without any."""
    hops = np.diff(flows.paths.offsets)
    carries = np.repeat(flows.bytes_F > 0.0, hops)
    latency = np.full(num_links, np.inf)
    np.minimum.at(latency, flows.paths.links[carries], np.repeat(flows.latency_F, hops)[carries])
    return np.where(np.isinf(latency), 0.0, latency)
