"""Fit a KernelProfile: what one communication library costs, by the model of docs/MODEL.md 2, robustly in log time.

time = fixed(nodes or ranks) + message_s x messages + latency
       + max(NIC bytes / (nic x rate), scale-up bytes / (scale_up x rate), copies / (SMs x rate of one SM)) / reached(size)
Loads of links come from moesim's own collectives (transfers.py), so the same formula is what a simulation charges.
Array letters: M measurement.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from calibrate.fit.errors import digest, fit_error
from calibrate.fit.transfers import (
    ALGORITHMS,
    bytes_of_copy,
    machine,
    measured_s,
    scaled,
    setup_of,
    unit_flows,
)
from calibrate.measurement import Measurement
from moesim.calibration import KernelProfile, Operation
from moesim.calibration_curves import FitError
from moesim.collective.kernel_cost import busiest
from moesim.network.bound import link_busy_s

Floats = NDArray[np.float64]
_PLAIN = ("nccl", "rccl", "gloo")  # libraries whose cost is counted per message
_COUNTED_BY_RANKS = ("deepep-ll", "pplx", "trtllm-two-sided", "trtllm-one-sided")
_FOLDS = 5
_SIZES_FOR_A_CURVE = 14  # below, a curve could not be told from a constant rate
_SIZES_FOR_FINE_KNOTS = 16
_REACHED_RIDGE, _REACHED_BEND, _FIXED_RIDGE = 0.005, 0.03, 0.03  # small against residuals of a few percent
_SCALE = 0.08  # residuals (in log) above this get less weight


_Against = Literal["nodes", "ranks"]
_Size = Literal["message_bytes", "rank_bytes"]
_AGAINST: tuple[_Against, ...] = ("nodes", "ranks")
_SIZES: tuple[_Size, ...] = ("message_bytes", "rank_bytes")


class CostsAt(NamedTuple):
    """What the fixed cost grows with, and which size the rate reached depends on."""

    against: _Against
    size: _Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """Rows of one library [M]: seconds of the fullest NIC and scale-up link at nominal rates, bytes of the fullest copy engine.

    `message_bytes_M`, `rank_bytes_M`: bytes a message of the busiest rank, and all its bytes; `size_M`, `count_M`: the size
    and the count that costs are read at. `combine_M`: which operation.
    """

    nic_s_M: Floats
    scale_up_s_M: Floats
    engine_bytes_M: Floats
    latency_s_M: Floats
    messages_M: Floats
    message_bytes_M: Floats
    rank_bytes_M: Floats
    ranks_M: Floats
    nodes_M: Floats
    size_M: Floats
    count_M: Floats
    sms_M: Floats
    across_M: NDArray[np.bool_]
    combine_M: NDArray[np.bool_]
    time_M: Floats

    def part(self, chosen_M: NDArray[np.bool_]) -> "Loads":
        """Some of the rows."""
        return Loads(**{name: getattr(self, name)[chosen_M] for name in self.__dataclass_fields__})

    @property
    def fastest_s_M(self) -> Floats:
        """Seconds no transfer of these bytes can beat at nominal link rates."""
        return np.maximum(self.nic_s_M, self.scale_up_s_M)


def loads_of(measurements: Sequence[Measurement], costs_at: "CostsAt") -> Loads:
    """What every row asks of links and engines; raises InputError for a row without what its setup needs."""
    rows: list[tuple[Any, ...]] = []
    for measurement in measurements:
        setup, operation = setup_of(measurement), operation_of(measurement)
        cluster = machine(setup.hardware, setup.nodes)
        flows = scaled(unit_flows(setup, operation, True), bytes_of_copy(measurement))
        bandwidth = np.array([link.bandwidth_bytes_per_s for link in cluster.links])
        tier = np.array([link.tier for link in cluster.links])
        num_engines = 4 * cluster.num_devices  # in and out, dispatch and combine
        busy = link_busy_s(flows.paths, flows.bytes_F, np.concatenate([bandwidth, np.ones(num_engines)]))
        links, engines = busy[: len(bandwidth)], busy[len(bandwidth) :]
        inside = tier == "scale_up"
        messages, rank_bytes = busiest(flows)
        message_bytes = rank_bytes / max(messages, 1)
        rows.append(
            (
                links[~inside].max(initial=0.0),
                links[inside].max(initial=0.0),
                engines.max(initial=0.0),
                float(flows.latency_F.max(initial=0.0)),
                messages,
                max(message_bytes, 1.0),
                max(rank_bytes, 1.0),
                setup.ranks,
                setup.nodes,
                max(message_bytes if costs_at.size == "message_bytes" else rank_bytes, 1.0),
                setup.ranks if costs_at.against == "ranks" else setup.nodes,
                measurement.params.get("sms") or 0,
                cluster.num_nodes > 1,
                operation == "combine",
                measured_s(measurement),
            )
        )
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    names = list(Loads.__dataclass_fields__)
    kinds = [bool if name in ("across_M", "combine_M") else np.float64 for name in names]
    return Loads(**{name: column.astype(kind) for name, column, kind in zip(names, columns, kinds, strict=True)})


def operation_of(measurement: Measurement) -> Operation:
    """Which operation of a kernel's profile times it: a plain all-to-all is both."""
    return "combine" if measurement.operation == "combine" else "dispatch"


def candidates(library: str) -> tuple[CostsAt, ...]:
    """What is tried for a library; plain all-to-alls differ by release in what their costs follow."""
    if library in _PLAIN:
        return tuple(CostsAt(against, size) for against in _AGAINST for size in _SIZES)
    return (CostsAt("ranks" if library in _COUNTED_BY_RANKS else "nodes", "rank_bytes"),)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which parameter is which: names in order, and the knots of the rate reached (log2 bytes) of each operation."""

    names: tuple[str, ...]
    counts: tuple[tuple[float, ...], tuple[float, ...]]
    knots: tuple[tuple[float, ...], tuple[float, ...]]

    def index(self, name: str) -> int | None:
        return self.names.index(name) if name in self.names else None


def _layout(loads: Loads, library: str, nic: float | None) -> _Layout:
    names: list[str] = []
    if loads.across_M.any() and nic is None:
        names.append("nic")
    names.append("scale_up")
    if library in _PLAIN:
        names.append("message")
    counts, knots = [], []
    for side, mine_M in enumerate((~loads.combine_M, loads.combine_M)):
        part = loads.part(mine_M)
        counts.append(tuple(float(x) for x in np.unique(part.count_M)))
        names += [f"fixed{side}.{count:g}" for count in counts[-1]]
        for where, there_M in (("in", ~part.across_M), ("across", part.across_M)):
            if (part.sms_M[there_M] > 0).any():
                names.append(f"sm{side}.{where}")
        sizes = np.unique(part.size_M)
        knots.append(_knots(sizes) if len(sizes) >= _SIZES_FOR_A_CURVE else ())
        names += [f"reached{side}.{knot:g}" for knot in knots[-1]]
    return _Layout(tuple(names), (counts[0], counts[1]), (knots[0], knots[1]))


def _knots(sizes: Floats) -> tuple[float, ...]:
    low, high = math.floor(math.log2(sizes.min())), math.ceil(math.log2(sizes.max()))
    octaves = 1.0 if len(sizes) >= _SIZES_FOR_FINE_KNOTS else 2.0
    return tuple(float(x) for x in np.linspace(low, high, max(int((high - low) / octaves), 1) + 1))


def _times(theta: Floats, layout: _Layout, loads: Loads, nic: float | None) -> Floats:
    """Seconds of every row under parameters `theta` (logarithms)."""

    def value(name: str, absent: float) -> float:
        index = layout.index(name)
        return absent if index is None else float(np.exp(theta[index]))

    wire_M = np.maximum(
        loads.nic_s_M / value("nic", nic if nic is not None else 1.0), loads.scale_up_s_M / value("scale_up", 1.0)
    )
    time_M = loads.latency_s_M + value("message", 0.0) * loads.messages_M
    for side, mine_M in enumerate((~loads.combine_M, loads.combine_M)):
        for where, there_M in (("in", ~loads.across_M), ("across", loads.across_M)):
            rate = value(f"sm{side}.{where}", 0.0)
            with_M = mine_M & there_M & (loads.sms_M > 0)
            if rate > 0.0:
                wire_M[with_M] = np.maximum(wire_M[with_M], loads.engine_bytes_M[with_M] / (loads.sms_M[with_M] * rate))
        if layout.knots[side]:
            at = np.array(layout.knots[side])
            log_reached = np.array(
                [theta[layout.names.index(f"reached{side}.{knot:g}")] for knot in layout.knots[side]]
            )
            wire_M[mine_M] /= np.exp(np.interp(np.log2(loads.size_M[mine_M]), at, log_reached))
        if layout.counts[side]:
            fixed = np.array([np.exp(theta[layout.names.index(f"fixed{side}.{c:g}")]) for c in layout.counts[side]])
            time_M[mine_M] += _line(np.log2(layout.counts[side]), fixed, np.log2(loads.count_M[mine_M]))
    total: Floats = time_M + wire_M
    return total


def _line(at: Floats, value: Floats, x: Floats) -> Floats:
    """Linear between points; beyond them the end segment goes on, never below zero."""
    if len(at) == 1:
        return np.full(len(x), value[0])
    left = np.clip(np.searchsorted(at, x, side="right") - 1, 0, len(at) - 2)
    slope = (value[left + 1] - value[left]) / (at[left + 1] - at[left])
    return np.maximum(value[left] + slope * (x - at[left]), 0.0)


def _solve(loads: Loads, layout: _Layout, nic: float | None) -> Floats:
    fastest = float(loads.time_M.min())
    start, low, high = [], [], []
    for name in layout.names:
        kind = name.split(".")[0].rstrip("01")
        first, least, most = {
            "nic": (0.85, 0.02, 1.0),
            "scale_up": (0.75, 0.02, 1.0),
            "message": (1e-7, 1e-10, 1e-3),
            "fixed": (0.7 * fastest, 1e-8, 10.0),
            "sm": (15e9, 1e6, 1e12),
            "reached": (1.0, 0.02, 1.0),
        }[kind]
        start.append(math.log(min(max(first, least * 1.01), most * 0.99)))
        low.append(math.log(least))
        high.append(math.log(most))

    def residual(theta: Floats) -> Floats:
        rows: Floats = np.log(_times(theta, layout, loads, nic) / loads.time_M)
        return rows

    weight = math.sqrt(len(loads.time_M))
    reached = [
        np.array([layout.names.index(f"reached{side}.{k:g}") for k in layout.knots[side]], int) for side in (0, 1)
    ]
    fixed = [np.array([layout.names.index(f"fixed{side}.{c:g}") for c in layout.counts[side]], int) for side in (0, 1)]

    def penalised(theta: Floats) -> Floats:
        parts = [residual(theta)]
        for side in (0, 1):
            parts.append(weight * _REACHED_RIDGE * theta[reached[side]])
            parts.append(weight * _REACHED_BEND * np.diff(theta[reached[side]], 2))
            parts.append(weight * _FIXED_RIDGE * np.diff(theta[fixed[side]]))
        return np.concatenate(parts)

    found = least_squares(
        penalised, np.array(start), bounds=(low, high), loss="soft_l1", f_scale=_SCALE, max_nfev=60, x_scale=1.0
    )
    rounded: Floats = np.round(found.x, 5)
    return rounded


def fit_kernel(
    measurements: Sequence[Measurement], library: str, source: str, nic: float | None = None, *, judge: bool = True
) -> tuple[KernelProfile, FitError]:
    """The profile of one library on one accelerator, and its error at sizes that were not fitted.

    `nic`: the fraction of the NIC rate where these rows cannot tell it (another library's rows can). Without `judge` the
    error is of the points fitted, where there is no choice to make.
    """
    all_loads = loads_of(measurements, candidates(library)[0])
    tried = []
    for costs_at in candidates(library):
        loads = dataclasses.replace(
            all_loads,
            size_M=all_loads.message_bytes_M if costs_at.size == "message_bytes" else all_loads.rank_bytes_M,
            count_M=all_loads.ranks_M if costs_at.against == "ranks" else all_loads.nodes_M,
        )
        judged = judge or len(candidates(library)) > 1
        tried.append((_held_out(loads, library, nic, folds=_FOLDS if judged else 1), costs_at, loads))
    error, costs_at, loads = min(tried, key=lambda one: one[0].median + 0.25 * one[0].p90)
    layout = _layout(loads, library, nic)
    theta = _solve(loads, layout, nic)
    ids = digest([measurement.id for measurement in measurements])
    return _profile(theta, layout, loads, library, costs_at, source, nic, error, ids), error


def _held_out(loads: Loads, library: str, nic: float | None, folds: int) -> FitError:
    """Error at sizes that were not fitted; of the points fitted where there is one size only."""
    sizes, size_M = np.unique(np.round(np.log2(loads.rank_bytes_M), 3), return_inverse=True)
    folds = min(folds, len(sizes))
    if folds < 2:
        layout = _layout(loads, library, nic)
        fitted = _times(_solve(loads, layout, nic), layout, loads, nic)
        return fit_error(fitted, loads.time_M, "of the points fitted")
    predicted_M = np.zeros(len(loads.time_M))
    for fold in range(folds):
        out_M = size_M % folds == fold
        layout = _layout(loads.part(~out_M), library, nic)
        predicted_M[out_M] = _times(_solve(loads.part(~out_M), layout, nic), layout, loads.part(out_M), nic)
    return fit_error(predicted_M, loads.time_M, f"held out: sizes not fitted, {folds} folds")


def _profile(
    theta: Floats,
    layout: _Layout,
    loads: Loads,
    library: str,
    costs_at: CostsAt,
    source: str,
    nic: float | None,
    error: FitError,
    ids: tuple[str, ...],
) -> KernelProfile:
    def value(name: str) -> float | None:
        index = layout.index(name)
        return None if index is None else float(f"{np.exp(theta[index]):.6g}")

    def figure(number: float | None) -> dict[str, Any] | None:
        if number is None:
            return None
        return {"value": number, "kind": "measured", "source": source, "fit_error": error.median, "measurements": ids}

    def operation(side: int) -> dict[str, Any]:
        mine = loads.part(loads.combine_M if side else ~loads.combine_M)
        curve = {"kind": "measured", "source": source, "measurements": ids, "fit_error": error.median}
        costs: dict[str, Any] = {
            "fixed_s": {
                "against": costs_at.against,
                "at": layout.counts[side],
                "value": [value(f"fixed{side}.{count:g}") for count in layout.counts[side]],
                **curve,
            },
            "sm_rate_in_node": figure(value(f"sm{side}.in")),
            "sm_rate_across_nodes": figure(value(f"sm{side}.across")),
            "message_s": figure(value("message")),
            "error": error.model_dump(),
        }
        if layout.knots[side]:
            costs["reached"] = {
                "against": costs_at.size,
                "at": [2.0**knot for knot in layout.knots[side]],
                "value": [value(f"reached{side}.{knot:g}") for knot in layout.knots[side]],
                "beyond": "flat",
                "scale": "log",
                **curve,
            }
        return costs if len(mine.time_M) else {}

    dispatch, combine = operation(0), operation(1)
    sms = loads.sms_M[loads.sms_M > 0]
    return KernelProfile.model_validate(
        {
            "algorithm": ALGORITHMS[library],
            "sms": int(sms.max()) if len(sms) else None,
            "chunk_tokens": {
                "value": 0.0,
                "kind": "derived",
                "source": "the fitted fixed cost holds the pipeline's fill",
            },
            "dispatch": dispatch or combine,
            "combine": combine or dispatch,
            "nic": figure(value("nic") if nic is None else nic) if loads.across_M.any() else None,
            "scale_up": figure(value("scale_up")),
        }
    )
