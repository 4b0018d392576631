"""timeline.pftrace: what every rank did when, for the Perfetto viewer.

One process per rank with a compute and a communication track, an arrow from each dispatch to the experts it feeds, and
counter tracks for link use. Times are whole nanoseconds since the first simulated step began.
"""

import heapq
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    Trace,
    TracePacket,
    TrackDescriptor,
    TrackEvent,
)

from moesim.report.summary import as_comparison, summarise
from moesim.result import PHASES, Comparison, SimulationResult, Spans, Tables

STREAMS = ("compute", "communication")
_COMMUNICATION = ("dispatch", "combine")
_SEQUENCE = 1  # one writer: Perfetto wants every packet to name the sequence it belongs to
_RANKS_UUID, _TRACKS_UUID, _LINKS_UUID = 1 << 32, 1 << 40, 1 << 48  # three ranges that cannot meet


@dataclass(frozen=True, slots=True)
class _Slice:
    """One span as drawn: times in ns; `layer` the model layer index of MoE ordinal `ordinal`."""

    phase: str
    step: int
    ordinal: int
    layer: int
    start: int
    end: int


def render(subject: Comparison | SimulationResult) -> dict[str, bytes]:
    """The timeline of the fastest run; nothing where it kept no tables."""
    comparison = as_comparison(subject)
    result = comparison.results.get(summarise(comparison).best or "")
    if result is None or result.tables is None:
        return {}
    return {"timeline.pftrace": timeline(result.tables, [layer.layer for layer in result.layers])}


def timeline(tables: Tables, layer_index: list[int]) -> bytes:
    """Perfetto protobuf bytes; `layer_index` turns a MoE ordinal into the model layer index that names show."""
    trace = Trace()
    lanes = _lanes(tables.spans)
    _describe_ranks(trace, tables, lanes)
    arrows = _arrows(tables.spans)
    slices = _slices(tables.spans, layer_index)
    for key, members in lanes:
        for span in members:
            _add_slice(trace, slices[span], _track_uuid(key), arrows.get(span))
    _add_counters(trace, tables)
    data: bytes = trace.SerializeToString(deterministic=True)
    return data


def _nanoseconds(times_s: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(times_s * 1e9).astype(np.int64)


def _stream_of_phase() -> NDArray[np.int64]:
    return np.array([STREAMS.index("communication" if name in _COMMUNICATION else "compute") for name in PHASES])


def _lanes(spans: Spans) -> list[tuple[tuple[int, int, int], list[int]]]:
    """Spans by (rank, stream, lane), in time order; spans of one stream that overlap go to further lanes.

    Perfetto nests slices of one track, so two that overlap without nesting must lie on two tracks.
    """
    start, end = _nanoseconds(spans.start_s), _nanoseconds(spans.end_s)
    stream = _stream_of_phase()[spans.phase]
    order = np.lexsort((end, start, stream, spans.rank))
    lanes: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    free: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)  # (end of its last span, lane)
    for span in order.tolist():
        track = (int(spans.rank[span]), int(stream[span]))
        ends = free[track]
        lane = heapq.heappop(ends)[1] if ends and ends[0][0] <= start[span] else len(ends)
        heapq.heappush(ends, (int(end[span]), lane))
        lanes[(*track, lane)].append(span)
    return sorted(lanes.items())


def _track_uuid(key: tuple[int, int, int]) -> int:
    rank, stream, lane = key
    return _TRACKS_UUID + (lane << 33) + rank * len(STREAMS) + stream


def _describe_ranks(trace: Any, tables: Tables, lanes: list[tuple[tuple[int, int, int], list[int]]]) -> None:
    known: set[int] = set()  # membership only, never iterated
    for key, _ in lanes:
        rank, stream, lane = key
        if rank not in known:
            known.add(rank)
            process = trace.packet.add(trusted_packet_sequence_id=_SEQUENCE).track_descriptor
            process.uuid = _RANKS_UUID + rank
            process.process.pid = rank + 1  # 0 is the idle process to Perfetto
            process.process.process_name = _rank_name(tables, rank)
            process.child_ordering = TrackDescriptor.EXPLICIT
        track = trace.packet.add(trusted_packet_sequence_id=_SEQUENCE).track_descriptor
        track.uuid, track.parent_uuid = _track_uuid(key), _RANKS_UUID + rank
        track.name = STREAMS[stream] if lane == 0 else f"{STREAMS[stream]} {lane + 1}"
        track.sibling_order_rank = stream * 1000 + lane


def _rank_name(tables: Tables, rank: int) -> str:
    known = rank < tables.node_of_device_D.size
    return f"rank {rank} (node {int(tables.node_of_device_D[rank])})" if known else f"rank {rank}"


def _arrows(spans: Spans) -> dict[int, tuple[str, int]]:
    """For each span at an end of an arrow: which list of flow ids it goes to, and the id.

    A dispatch of a (rank, step, layer) feeds the first experts span, not yet fed, that starts when it has ended: experts
    that run beside it (a shared one) wait for nothing.
    """
    ends: dict[tuple[int, int, int], tuple[list[int], list[int]]] = {}
    dispatch, experts = PHASES.index("dispatch"), PHASES.index("experts")
    chosen = np.flatnonzero((spans.layer >= 0) & ((spans.phase == dispatch) | (spans.phase == experts)))
    for span in chosen[np.argsort(spans.start_s[chosen], kind="stable")].tolist():
        key = (int(spans.rank[span]), int(spans.step[span]), int(spans.layer[span]))
        ends.setdefault(key, ([], []))[int(spans.phase[span] == experts)].append(span)
    arrows: dict[int, tuple[str, int]] = {}
    pairs = [pair for key in sorted(ends) for pair in _fed(spans, *ends[key])]
    for flow, (source, target) in enumerate(pairs, start=1):
        arrows[source], arrows[target] = ("flow_ids", flow), ("terminating_flow_ids", flow)
    return arrows


def _fed(spans: Spans, dispatches: list[int], experts: list[int]) -> list[tuple[int, int]]:
    """Dispatches, by their ends, each with the experts span it feeds; `experts` by their starts."""
    pairs, waiting = [], sorted(dispatches, key=lambda span: float(spans.end_s[span]))
    for target in experts:
        if waiting and spans.end_s[waiting[0]] <= spans.start_s[target]:
            pairs.append((waiting.pop(0), target))
    return pairs


def _slices(spans: Spans, layer_index: list[int]) -> list[_Slice]:
    """Every span in plain numbers, which protobuf takes much faster than numpy's."""
    columns = (
        spans.phase.tolist(),
        spans.step.tolist(),
        spans.layer.tolist(),
        _nanoseconds(spans.start_s).tolist(),
        _nanoseconds(spans.end_s).tolist(),
    )
    known = dict(enumerate(layer_index))
    return [
        _Slice(PHASES[phase], step, ordinal, known.get(ordinal, ordinal), start, end)
        for phase, step, ordinal, start, end in zip(*columns, strict=True)
    ]


def _add_slice(trace: Any, span: _Slice, uuid: int, arrow: tuple[str, int] | None) -> None:
    begin = trace.packet.add(timestamp=span.start, trusted_packet_sequence_id=_SEQUENCE).track_event
    begin.type, begin.track_uuid, begin.name = TrackEvent.TYPE_SLICE_BEGIN, uuid, span.phase
    begin.categories.append(span.phase)
    begin.debug_annotations.add(name="step", int_value=span.step)
    if span.ordinal >= 0:
        begin.name = f"{span.phase} L{span.layer}"
        begin.debug_annotations.add(name="layer", int_value=span.layer)
        begin.debug_annotations.add(name="moe_ordinal", int_value=span.ordinal)
    if arrow is not None:
        getattr(begin, arrow[0]).append(arrow[1])
    finish = trace.packet.add(timestamp=span.end, trusted_packet_sequence_id=_SEQUENCE).track_event
    finish.type, finish.track_uuid = TrackEvent.TYPE_SLICE_END, uuid


def _add_counters(trace: Any, tables: Tables) -> None:
    """One counter track per sampled link, in percent; a value is written where it changes, and 0 at the end."""
    edges = _nanoseconds(tables.link_use_time_s)
    for row, name in enumerate(tables.link_use_names):
        uuid = _LINKS_UUID + row
        track = trace.packet.add(trusted_packet_sequence_id=_SEQUENCE).track_descriptor
        track.uuid, track.name = uuid, f"use of {name}"
        track.counter.unit_name = "%"
        values = np.append(tables.link_use[row] * 100.0, 0.0)[: edges.size]
        changed = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)
        for index in changed.tolist():
            packet: TracePacket = trace.packet.add(timestamp=int(edges[index]), trusted_packet_sequence_id=_SEQUENCE)
            packet.track_event.type = TrackEvent.TYPE_COUNTER
            packet.track_event.track_uuid = uuid
            packet.track_event.double_counter_value = float(values[index])
