"""Waits: which participants of a transfer wait for which groups of flows, and when their wait is over.

A group is a set of flows; it ends when the last of them has ended and its latency has passed. A participant's wait is over
when every group it waits for has ended; the fabric tells it so `extra` seconds later, and not before it has arrived.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class Waits(NamedTuple):
    """Counters that kernels lower as flows end. Array letters: F flow, G group, P participant."""

    latency_F: NDArray[np.float64]
    group_F: NDArray[np.int32]
    flows_left_G: NDArray[np.int32]  # flows that have not ended
    end_G: NDArray[np.float64]  # the latest end so far, absolute seconds
    waiter_offsets: NDArray[np.int64]  # [G + 1]
    waiters: NDArray[np.int32]  # participants that wait for each group
    groups_left_P: NDArray[np.int32]
    ready_P: NDArray[np.float64]  # the latest end among its groups so far
    extra_P: NDArray[np.float64]
    arrived_P: NDArray[np.bool_]
    over_P: NDArray[np.int32]  # participants whose wait a kernel found over, in the order found
    over_at_P: NDArray[np.float64]  # when each of `over_P` is told


def new_waits(
    latency_F: NDArray[np.float64],
    group_F: NDArray[np.int32],
    waits_offsets: NDArray[np.int64],
    waits_groups: NDArray[np.int32],
    extra_P: NDArray[np.float64],
    num_groups: int,
) -> Waits:
    """Counters before anything has started; groups without flows have ended already."""
    num_participants = len(extra_P)
    flows_G = np.bincount(group_F, minlength=num_groups).astype(np.int32)
    participant = np.repeat(np.arange(num_participants, dtype=np.int32), np.diff(waits_offsets))
    counts = flows_G[waits_groups] > 0
    waited, participant = waits_groups[counts], participant[counts]
    waiter_offsets = np.zeros(num_groups + 1, np.int64)
    np.cumsum(np.bincount(waited, minlength=num_groups), out=waiter_offsets[1:])
    return Waits(
        latency_F=latency_F,
        group_F=group_F,
        flows_left_G=flows_G,
        end_G=np.full(num_groups, -np.inf),
        waiter_offsets=waiter_offsets,
        waiters=participant[np.argsort(waited, kind="stable")],
        groups_left_P=np.bincount(participant, minlength=num_participants).astype(np.int32),
        ready_P=np.full(num_participants, -np.inf),
        extra_P=extra_P,
        arrived_P=np.zeros(num_participants, np.bool_),
        over_P=np.zeros(num_participants, np.int32),
        over_at_P=np.zeros(num_participants, np.float64),
    )


def join_waits(parts: list[Waits]) -> Waits:
    """The counters of several transfers side by side: flows, groups and participants are numbered on from part to part."""
    joined = {
        name: np.concatenate(columns) for name, columns in zip(Waits._fields, zip(*parts, strict=True), strict=True)
    }
    groups = _numbered_on([len(part.end_G) for part in parts])
    participants = _numbered_on([len(part.extra_P) for part in parts])
    waiters = _numbered_on([len(part.waiters) for part in parts])
    joined["group_F"] = np.concatenate([part.group_F + first for part, first in zip(parts, groups, strict=True)])
    joined["waiters"] = np.concatenate([part.waiters + first for part, first in zip(parts, participants, strict=True)])
    starts = [part.waiter_offsets[:-1] + first for part, first in zip(parts, waiters, strict=True)]
    joined["waiter_offsets"] = np.concatenate([*starts, [len(joined["waiters"])]])
    return Waits(**joined)


def _numbered_on(lengths: list[int]) -> list[np.int32]:
    return [np.int32(first) for first in np.cumsum([0, *lengths[:-1]])]


@njit(cache=True)
def flow_ended(waits, flow, end, over):  # type: ignore[no-untyped-def]
    """Count a flow whose last byte left at `end`; appends to the `over` participants found so far, returns their number."""
    return part_ended(waits, waits.group_F[flow], np.int64(1), end + waits.latency_F[flow], over)


@njit(cache=True)
def part_ended(waits, group, flows, end, over):  # type: ignore[no-untyped-def]
    """Count that `flows` flows of a group have ended by `end`, latency included; returns as `flow_ended`."""
    waits.end_G[group] = max(waits.end_G[group], end)
    waits.flows_left_G[group] -= flows
    if waits.flows_left_G[group] > 0:
        return over
    for at in range(waits.waiter_offsets[group], waits.waiter_offsets[group + 1]):
        participant = waits.waiters[at]
        waits.groups_left_P[participant] -= 1
        waits.ready_P[participant] = max(waits.ready_P[participant], waits.end_G[group])
        if waits.groups_left_P[participant] == 0 and waits.arrived_P[participant]:
            waits.over_P[over] = participant
            waits.over_at_P[over] = waits.ready_P[participant] + waits.extra_P[participant]
            over += 1
    return over
