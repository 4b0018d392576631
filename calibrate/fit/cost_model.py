"""The cost model that is fitted: which parameters a form has, the times they give with derivatives, and the robust fit.

time = fixed(nodes or ranks) + protocol(size) + message_s x messages + expert_s x experts + fill x bytes of a copy
       + latency + max(NIC / (nic x rate), scale-up / (scale_up x rate), copies / (SMs x rate of one SM)) / reached(size)
Parameters are logarithms, so none is negative. Array letters: M measurement, P parameter, K knot of a curve.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calibrate.fit.loads import Loads
from calibrate.fit.robust import minimise

Floats = NDArray[np.float64]
Against = Literal["nodes", "ranks"]
Size = Literal["message_bytes", "rank_bytes", "ranks"]
SCALE = 0.05  # residuals (in log) above this get less weight
_REACHED_RIDGE, _REACHED_BEND, _FIXED_RIDGE, _PROTOCOL_RIDGE = 0.002, 0.02, 0.03, 0.003  # small against a few percent
_FIRST = {  # start, least and most of each kind of parameter; seconds and bytes/s
    "nic": (0.85, 0.02, 1.0),
    "scale_up": (0.75, 0.02, 1.0),
    "message": (1e-7, 1e-10, 1e-3),
    "fill": (1e-10, 1e-13, 1e-7),
    "expert": (1e-8, 1e-12, 1e-5),
    "fixed": (math.nan, 1e-8, 10.0),
    "protocol": (math.nan, 1e-10, 10.0),
    "sm": (15e9, 1e6, 1e12),
    "reached": (0.98, 1e-4, 1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How complex the costs are: what the fixed cost grows with, which size the curves are read at, octaves between knots.

    `protocol`, `reached`: 0 for no such curve. `fill`, `expert`: whether a copy's bytes cost time once,
    as a pipeline's first chunk, and each expert its signal.
    """

    against: Against
    size: Size
    protocol: float = 0.0
    reached: float = 0.0
    message: bool = False
    fill: bool = False
    expert: bool = False

    def knots(self, loads: Loads, octaves: float) -> tuple[float, ...]:
        """log2 of a curve's knots over those rows; none where their sizes lie closer than one step."""
        if octaves == 0.0 or not len(loads.time_M):
            return ()
        log2_M = np.log2(self.size_of(loads))
        low, high = math.floor(log2_M.min()), math.ceil(log2_M.max())
        steps = round((high - low) / octaves)
        return tuple(float(x) for x in np.linspace(low, high, steps + 1)) if steps >= 1 else ()

    def size_of(self, loads: Loads) -> Floats:
        """Bytes or ranks that curves are read at [M]."""
        if self.size == "ranks":
            return loads.ranks_M
        return loads.message_bytes_M if self.size == "message_bytes" else loads.rank_bytes_M

    def count_of(self, loads: Loads) -> Floats:
        """Nodes or ranks that the fixed cost is read at [M]."""
        return loads.ranks_M if self.against == "ranks" else loads.nodes_M


@dataclass(frozen=True, slots=True)
class Layout:
    """Which parameter is which: names in order; counts of the fixed cost and knots of both curves by operation."""

    form: Form
    names: tuple[str, ...]
    counts: tuple[tuple[float, ...], tuple[float, ...]]
    protocol: tuple[tuple[float, ...], tuple[float, ...]]
    reached: tuple[tuple[float, ...], tuple[float, ...]]

    @classmethod
    def of(cls, form: Form, loads: Loads, nic: float | None) -> "Layout":
        """The parameters that rows can tell under a form; `nic` is not one where it is given."""
        names = ["nic"] if loads.across_M.any() and nic is None else []
        names += ["scale_up", *(["message"] if form.message else [])]
        counts, protocol, reached = [], [], []
        for side in (0, 1):
            part = loads.part(loads.combine_M == bool(side))
            counts.append(tuple(float(x) for x in np.unique(form.count_of(part))))
            protocol.append(form.knots(part, form.protocol))
            reached.append(form.knots(part, form.reached))
            names += [f"fixed{side}.{count:g}" for count in counts[-1]]
            names += [f"fill{side}"] if form.fill and len(np.unique(part.copy_bytes_M)) > 1 else []
            names += [f"expert{side}"] if form.expert and len(np.unique(part.experts_M)) > 1 else []
            for where, there_M in (("in", ~part.across_M), ("across", part.across_M)):
                names += [f"sm{side}.{where}"] if (part.sms_M[there_M] > 0).any() else []
            names += [f"protocol{side}.{knot:g}" for knot in protocol[-1][1:]]  # at the first it is the fixed cost
            names += [f"reached{side}.{knot:g}" for knot in reached[-1]]
        pairs = [(part[0], part[1]) for part in (counts, protocol, reached)]
        return cls(form, tuple(names), *pairs)

    def index(self, name: str) -> int | None:
        """Where a parameter stands; None where the form has none of that name."""
        return self.names.index(name) if name in self.names else None

    def curve(self, kind: str, side: int, at: tuple[float, ...]) -> slice:
        """Where a curve's parameters stand."""
        first = self.names.index(f"{kind}{side}.{at[0]:g}")
        return slice(first, first + len(at))


def times(theta_P: Floats, layout: Layout, loads: Loads, nic: float | None) -> tuple[Floats, Floats]:
    """Seconds of every row [M] and their derivatives by the parameters [M, P]."""
    M = len(loads.time_M)
    slope_MP = np.zeros((M, len(theta_P)))
    value_P = np.exp(theta_P)
    wire_M, time_M, bound_M = _wire(value_P, layout, loads, nic)
    reached_M, size_M = np.ones(M), np.log2(layout.form.size_of(loads))
    for side in (0, 1):
        mine = np.flatnonzero(loads.combine_M == bool(side))
        if not len(mine):
            continue
        if knots := layout.reached[side]:
            part = layout.curve("reached", side, knots)
            weight_MK = _hat(np.array(knots), size_M[mine], flat=True)
            reached_M[mine] = np.exp(weight_MK @ theta_P[part])
            slope_MP[mine, part] -= weight_MK * (wire_M[mine] / reached_M[mine])[:, None]
        if knots := layout.protocol[side]:
            part = layout.curve("protocol", side, knots[1:])
            weight_MK = _hat(np.array(knots), size_M[mine], flat=True)[:, 1:]
            time_M[mine] += weight_MK @ value_P[part]
            slope_MP[mine, part] += weight_MK * value_P[part]
        if counts := layout.counts[side]:
            part = layout.curve("fixed", side, counts)
            weight_MK = _hat(np.log2(np.array(counts)), np.log2(layout.form.count_of(loads)[mine]), flat=False)
            fixed_M = weight_MK @ value_P[part]
            time_M[mine] += np.maximum(fixed_M, 0.0)
            slope_MP[mine, part] += np.where(fixed_M[:, None] > 0.0, weight_MK * value_P[part], 0.0)
        for name, amount_M in (
            (f"fill{side}", loads.copy_bytes_M),
            (f"expert{side}", loads.experts_M),
            ("message", loads.messages_M),
        ):
            if (index := layout.index(name)) is not None:
                time_M[mine] += value_P[index] * amount_M[mine]
                slope_MP[mine, index] += value_P[index] * amount_M[mine]
    bound = np.flatnonzero(bound_M >= 0)
    slope_MP[bound, bound_M[bound]] -= (wire_M / reached_M)[bound]
    return time_M + wire_M / reached_M, slope_MP


def _wire(value_P: Floats, layout: Layout, loads: Loads, nic: float | None) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Seconds of the slowest link or copy engine [M], what latency adds to them [M], and whose rate it is (-1: none) [M]."""
    wire_M, end_M = np.zeros(len(loads.time_M)), loads.latency_s_M.copy()  # a message's latency is the least there is
    bound_M = np.full(len(wire_M), -1, dtype=np.int64)

    def at_least(seconds_M: Floats, latency_s_M: Floats, index: int | None) -> None:
        later_M = seconds_M + latency_s_M > end_M
        wire_M[later_M], end_M[later_M] = seconds_M[later_M], (seconds_M + latency_s_M)[later_M]
        bound_M[later_M] = -1 if index is None else index

    index = layout.index("nic")
    at_least(loads.nic_s_M / (value_P[index] if index is not None else (nic or 1.0)), loads.nic_latency_s_M, index)
    at_least(
        loads.scale_up_s_M / value_P[layout.names.index("scale_up")],
        loads.scale_up_latency_s_M,
        layout.index("scale_up"),
    )
    for side in (0, 1):
        for where, there_M in (("in", ~loads.across_M), ("across", loads.across_M)):
            if (index := layout.index(f"sm{side}.{where}")) is not None:
                with_M = there_M & (loads.combine_M == bool(side)) & (loads.sms_M > 0)
                engine_s_M = loads.engine_bytes_M / (np.maximum(loads.sms_M, 1.0) * value_P[index])
                at_least(np.where(with_M, engine_s_M, 0.0), np.where(with_M, loads.engine_latency_s_M, 0.0), index)
    return wire_M, end_M - wire_M, bound_M


def _hat(at_K: Floats, x_M: Floats, *, flat: bool) -> Floats:
    """Weights of linear interpolation between knots [M, K]; beyond them flat, or along the end segment."""
    weight_MK = np.zeros((len(x_M), len(at_K)))
    if len(at_K) == 1:
        weight_MK[:] = 1.0
        return weight_MK
    x = np.clip(x_M, at_K[0], at_K[-1]) if flat else x_M
    left = np.clip(np.searchsorted(at_K, x, side="right") - 1, 0, len(at_K) - 2)
    share = (x - at_K[left]) / (at_K[left + 1] - at_K[left])
    row = np.arange(len(x_M))
    weight_MK[row, left], weight_MK[row, left + 1] = 1.0 - share, share
    return weight_MK


def solve(loads: Loads, layout: Layout, nic: float | None) -> Floats:
    """The parameters [P] of least robust error of log(predicted / measured), rounded so that fits are reproducible."""
    fastest = float(loads.time_M.min())
    starts = {"fixed": 0.7 * fastest, "protocol": 0.1 * fastest}
    bounds = []
    for name in layout.names:
        kind = name.split(".")[0].rstrip("01")
        first, least, most = _FIRST[kind]
        bounds.append((min(max(starts.get(kind, first), least * 1.01), most * 0.99), least, most))
    start, low, high = np.log(np.array(bounds)).T
    quiet = _penalty(layout, math.sqrt(len(loads.time_M)))
    protocol = np.array([i for i, name in enumerate(layout.names) if name.startswith("protocol")], dtype=np.int64)
    strength = math.sqrt(len(loads.time_M)) * _PROTOCOL_RIDGE / fastest

    def residual(theta: Floats) -> tuple[Floats, Floats]:
        predicted_M, slope_MP = times(theta, layout, loads, nic)
        return np.log(predicted_M / loads.time_M), slope_MP / predicted_M[:, None]

    def penalty(theta: Floats) -> tuple[Floats, Floats]:
        ridge = np.zeros((len(protocol), len(theta)))
        ridge[np.arange(len(protocol)), protocol] = strength * np.exp(theta[protocol])
        values = np.concatenate([quiet @ theta, strength * np.exp(theta[protocol])])
        return values, np.concatenate([quiet, ridge])

    rounded: Floats = np.round(minimise(residual, penalty, start, low, high, SCALE), 5)
    return rounded


def _penalty(layout: Layout, weight: float) -> Floats:
    """Rows of a linear penalty on the parameters: reached near 1 and without bends, fixed costs near each other."""
    rows = []
    eye = np.eye(len(layout.names))
    for side in (0, 1):
        if knots := layout.reached[side]:
            part = eye[layout.curve("reached", side, knots)]
            rows += [weight * _REACHED_RIDGE * part, weight * _REACHED_BEND * np.diff(part, 2, axis=0)]
        if counts := layout.counts[side]:
            rows.append(weight * _FIXED_RIDGE * np.diff(eye[layout.curve("fixed", side, counts)], axis=0))
    return np.concatenate(rows) if rows else np.zeros((0, len(layout.names)))
