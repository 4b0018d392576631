"""One fluid run that many transfers share: the state behind FluidFabric."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.network.bound import link_busy_s, path_sums
from moesim.network.flow import Flows, Paths
from moesim.network.fluid_steps import bytes_sent, rebuild, step
from moesim.network.rewriting import rewrite_transfer, with_paths
from moesim.network.running import Running, new_running
from moesim.network.transfer import Transfer
from moesim.network.waits import flow_ended, join_waits, new_waits

_AHEAD = 1e-9  # relative: an arrival may be this far behind what was worked out, from rounding of the clock


@dataclass(slots=True)
class _Entry:
    """A transfer in the arrays of the run."""

    transfer: Transfer
    lower_s: float  # largest load / bandwidth of a link
    upper_s: float  # bound.py's upper bound, without latency
    begun: bool = False
    first_flow: int = 0

    def error_bound(self) -> float:
        if self.lower_s == 0.0 or not self.transfer.is_over:
            return 0.0
        took = float(self.transfer.finish_F.max() - self.transfer.start_F.min())
        return max(took, self.upper_s) / self.lower_s - 1.0


class SharedRun:
    """The flows of all transfers that are not over, in one set of arrays of which each transfer sees its part.

    Life: transfers are taken in at any time; `advance` is called at every instant of arrivals and whenever it asked to be.
    """

    def __init__(self, link_bandwidth: NDArray[np.float64], tolerance: float) -> None:
        """link_bandwidth: bytes/s [links]. tolerance: as FluidFabric's."""
        self._bandwidth, self._tolerance = link_bandwidth, tolerance
        self._entries: dict[Transfer, _Entry] = {}
        self._past_bytes = np.zeros(len(link_bandwidth))
        self._past_error_bound = 0.0
        none, ids = np.zeros(0), np.zeros(0, np.int32)
        self._run = new_running(link_bandwidth, np.zeros(1, np.int64), ids, none, none)
        self._waits = new_waits(none, ids, np.zeros(1, np.int64), ids, none, 0)
        self._weight_F = self._start_F = none
        self._participants: list[tuple[Transfer, int]] = []

    @property
    def solves(self) -> int:
        """How often rates were shared anew."""
        return int(self._run.run["solves"][0])

    @property
    def backward_error(self) -> float:
        """The largest relative change of one flow's bytes after which the times are exact."""
        return float(self._run.run["backward_error"][0])

    @property
    def error_bound(self) -> float:
        """Largest max(T, UB) / LB - 1 of the transfers that are over, 0 if exact; see FluidFabric."""
        if self._tolerance == 0.0:
            return 0.0
        return max([self._past_error_bound, *(entry.error_bound() for entry in self._entries.values())])

    @property
    def link_bytes(self) -> NDArray[np.float64]:
        """Bytes each link has carried by the last completion worked out, float64 [links]."""
        return self._past_bytes + self._bytes_on_links(bytes_sent(self._run, ~np.isnan(self._start_F)))

    def _bytes_on_links(self, sent_F: NDArray[np.float64]) -> NDArray[np.float64]:
        sent = np.repeat(sent_F, np.diff(self._run.flow["hops"]))
        carried = np.bincount(self._run.hop["link"], weights=sent, minlength=len(self._bandwidth))
        return carried.astype(np.float64, copy=False)

    def take_in(self, transfer: Transfer) -> None:
        """Make room for a transfer of which no flow has started, in place of those that are over."""
        flows = transfer.flows
        busy = link_busy_s(flows.paths, flows.bytes_F, self._bandwidth)
        upper = (path_sums(flows.paths, busy) * (flows.bytes_F > 0.0)).max(initial=0.0)
        keep_F = self._retire()
        added = (flows.paths, flows.bytes_F, flows.weight_F)
        self._run = rebuild(self._run, self._bandwidth, keep_F, self._start_F, added, self._weight_F)
        self._weight_F = np.concatenate([self._weight_F[keep_F], flows.weight_F])
        self._start_F = np.concatenate([self._start_F[keep_F], transfer.start_F])
        self._entries[transfer] = _Entry(transfer, float(busy.max(initial=0.0)), float(upper))
        self._waits = join_waits([transfer.waits for transfer in self._entries])
        self._participants = [(each, at) for each in self._entries for at in range(each.num_participants)]
        self._show_parts()

    def _retire(self) -> NDArray[np.bool_]:
        """Drop the transfers that are over; returns which flows of the arrays stay."""
        keep_F = np.ones(len(self._start_F), np.bool_)
        for transfer, entry in list(self._entries.items()):
            if transfer.is_over:
                keep_F[entry.first_flow : entry.first_flow + transfer.flows.num_flows] = False
                transfer.start_F, transfer.finish_F = transfer.start_F.copy(), transfer.finish_F.copy()
                transfer.waits = transfer.waits._replace(arrived_P=transfer.waits.arrived_P.copy())
                self._past_error_bound = max(self._past_error_bound, entry.error_bound())
                del self._entries[transfer]
        self._past_bytes += self._bytes_on_links(np.where(keep_F, 0.0, self._run.flow["size"][:-1]))
        return keep_F

    def _show_parts(self) -> None:
        """Let each transfer look at its part of the joined arrays, which the kernels change."""
        flow = group = participant = 0
        for transfer, entry in self._entries.items():
            flows = slice(flow, flow + transfer.flows.num_flows)
            groups = slice(group, group + len(transfer.waits.end_G))
            participants = slice(participant, participant + transfer.num_participants)
            entry.first_flow = flow
            transfer.start_F, transfer.finish_F = self._start_F[flows], self._run.flow["finish"][flows]
            transfer.waits = transfer.waits._replace(
                flows_left_G=self._waits.flows_left_G[groups],
                end_G=self._waits.end_G[groups],
                groups_left_P=self._waits.groups_left_P[participants],
                ready_P=self._waits.ready_P[participants],
                arrived_P=self._waits.arrived_P[participants],
            )
            flow, group, participant = flows.stop, groups.stop, participants.stop

    def advance(
        self, arrivals: list[tuple[Transfer, int]], now: float, horizon: float
    ) -> tuple[list[tuple[Transfer, int, float]], float]:
        """Bring the run to `now`, start the flows of all that arrive then, and run ahead to `horizon` (fluid_steps.py).

        Returns the waits found to be over, with when each is told, and the time at which to call again, or infinity.
        """
        arriving = self._begin(arrivals, now) if arrivals else np.zeros(0, np.int32)
        over, again = step(self._run, self._waits, arriving, len(arriving), now, horizon, self._window())
        return self._told(over), again

    def _window(self) -> float:
        """Completions closer than this are merged, seconds."""
        bounds = [entry.lower_s for entry in self._entries.values() if entry.begun and entry.lower_s > 0.0]
        return self._tolerance * min(bounds, default=0.0)

    def _told(self, over: int) -> list[tuple[Transfer, int, float]]:
        """The first `over` waits that a kernel found over, with when each is told."""
        waits = self._waits
        return [(*self._participants[waits.over_P[at]], float(waits.over_at_P[at])) for at in range(over)]

    def set_bandwidth(self, link_bandwidth: NDArray[np.float64], now: float) -> list[tuple[Transfer, int, float]]:
        """From `now` on the links have these rates, bytes/s [links]; returns the waits found over by now, as `advance`."""
        over = self._bring_to(now)
        self._bandwidth = link_bandwidth
        self._rebuild(self._run)
        return self._told(over)

    def rewrite(self, new_flows: Callable[[Flows], Flows], now: float) -> list[tuple[Transfer, int, float]]:
        """Let flows that have not ended go on as `new_flows` says, see Fabric.rewrite; returns as `set_bandwidth`."""
        over = self._bring_to(now)
        old, begun_F = self._run, ~np.isnan(self._start_F)
        sent_F = bytes_sent(old, begun_F)
        size_F, finish_F = old.flow["size"][:-1].copy(), old.flow["finish"][:-1].copy()
        parts, ended = [], []
        for transfer, entry in self._entries.items():
            mine = slice(entry.first_flow, entry.first_flow + transfer.flows.num_flows)
            open_F = np.isnan(finish_F[mine])
            before_F = transfer.flows.bytes_F
            rewrite_transfer(transfer, new_flows(transfer.flows), open_F)
            parts.append(transfer.flows.paths)
            cut_F = open_F & begun_F[mine] & (transfer.flows.bytes_F == 0.0) & (before_F > 0.0)
            size_F[mine] = np.where(cut_F, sent_F[mine], np.where(begun_F[mine], size_F[mine], transfer.flows.bytes_F))
            finish_F[mine][cut_F] = now
            ended += (np.flatnonzero(cut_F) + entry.first_flow).tolist()
            self._waits.latency_F[mine] = transfer.waits.latency_F
        under_way_F = np.where(begun_F, sent_F, 0.0)
        self._past_bytes += self._bytes_on_links(under_way_F)
        self._run = with_paths(old, parts, size_F, finish_F)
        self._past_bytes -= self._bytes_on_links(under_way_F)
        self._rebuild(self._run)
        for flow in ended:
            over = flow_ended(self._waits, flow, now, over)
        return self._told(over)

    def _bring_to(self, now: float) -> int:
        """End what has ended by `now` and count the others as served until then; for a run that is built anew next."""
        over, _ = step(self._run, self._waits, np.zeros(0, np.int32), 0, now, now, self._window())
        run = self._run.run[0]
        if run["closed"] > 0:
            run["time"] = max(run["time"], now - run["epoch"])
        return int(over)

    def _rebuild(self, run: Running) -> None:
        everyone = np.ones(len(self._start_F), np.bool_)
        none = Paths(np.zeros(1, np.int64), np.zeros(0, np.int32)), np.zeros(0), np.zeros(0)
        self._run = rebuild(run, self._bandwidth, everyone, self._start_F, none, self._weight_F)
        self._show_parts()

    def _begin(self, arrivals: list[tuple[Transfer, int]], now: float) -> NDArray[np.int32]:
        """Mark the flows of arriving participants as started; returns their indices in the arrays."""
        run = self._run.run[0]
        behind = run["epoch"] + run["time"] - now
        if behind > _AHEAD * max(now, run["time"]):
            raise RuntimeError(f"an arrival at {now} s came from outside the events of the clock, {behind} s too late")
        parts = []
        for transfer, participant in arrivals:
            entry = self._entries[transfer]
            entry.begun = True
            parts.append(transfer.flows_of(participant) + entry.first_flow)
        arriving = np.concatenate(parts).astype(np.int32)
        self._start_F[arriving] = now
        return arriving
