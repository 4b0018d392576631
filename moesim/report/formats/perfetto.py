"""timeline.pftrace: what every rank did when, for the Perfetto viewer.

One process per rank with a compute and a communication track, an arrow from each dispatch to the experts it feeds, and
counter tracks for link use. Times are whole nanoseconds since the first simulated step began.
"""

from typing import Any

import numpy as np
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    Trace,
    TracePacket,
    TrackDescriptor,
    TrackEvent,
)

from moesim.report.drawn_spans import STREAMS, DrawnSpan, arrows, drawn_spans, lanes, nanoseconds, rank_name
from moesim.report.summary import as_comparison, summarise
from moesim.result import Comparison, SimulationResult, Tables

_SEQUENCE = 1  # one writer: Perfetto wants every packet to name the sequence it belongs to
_RANKS_UUID, _TRACKS_UUID, _LINKS_UUID = 1 << 32, 1 << 40, 1 << 48  # three ranges that cannot meet


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
    tracks = lanes(tables.spans)
    _describe_ranks(trace, tables, tracks)
    ends = arrows(tables.spans)
    slices = drawn_spans(tables.spans, layer_index)
    for key, members in tracks:
        for span in members:
            _add_slice(trace, slices[span], _track_uuid(key), ends.get(span))
    _add_counters(trace, tables)
    data: bytes = trace.SerializeToString(deterministic=True)
    return data


def _track_uuid(key: tuple[int, int, int]) -> int:
    rank, stream, lane = key
    return _TRACKS_UUID + (lane << 33) + rank * len(STREAMS) + stream


def _describe_ranks(trace: Any, tables: Tables, tracks: list[tuple[tuple[int, int, int], list[int]]]) -> None:
    known: set[int] = set()  # membership only, never iterated
    for key, _ in tracks:
        rank, stream, lane = key
        if rank not in known:
            known.add(rank)
            process = trace.packet.add(trusted_packet_sequence_id=_SEQUENCE).track_descriptor
            process.uuid = _RANKS_UUID + rank
            process.process.pid = rank + 1  # 0 is the idle process to Perfetto
            process.process.process_name = rank_name(tables, rank)
            process.child_ordering = TrackDescriptor.EXPLICIT
        track = trace.packet.add(trusted_packet_sequence_id=_SEQUENCE).track_descriptor
        track.uuid, track.parent_uuid = _track_uuid(key), _RANKS_UUID + rank
        track.name = STREAMS[stream] if lane == 0 else f"{STREAMS[stream]} {lane + 1}"
        track.sibling_order_rank = stream * 1000 + lane


def _add_slice(trace: Any, span: DrawnSpan, uuid: int, arrow: tuple[str, int] | None) -> None:
    begin = trace.packet.add(timestamp=span.start, trusted_packet_sequence_id=_SEQUENCE).track_event
    begin.type, begin.track_uuid, begin.name = TrackEvent.TYPE_SLICE_BEGIN, uuid, span.name
    begin.categories.append(span.phase)
    begin.debug_annotations.add(name="step", int_value=span.step)
    if span.ordinal >= 0:
        begin.debug_annotations.add(name="layer", int_value=span.layer)
        begin.debug_annotations.add(name="moe_ordinal", int_value=span.ordinal)
    if arrow is not None:
        getattr(begin, arrow[0]).append(arrow[1])
    finish = trace.packet.add(timestamp=span.end, trusted_packet_sequence_id=_SEQUENCE).track_event
    finish.type, finish.track_uuid = TrackEvent.TYPE_SLICE_END, uuid


def _add_counters(trace: Any, tables: Tables) -> None:
    """One counter track per sampled link, in percent; a value is written where it changes, and 0 at the end."""
    edges = nanoseconds(tables.link_use_time_s)
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
