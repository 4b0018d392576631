"""What measured transfers ask of links and copy engines, from moesim's own collectives: what a fit's parameters divide.

Array letters: M measurement.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibrate.fit.transfers import Setup, bytes_of_copy, machine, measured_s, setup_of, unit_flows
from calibrate.measurement import Measurement
from moesim.calibration import Operation
from moesim.collective.kernel_cost import busiest
from moesim.network.bound import link_busy_s, smallest_latency

Floats = NDArray[np.float64]
_ALLOWANCE = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """Rows of one library [M]: seconds of the fullest NIC and scale-up link at nominal rates, bytes of the fullest copy engine.

    `nic_latency_s_M`, `scale_up_latency_s_M`, `engine_latency_s_M`: the smallest latency of the flows on that link;
    `latency_s_M`: the largest of all flows. `messages_M`, `message_bytes_M`, `rank_bytes_M`: messages of the busiest rank,
    bytes of one, bytes of all;
    `copy_bytes_M`: bytes of one copy; `experts_M`: of the group; `combine_M`: which operation;
    `across_M`: whether there are several nodes.
    """

    nic_s_M: Floats
    scale_up_s_M: Floats
    engine_bytes_M: Floats
    nic_latency_s_M: Floats
    scale_up_latency_s_M: Floats
    engine_latency_s_M: Floats
    latency_s_M: Floats
    messages_M: Floats
    message_bytes_M: Floats
    rank_bytes_M: Floats
    copy_bytes_M: Floats
    experts_M: Floats
    ranks_M: Floats
    nodes_M: Floats
    sms_M: Floats
    across_M: NDArray[np.bool_]
    combine_M: NDArray[np.bool_]
    time_M: Floats

    def part(self, chosen_M: NDArray[np.bool_]) -> "Loads":
        """Some of the rows."""
        return Loads(**{name: getattr(self, name)[chosen_M] for name in self.__dataclass_fields__})


def loads_of(measurements: Sequence[Measurement]) -> Loads:
    """What every row asks of links and engines; raises InputError for a row without what its setup needs."""
    rows = [_loads_of(measurement) for measurement in measurements]
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    names = list(Loads.__dataclass_fields__)
    kinds = [bool if name in ("across_M", "combine_M") else np.float64 for name in names]
    return Loads(**{name: column.astype(kind) for name, column, kind in zip(names, columns, kinds, strict=True)})


def _loads_of(measurement: Measurement) -> tuple[Any, ...]:
    setup, operation, copy = setup_of(measurement), operation_of(measurement), bytes_of_copy(measurement)
    unit = _unit_loads(setup, operation)
    rank_bytes = unit.rank_bytes * copy
    return (
        *(seconds * copy for seconds in unit.busy_s),
        *unit.latency_s,
        unit.largest_latency_s,
        unit.messages,
        max(rank_bytes / max(unit.messages, 1), 1.0),
        max(rank_bytes, 1.0),
        copy,
        setup.experts,
        setup.ranks,
        setup.nodes,
        measurement.params.get("sms") or 0,
        machine(setup.hardware, setup.nodes).num_nodes > 1,
        operation == "combine",
        measured_s(measurement),
    )


class _UnitLoads(NamedTuple):
    """What copies of one byte ask: load of the fullest NIC, scale-up link and engine, latency there, messages, bytes."""

    busy_s: tuple[float, ...]
    latency_s: tuple[float, ...]
    largest_latency_s: float
    messages: int
    rank_bytes: float


@functools.lru_cache(maxsize=65_536)
def _unit_loads(setup: Setup, operation: Operation) -> _UnitLoads:
    cluster, flows = machine(setup.hardware, setup.nodes), unit_flows(setup, operation, True)
    bandwidth = np.array([link.bandwidth_bytes_per_s for link in cluster.links])
    tier = np.array([link.tier for link in cluster.links])
    num_engines = 4 * cluster.num_devices  # in and out, dispatch and combine
    rates = np.concatenate([bandwidth, np.ones(num_engines)])
    busy, latency = link_busy_s(flows.paths, flows.bytes_F, rates), smallest_latency(flows, len(rates))
    kind = np.concatenate([np.where(tier == "scale_up", "scale_up", "nic"), np.full(num_engines, "engine")])
    fullest = [_fullest(busy[kind == name], latency[kind == name]) for name in ("nic", "scale_up", "engine")]
    messages, rank_bytes = busiest(flows)
    return _UnitLoads(
        busy_s=tuple(seconds for seconds, _ in fullest),
        latency_s=tuple(latency_s for _, latency_s in fullest),
        largest_latency_s=float(flows.latency_F.max(initial=0.0)),
        messages=messages,
        rank_bytes=rank_bytes,
    )


def _fullest(busy: Floats, latency: Floats) -> tuple[float, float]:
    """Load of the fullest link and the latency on it; zeros where there is no link."""
    if not len(busy):
        return 0.0, 0.0
    first = int(np.argmax(busy))
    return float(busy[first]), float(latency[first])


def beats_links(measurement: Measurement) -> bool:
    """Whether a transfer took far less than its fullest link needs at the nominal rate of the machine that stands for its own.

    A quarter is allowed: the copies are drawn anew, and cards differ. Raises InputError for a row without a setup.
    """
    unit = _unit_loads(setup_of(measurement), operation_of(measurement))
    nic_s, scale_up_s, _ = unit.busy_s
    return measured_s(measurement) * _ALLOWANCE < max(nic_s, scale_up_s) * bytes_of_copy(measurement)


def operation_of(measurement: Measurement) -> Operation:
    """Which operation of a kernel's profile times it: a plain all-to-all is both."""
    return "combine" if measurement.operation == "combine" else "dispatch"
