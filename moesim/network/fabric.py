"""Fabric: transfers that start at different times share links under SimPy's clock.

Order at one instant. All arrivals of an instant are collected first; the fabric acts on them in one event of priority
`LAST`, after every event of SimPy's own priorities (0 urgent, 1 normal) at that instant. Waits that are over at the same
instant are told in the order in which the fabric found them, which depends on nothing but the flows.

`FluidFabric` runs ahead: between two events of the clock nothing can change its rates, so it works through completions up to
the next event of the environment (`env.peek()`) and schedules only the ends of waits, and itself where it had to stop.
`BoundFabric` knows when a group ends as soon as its last flow has started.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import simpy
from numpy.typing import NDArray
from simpy.events import NORMAL, EventPriority

from moesim.errors import InputError
from moesim.network.flow import Flows, amounts
from moesim.network.queued_links import QueuedLinks
from moesim.network.shared_run import SharedRun
from moesim.network.transfer import Transfer

LAST = EventPriority(2)  # at one instant; SimPy has URGENT 0 and NORMAL 1


class _Links(Protocol):
    """What a fabric asks of its links (SharedRun, QueuedLinks)."""

    @property
    def solves(self) -> int: ...
    @property
    def error_bound(self) -> float: ...
    @property
    def link_bytes(self) -> NDArray[np.float64]: ...
    def take_in(self, transfer: Transfer) -> None: ...
    def rewrite(self, new_flows: Callable[[Flows], Flows], now: float) -> list[tuple[Transfer, int, float]]: ...
    def advance(
        self, arrivals: list[tuple[Transfer, int]], now: float, horizon: float
    ) -> tuple[list[tuple[Transfer, int, float]], float]: ...


class _Planned(simpy.Event):
    """An event that is sure to happen at a known time, as simpy.Timeout is, but made before that time is known."""

    def plan(self, delay: float, priority: EventPriority = NORMAL) -> None:
        """Schedule it `delay` seconds from now, at once when that is negative."""
        self._ok = True
        self._value = None
        self.env.schedule(self, priority=priority, delay=max(0.0, delay))


class Fabric:
    """Links shared by transfers. Life: made for an environment; transfers are opened at any time and run concurrently.

    Participants must arrive in events of the environment (in a process, say): a fluid fabric works out what happens up to
    the next of them.
    """

    def __init__(self, env: simpy.Environment, links: _Links, num_links: int) -> None:
        """Made by the subclasses."""
        self.env = env
        self._links = links
        self._num_links = num_links
        self._arrivals: list[tuple[Transfer, int]] = []
        self._events: dict[tuple[Transfer, int], _Planned] = {}
        self._turn: _Planned | None = None

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
        flows.paths.check_links(self._num_links)
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
        self._links.take_in(transfer)
        return transfer

    @property
    def link_bytes(self) -> NDArray[np.float64]:
        """Bytes each link has carried, float64 [links]: fluid by the last completion worked out, bound by all starts."""
        return self._links.link_bytes.copy()

    @property
    def solves(self) -> int:
        """How often rates were shared anew."""
        return self._links.solves

    @property
    def error_bound(self) -> float:
        """Largest max(T, UB) / LB - 1 of the transfers that are over (bound.py), T from first start to last finish.

        0 for a bound or exact fabric. Guaranteed for a transfer that ran alone and whose participants arrived together.
        """
        return self._links.error_bound

    def plan_bandwidth(self, time: float, link_bandwidth: Any) -> None:
        """From `time` on (absolute seconds, told before the clock is there, in ascending order) links have these rates.

        Bytes a link has not carried by then go on at its new rate. link_bandwidth: bytes/s [links], > 0.
        """
        raise NotImplementedError

    def rewrite(self, new_flows: Callable[[Flows], Flows]) -> None:
        """From this instant on let the flows of all transfers take the paths and latencies that `new_flows` returns.

        `new_flows` gets the flows of a transfer and returns as many, the same object where nothing changes. In a fluid
        fabric flows under way go on over their new path with the bytes they have left, and one whose bytes became 0 ends
        now; in a bound fabric only flows that have not started are changed. Other bytes must stay the same.
        """
        self._tell(self._links.rewrite(new_flows, self.env.now))
        self._plan_turn(self.env.now)

    def _tell(self, told: list[tuple[Transfer, int, float]]) -> None:
        for transfer, participant, at in told:
            self._events.pop((transfer, participant)).plan(at - self.env.now)

    def _arrive(self, transfer: Transfer, participant: int) -> simpy.Event:
        event = _Planned(self.env)
        waits = transfer.waits
        waits.ready_P[participant] = max(waits.ready_P[participant], self.env.now)
        if waits.groups_left_P[participant] == 0:
            event.plan(waits.ready_P[participant] + waits.extra_P[participant] - self.env.now)
        else:
            self._events[transfer, participant] = event
        if not self._arrivals:
            self._plan_turn(self.env.now)
        self._arrivals.append((transfer, participant))
        return event

    def _plan_turn(self, time: float) -> None:
        """Act at `time`, last of its instant; a turn planned before is forgotten."""
        turn = self._turn = _Planned(self.env)
        turn.callbacks.append(lambda event: self._take_turn(time) if event is self._turn else None)
        turn.plan(time - self.env.now, LAST)

    def _take_turn(self, time: float) -> None:
        arrivals, self._arrivals = self._arrivals, []
        now = max(time, self.env.now)  # rounding must not leave the clock just short of a completion
        told, again = self._links.advance(arrivals, now, self.env.peek())
        self._tell(told)
        if again < np.inf:
            self._plan_turn(again)


class BoundFabric(Fabric):
    """Each link carries what it is given one after the other and never idles while it has work (queueing.py).

    No transfer that has the links to itself ends earlier in a FluidFabric.
    """

    def __init__(self, env: simpy.Environment, link_bandwidth: Any) -> None:
        """link_bandwidth: bytes/s [links], > 0."""
        bandwidth = amounts("link bandwidth", link_bandwidth, positive=True)
        self._queues = QueuedLinks(bandwidth)
        super().__init__(env, self._queues, len(bandwidth))

    def plan_bandwidth(self, time: float, link_bandwidth: Any) -> None:
        """As Fabric says; exact, since a link is known to serve at its new rate before anything queues that long."""
        self._queues.plan_bandwidth(time, amounts("link bandwidth", link_bandwidth, positive=True))


class FluidFabric(Fabric):
    """Links shared at max-min fair rates among all flows that run, whichever transfer they belong to.

    tolerance 0 is exact. With e > 0, completions closer than e x the smallest lower bound (largest load / bandwidth of a
    link) of the transfers that have begun are merged, or cut short by an arrival in between. Guaranteed: given the times of
    arrival, the times are exact for flows whose bytes differ by at most the fraction `backward_error`.
    """

    def __init__(self, env: simpy.Environment, link_bandwidth: Any, tolerance: float = 0.0) -> None:
        """link_bandwidth: bytes/s [links], > 0. tolerance: 0..1."""
        bandwidth = amounts("link bandwidth", link_bandwidth, positive=True)
        if isinstance(tolerance, bool) or not 0.0 <= tolerance <= 1.0:
            raise InputError(f"tolerance is {tolerance}, outside 0..1")
        self._run = SharedRun(bandwidth, tolerance)
        super().__init__(env, self._run, len(bandwidth))

    def plan_bandwidth(self, time: float, link_bandwidth: Any) -> None:
        """As Fabric says; rates are shared anew at that time."""
        bandwidth = amounts("link bandwidth", link_bandwidth, positive=True)
        change = _Planned(self.env)

        def act(_event: simpy.Event) -> None:
            self._tell(self._run.set_bandwidth(bandwidth, self.env.now))
            self._plan_turn(self.env.now)

        change.callbacks.append(act)
        change.plan(time - self.env.now)

    @property
    def backward_error(self) -> float:
        """The largest relative change of one flow's bytes after which the times are exact; 0 when tolerance is 0."""
        return self._run.backward_error
