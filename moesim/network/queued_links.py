"""Links that carry what they are given one after the other: the state behind BoundFabric (formula in queueing.py)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moesim.network.bound import smallest_latency
from moesim.network.flow import Flows
from moesim.network.queueing import add_load, add_load_in_eras, end_groups
from moesim.network.rewriting import rewrite_transfer
from moesim.network.transfer import Transfer


class QueuedLinks:
    """Until when each link is busy. Life: transfers are taken in, then `advance` is called at every instant of arrivals."""

    solves = 0
    error_bound = 0.0

    def __init__(self, link_bandwidth: NDArray[np.float64]) -> None:
        """link_bandwidth: bytes/s [links]."""
        self._bandwidth = link_bandwidth
        self._busy_s = np.zeros(len(link_bandwidth))
        self.link_bytes = np.zeros(len(link_bandwidth))
        self._indices: dict[Transfer, _GroupIndex] = {}
        self._since_A = np.full(1, -np.inf)
        self._rate_AJ = link_bandwidth[None, :]

    def plan_bandwidth(self, time: float, link_bandwidth: NDArray[np.float64]) -> None:
        """From `time` on, which no flow has started after, the links serve at these rates, bytes/s [links]."""
        self._since_A = np.append(self._since_A, time)
        self._rate_AJ = np.vstack([self._rate_AJ, link_bandwidth])

    def rewrite(self, new_flows: Callable[[Flows], Flows], now: float) -> list[tuple[Transfer, int, float]]:
        """Let flows that have not started start as `new_flows` says; what has started stays queued. No wait is over by it."""
        for transfer, index in self._indices.items():
            rewrite_transfer(transfer, new_flows(transfer.flows), np.isnan(transfer.start_F))
            index.read_latency(transfer, len(self._bandwidth))
        return []

    def take_in(self, transfer: Transfer) -> None:
        """Prepare for a transfer of which no flow has started."""
        self._indices[transfer] = _GroupIndex(transfer, len(self._bandwidth))

    def advance(
        self, arrivals: list[tuple[Transfer, int]], now: float, horizon: float
    ) -> tuple[list[tuple[Transfer, int, float]], float]:
        """Start the flows of all that arrive at `now`; returns the waits then known to be over, with when, and infinity."""
        started: dict[Transfer, list[NDArray[np.int32]]] = {}
        for transfer, participant in arrivals:
            started.setdefault(transfer, []).append(transfer.flows_of(participant))
        flows_of = {transfer: np.concatenate(parts) for transfer, parts in started.items()}
        for transfer, flows in flows_of.items():
            paths, size = transfer.flows.paths, transfer.flows.bytes_F
            transfer.start_F[flows] = now
            load = (self._busy_s, self.link_bytes, paths.offsets, paths.links, size, flows, now)
            if len(self._since_A) == 1:
                add_load(load[0], self._bandwidth, *load[1:])
            else:
                add_load_in_eras(self._since_A, self._rate_AJ, *load)
        told: list[tuple[Transfer, int, float]] = []
        for transfer, flows in flows_of.items():
            over = self._indices[transfer].end_groups(transfer, flows, self._busy_s)
            waits = transfer.waits
            told += [(transfer, int(waits.over_P[at]), float(waits.over_at_P[at])) for at in range(over)]
            if waits.arrived_P.all():
                del self._indices[transfer]
        return told, np.inf


class _GroupIndex:
    """What the end of groups needs of a transfer: its flows by group, and the smallest latency on the link of each hop."""

    def __init__(self, transfer: Transfer, num_links: int) -> None:
        waits = transfer.waits
        self.flows = np.argsort(waits.group_F, kind="stable").astype(np.int32)
        self.starts = np.concatenate([[0], np.cumsum(waits.flows_left_G)])
        self.starts_left_G = waits.flows_left_G.copy()
        self.read_latency(transfer, num_links)

    def read_latency(self, transfer: Transfer, num_links: int) -> None:
        """Look up the smallest latency on each hop's link, after the transfer's paths have changed."""
        self.hop_latency = smallest_latency(transfer.flows, num_links)[transfer.flows.paths.links]

    def end_groups(self, transfer: Transfer, flows: NDArray[np.int32], busy_s: NDArray[np.float64]) -> int:
        """Work out the groups that have all of their flows once `flows` have started; returns how many waits are over."""
        paths, size = transfer.flows.paths, transfer.flows.bytes_F
        over: int = end_groups(
            transfer.waits,
            self.starts_left_G,
            self.flows,
            self.starts,
            self.hop_latency,
            busy_s,
            paths.offsets,
            paths.links,
            size,
            transfer.start_F,
            transfer.finish_F,
            flows,
        )
        return over
