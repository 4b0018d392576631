"""Transfer: flows that participants start by arriving, with the groups of flows each of them waits for."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.network.flow import Flows, amounts
from moesim.network.maxmin import check_simple
from moesim.network.waits import Waits, new_waits


class Transfer:
    """One collective on a fabric, made by `fabric.open`. Life: opened; every participant arrives once; all flows end.

    `start_F` and `finish_F` are absolute seconds, NaN until known: when a flow started, and when its last byte left its
    links, without latency. The fabric may know a finish ahead of the clock.
    """

    def __init__(
        self,
        flows: Flows,
        *,
        starter_F: Any,
        group_F: Any,
        num_participants: int,
        waits_offsets: Any,
        waits_groups: Any,
        extra_s: Any,
        arrive: Callable[["Transfer", int], Any],
    ) -> None:
        """Check and index; the arguments are those of `Fabric.open`, `arrive` is the fabric's."""
        check_simple(flows.paths)
        starter = _ids("flow starter", starter_F, flows.num_flows, num_participants)
        group = _ids("flow group", group_F, flows.num_flows, None)
        awaited = _ids("awaited group", waits_groups, None, None)
        offsets = _wait_offsets(waits_offsets, num_participants, len(awaited))
        extra = amounts("extra_s", np.broadcast_to(np.asarray(extra_s, np.float64), (num_participants,)))
        num_groups = int(max(group.max(initial=-1), awaited.max(initial=-1))) + 1
        self.flows, self.num_participants, self._arrive = flows, num_participants, arrive
        self.waits: Waits = new_waits(flows.latency_F, group, offsets, awaited, extra, num_groups)
        self.start_F: NDArray[np.float64] = np.full(flows.num_flows, np.nan)
        self.finish_F: NDArray[np.float64] = np.full(flows.num_flows, np.nan)
        self._flow_order = np.argsort(starter, kind="stable").astype(np.int32)
        self._starts = np.searchsorted(starter[self._flow_order], np.arange(num_participants + 1))

    def arrive(self, participant: int) -> Any:
        """Start this participant's flows now. Returns a SimPy event that fires when its wait is over, extra_s included."""
        if not 0 <= participant < self.num_participants:
            raise InputError(f"participant {participant} is outside 0..{self.num_participants - 1} of this transfer")
        if self.waits.arrived_P[participant]:
            raise InputError(f"participant {participant} has arrived at this transfer before; each arrives once")
        self.waits.arrived_P[participant] = True
        return self._arrive(self, participant)

    def flows_of(self, participant: int) -> NDArray[np.int32]:
        """The flows that start when `participant` arrives, int32."""
        return self._flow_order[self._starts[participant] : self._starts[participant + 1]]

    @property
    def is_over(self) -> bool:
        """Every participant has arrived and the end of every flow is known."""
        return bool(self.waits.arrived_P.all()) and not bool(np.isnan(self.finish_F).any())


def _ids(name: str, values: Any, length: int | None, bound: int | None) -> NDArray[np.int32]:
    ids = np.ascontiguousarray(values, dtype=np.int32)
    if ids.ndim != 1 or (length is not None and len(ids) != length):
        raise InputError(f"{name} has shape {ids.shape}, expected {'one dimension' if length is None else (length,)}")
    largest = np.iinfo(np.int32).max if bound is None else bound - 1
    wrong = ids[(ids < 0) | (ids > largest)]
    if len(wrong):
        raise InputError(f"{name} {wrong[0]} is outside 0..{largest}")
    return ids


def _wait_offsets(values: Any, num_participants: int, num_waits: int) -> NDArray[np.int64]:
    offsets = np.ascontiguousarray(values, dtype=np.int64)
    good = offsets.shape == (num_participants + 1,) and offsets[0] == 0 and offsets[-1] == num_waits
    if not good or (np.diff(offsets) < 0).any():
        raise InputError(f"waits_offsets must rise from 0 to {num_waits} in {num_participants + 1} entries")
    return offsets
