"""Fabric: transfers that start at different times share links under SimPy's clock.

Order at one instant. All arrivals of an instant are collected first; the fabric acts on them in one event of priority
`LAST`, after every event of SimPy's own priorities (0 urgent, 1 normal) at that instant. Waits that are over at the same
instant are told in the order in which the fabric found them, which depends on nothing but the flows.

`FluidFabric` runs ahead: between two events of the clock nothing can change its rates, so it works through completions up to
the next event of the environment (`env.peek()`) and schedules only the ends of waits, and itself where it had to stop.
`BoundFabric` knows when a group ends as soon as its last flow has started.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray
from simpy.events import NORMAL, EventPriority

from moesim.errors import InputError
from moesim.network.bound import link_busy_s, path_sums, smallest_latency
from moesim.network.flow import Flows, amounts
from moesim.network.fluid_steps import bytes_sent, rebuild, step
from moesim.network.queueing import add_load, end_groups
from moesim.network.running import BACKWARD, EPOCH, SOLVES, TIME, new_running
from moesim.network.transfer import Transfer
from moesim.network.waits import join_waits, new_waits

LAST = EventPriority(2)  # at one instant; SimPy has URGENT 0 and NORMAL 1
_AHEAD = 1e-9  # relative: an arrival may be this far behind what was worked out, from rounding of the clock


class _Planned(simpy.Event):
    """An event that is sure to happen at a known time, as simpy.Timeout is, but made before that time is known."""

    def plan(self, delay: float, priority: EventPriority = NORMAL) -> None:
        """Schedule it `delay` seconds from now, at once when that is negative."""
        self._ok = True
        self._value = None
        self.env.schedule(self, priority=priority, delay=max(0.0, delay))


class Fabric(ABC):
    """Links shared by transfers. Life: made for an environment; transfers are opened at any time and run concurrently."""

    def __init__(self, env: simpy.Environment, link_bandwidth: Any) -> None:
        """link_bandwidth: bytes/s [links], > 0."""
        self.env = env
        self.link_bandwidth = amounts("link bandwidth", link_bandwidth, positive=True)
        self._arrivals: list[tuple[Transfer, int, _Planned]] = []
        self._wake: _Planned | None = None

    def open(
        self,
        flows: Flows,
        starter_F: Any,
        group_F: Any,
        num_participants: int,
        waits_offsets: Any,
        waits_groups: Any,
        extra_s: Any = 0.0,
    ) -> Transfer:
        """A transfer whose flows start as participants arrive (`transfer.arrive`).

        starter_F: int32 [F] the participant whose arrival starts each flow. group_F: int32 [F] the group it belongs to.
        waits_offsets [participants + 1], waits_groups: CSR of the groups each participant waits for; a group without
        flows has ended. extra_s: seconds (one, or one per participant) between the end of a wait and its event.
        Raises InputError for ids out of range.
        """
        flows.paths.check_links(len(self.link_bandwidth))
        transfer = Transfer(
            flows,
            starter_F=starter_F,
            group_F=group_F,
            num_participants=num_participants,
            waits_offsets=waits_offsets,
            waits_groups=waits_groups,
            extra_s=extra_s,
            arrive=self._arrive,
        )
        self._take_in(transfer)
        return transfer

    def _arrive(self, transfer: Transfer, participant: int) -> simpy.Event:
        event = _Planned(self.env)
        ready = transfer.waits.ready_P
        ready[participant] = max(ready[participant], self.env.now)
        if transfer.waits.groups_left_P[participant] == 0:
            event.plan(ready[participant] + transfer.waits.extra_P[participant] - self.env.now)
        if not self._arrivals:
            self._plan_turn(self.env.now)
        self._arrivals.append((transfer, participant, event))
        return event

    def _plan_turn(self, time: float) -> None:
        """Act at `time`, last of its instant; a turn planned before is forgotten."""
        self._wake = _Planned(self.env)
        self._wake.callbacks.append(lambda event: self._turn(time) if event is self._wake else None)
        self._wake.plan(time - self.env.now, LAST)

    @abstractmethod
    def _take_in(self, transfer: Transfer) -> None:
        """Make room for a transfer of which no flow has started."""

    @abstractmethod
    def _turn(self, time: float) -> None:
        """Act on everything that happened up to this instant; `time` is the instant as it was planned."""

    @property
    @abstractmethod
    def link_bytes(self) -> NDArray[np.float64]:
        """Bytes each link has carried, float64 [links]."""


class BoundFabric(Fabric):
    """Links that carry what they are given one after the other, and never idle while they have work (queueing.py)."""

    solves = 0
    error_bound = 0.0

    def __init__(self, env: simpy.Environment, link_bandwidth: Any) -> None:
        """link_bandwidth: bytes/s [links], > 0."""
        super().__init__(env, link_bandwidth)
        self._busy_s = np.zeros(len(self.link_bandwidth))
        self._link_bytes = np.zeros(len(self.link_bandwidth))
        self._indices: dict[Transfer, _GroupIndex] = {}

    @property
    def link_bytes(self) -> NDArray[np.float64]:
        """Bytes the flows started so far put on each link, float64 [links]."""
        return self._link_bytes.copy()

    def _take_in(self, transfer: Transfer) -> None:
        self._indices[transfer] = _GroupIndex(transfer, len(self.link_bandwidth))

    def _turn(self, time: float) -> None:
        arrivals, self._arrivals = self._arrivals, []
        by_transfer: dict[Transfer, list[tuple[int, _Planned]]] = {}
        for transfer, participant, event in arrivals:
            by_transfer.setdefault(transfer, []).append((participant, event))
        started = {
            transfer: np.concatenate([transfer.flows_of(participant) for participant, _ in those])
            for transfer, those in by_transfer.items()
        }
        for transfer, flows in started.items():
            paths, size = transfer.flows.paths, transfer.flows.bytes_F
            transfer.start_F[flows] = time
            add_load(self._busy_s, self.link_bandwidth, self._link_bytes, paths.offsets, paths.links, size, flows, time)
        for transfer, flows in started.items():
            index = self._indices[transfer]
            index.events.update(by_transfer[transfer])
            over = index.end_groups(transfer, flows, self._busy_s)
            for at in range(over):
                participant = int(transfer.waits.over_P[at])
                index.events.pop(participant).plan(transfer.waits.over_at_P[at] - self.env.now)
            if transfer.waits.arrived_P.all():
                del self._indices[transfer]


class _GroupIndex:
    """What BoundFabric needs of a transfer until all have arrived: flows by group, latencies, events not yet planned."""

    def __init__(self, transfer: Transfer, num_links: int) -> None:
        group_F = transfer.waits.group_F
        self.flows = np.argsort(group_F, kind="stable").astype(np.int32)
        self.starts = np.concatenate([[0], np.cumsum(transfer.waits.flows_left_G)])
        self.starts_left_G = transfer.waits.flows_left_G.copy()
        self.hop_latency = smallest_latency(transfer.flows, num_links)[transfer.flows.paths.links]
        self.events: dict[int, _Planned] = {}

    def end_groups(self, transfer: Transfer, flows: NDArray[np.int32], busy_s: NDArray[np.float64]) -> int:
        paths = transfer.flows.paths
        return int(
            end_groups(
                transfer.waits,
                self.starts_left_G,
                self.flows,
                self.starts,
                busy_s,
                paths.offsets,
                paths.links,
                transfer.flows.bytes_F,
                self.hop_latency,
                transfer.start_F,
                transfer.finish_F,
                flows,
            )
        )


@dataclass(slots=True)
class _Entry:
    """A transfer in the arrays of a FluidFabric."""

    transfer: Transfer
    lower_s: float  # largest load / bandwidth of a link
    upper_s: float  # bound.py's upper bound without latency
    events: list[_Planned | None]  # of its participants, None before arrival
    begun: bool = False
    first_flow: int = 0

    def error_bound(self) -> float:
        if self.lower_s == 0.0 or not self.transfer.is_over:
            return 0.0
        took = float(self.transfer.finish_F.max() - self.transfer.start_F.min())
        return max(took, self.upper_s) / self.lower_s - 1.0


class FluidFabric(Fabric):
    """Links shared at max-min fair rates among all flows that run, whichever transfer they belong to.

    tolerance 0 is exact. With e > 0, completions closer than e x the smallest lower bound (largest load / bandwidth of a
    link) of the transfers that have begun are merged, or cut short by an arrival in between. Guaranteed: the times are exact
    for flows whose bytes differ by at most the fraction `backward_error`, given the times of arrival.
    """

    def __init__(self, env: simpy.Environment, link_bandwidth: Any, tolerance: float = 0.0) -> None:
        """link_bandwidth: bytes/s [links], > 0. tolerance: 0..1."""
        super().__init__(env, link_bandwidth)
        if isinstance(tolerance, bool) or not 0.0 <= tolerance <= 1.0:
            raise InputError(f"tolerance is {tolerance}, outside 0..1")
        self.tolerance = tolerance
        self._entries: list[_Entry] = []
        self._past_bytes = np.zeros(len(self.link_bandwidth))
        self._past_error_bound = 0.0
        none, ids = np.zeros(0), np.zeros(0, np.int32)
        self._run = new_running(self.link_bandwidth, np.zeros(1, np.int64), ids, none, none)
        self._waits = new_waits(none, ids, np.zeros(1, np.int64), ids, none, 0)
        self._weight_F = self._start_F = none
        self._participant_event: list[tuple[_Entry, int]] = []

    @property
    def solves(self) -> int:
        """How often rates were shared anew."""
        return int(self._run.clock[SOLVES])

    @property
    def backward_error(self) -> float:
        """The largest relative change of one flow's bytes after which the times are exact."""
        return float(self._run.clock[BACKWARD])

    @property
    def error_bound(self) -> float:
        """Largest max(T, UB) / LB - 1 of the transfers that are over, T from first start to last finish; 0 if exact.

        Guaranteed for a transfer that ran alone and whose participants arrived together (see bound.py).
        """
        if self.tolerance == 0.0:
            return 0.0
        return max([self._past_error_bound, *(entry.error_bound() for entry in self._entries)])

    @property
    def link_bytes(self) -> NDArray[np.float64]:
        """Bytes each link has carried by the last completion worked out, float64 [links]."""
        return self._past_bytes + self._bytes_of(bytes_sent(self._run, self._start_F))

    def _bytes_of(self, sent_F: NDArray[np.float64]) -> NDArray[np.float64]:
        sent = np.repeat(sent_F, np.diff(self._run.offsets))
        carried = np.bincount(self._run.hop_link, weights=sent, minlength=len(self.link_bandwidth))
        return carried.astype(np.float64, copy=False)

    def _take_in(self, transfer: Transfer) -> None:
        flows = transfer.flows
        busy = link_busy_s(flows.paths, flows.bytes_F, self.link_bandwidth)
        upper = (path_sums(flows.paths, busy) * (flows.bytes_F > 0.0)).max(initial=0.0)
        entry = _Entry(transfer, float(busy.max(initial=0.0)), float(upper), [None] * transfer.num_participants)
        keep_F = self._retire()
        added = (flows.paths.offsets, flows.paths.links, flows.bytes_F, flows.weight_F)
        self._run = rebuild(self._run, self.link_bandwidth, keep_F, self._start_F, added, self._weight_F)
        self._weight_F = np.concatenate([self._weight_F[keep_F], flows.weight_F])
        self._start_F = np.concatenate([self._start_F[keep_F], transfer.start_F])
        self._entries.append(entry)
        self._waits = join_waits([entry.transfer.waits for entry in self._entries])
        self._participant_event = [(e, at) for e in self._entries for at in range(e.transfer.num_participants)]
        self._share_arrays()

    def _retire(self) -> NDArray[np.bool_]:
        """Drop the transfers that are over; returns which flows of the arrays stay."""
        keep_F = np.ones(len(self._start_F), np.bool_)
        over = [entry for entry in self._entries if entry.transfer.is_over]
        for entry in over:
            transfer = entry.transfer
            keep_F[entry.first_flow : entry.first_flow + transfer.flows.num_flows] = False
            transfer.start_F, transfer.finish_F = transfer.start_F.copy(), transfer.finish_F.copy()
            transfer.waits = transfer.waits._replace(arrived_P=transfer.waits.arrived_P.copy())
            self._past_error_bound = max(self._past_error_bound, entry.error_bound())
        self._past_bytes += self._bytes_of(np.where(keep_F, 0.0, self._run.size))
        self._entries = [entry for entry in self._entries if not entry.transfer.is_over]
        return keep_F

    def _share_arrays(self) -> None:
        """Let each transfer look at its part of the joined arrays, which the kernels change."""
        flow = group = participant = 0
        for entry in self._entries:
            transfer, waits = entry.transfer, entry.transfer.waits
            flows = slice(flow, flow + transfer.flows.num_flows)
            groups = slice(group, group + len(waits.end_G))
            participants = slice(participant, participant + transfer.num_participants)
            entry.first_flow = flow
            transfer.start_F, transfer.finish_F = self._start_F[flows], self._run.finish[flows]
            transfer.waits = waits._replace(
                flows_left_G=self._waits.flows_left_G[groups],
                end_G=self._waits.end_G[groups],
                groups_left_P=self._waits.groups_left_P[participants],
                ready_P=self._waits.ready_P[participants],
                arrived_P=self._waits.arrived_P[participants],
            )
            flow, group, participant = flows.stop, groups.stop, participants.stop

    def _turn(self, time: float) -> None:
        now = max(time, self.env.now)
        arriving = self._begin(now)
        window = self.tolerance * min((e.lower_s for e in self._entries if e.begun and e.lower_s > 0.0), default=0.0)
        over, next_time = step(self._run, self._waits, arriving, len(arriving), now, self.env.peek(), window)
        for at in range(over):
            entry, participant = self._participant_event[self._waits.over_P[at]]
            event = entry.events[participant]
            assert event is not None, "a wait is over only after arrival"
            event.plan(self._waits.over_at_P[at] - self.env.now)
        if next_time < np.inf:
            self._plan_turn(next_time)

    def _begin(self, now: float) -> NDArray[np.int32]:
        """Mark the flows of all arrivals as started; returns their indices in the arrays."""
        if not self._arrivals:
            return np.zeros(0, np.int32)
        clock = self._run.clock
        behind = clock[EPOCH] + clock[TIME] - now
        if behind > _AHEAD * max(now, clock[TIME]):
            raise RuntimeError(f"an arrival at {now} s came from outside the events of the clock, {behind} s too late")
        entry_of = {entry.transfer: entry for entry in self._entries}
        parts = []
        for transfer, participant, event in self._arrivals:
            entry = entry_of[transfer]
            entry.begun, entry.events[participant] = True, event
            parts.append(transfer.flows_of(participant) + entry.first_flow)
        self._arrivals = []
        arriving = np.concatenate(parts).astype(np.int32)
        self._start_F[arriving] = now
        return arriving
