"""The timeline reads back with Perfetto's own messages."""

from collections import Counter, defaultdict
from typing import Any

import numpy as np
from hypothesis import given
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from moesim.report.formats.perfetto import render, timeline
from moesim.result import PHASES, SimulationResult, Spans, Tables
from tests.strategies.result import make_comparison, make_result, results


def read(data: bytes) -> tuple[dict[int, Any], dict[int, list[Any]]]:
    """Track descriptors by uuid, and every track's event packets in the order of the file."""
    trace = Trace()
    trace.ParseFromString(data)
    tracks = {p.track_descriptor.uuid: p.track_descriptor for p in trace.packet if p.HasField("track_descriptor")}
    events: dict[int, list[Any]] = defaultdict(list)
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id == 1
        if packet.HasField("track_event"):
            events[packet.track_event.track_uuid].append(packet)
    return tracks, events


def slices(
    tracks: dict[int, Any], events: dict[int, list[Any]]
) -> list[tuple[int, str, str, int, int, dict[str, int]]]:
    """(rank, stream, name, start, end, arguments) of every slice; a track's slices must not overlap."""
    found = []
    for uuid, packets in events.items():
        if tracks[uuid].HasField("counter"):
            continue
        rank = tracks[tracks[uuid].parent_uuid].process.pid - 1
        assert [p.timestamp for p in packets] == sorted(p.timestamp for p in packets)
        for begin, end in zip(packets[::2], packets[1::2], strict=True):
            assert (
                begin.track_event.type,
                end.track_event.type,
            ) == (TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END)
            arguments = {item.name: item.int_value for item in begin.track_event.debug_annotations}
            times = (begin.timestamp, end.timestamp)
            found.append((rank, tracks[uuid].name, begin.track_event.name, *times, arguments))
    return found


@given(results())
def test_every_span_is_a_slice_at_its_time(result: SimulationResult) -> None:
    """One slice a span, on its rank, with its nanoseconds, its step and its layer."""
    assert result.tables is not None
    spans = result.tables.spans
    expected = Counter(
        (
            int(spans.rank[v]),
            PHASES[spans.phase[v]],
            round(float(spans.start_s[v]) * 1e9),
            round(float(spans.end_s[v]) * 1e9),
            int(spans.step[v]),
            int(spans.layer[v]),
        )
        for v in range(spans.rank.size)
    )
    found = slices(*read(render(result)["timeline.pftrace"]))
    actual = Counter(
        (rank, name.split(" ")[0], start, end, arguments["step"], arguments.get("moe_ordinal", -1))
        for rank, _, name, start, end, arguments in found
    )
    assert expected == actual
    assert {"communication", "compute"} == {stream for _, stream, *_ in found}
    assert all(name.split(" L")[1] == str(args["layer"]) for _, _, name, *_, args in found if "layer" in args)


def test_arrows_lead_from_dispatch_to_experts_of_the_same_rank_and_layer() -> None:
    """Each flow id has one source and one target: a dispatch and the experts of its rank, step and layer."""
    result = make_result(nodes=2, local=2, layers=3, steps=2)
    tracks, events = read(render(result)["timeline.pftrace"])
    ends: dict[int, list[tuple[str, int, dict[str, int]]]] = defaultdict(list)
    for uuid, packets in events.items():
        for packet in packets:
            event = packet.track_event
            arguments = {item.name: item.int_value for item in event.debug_annotations}
            for flow in [*event.flow_ids, *event.terminating_flow_ids]:
                ends[flow].append((event.name.split(" ")[0], tracks[uuid].parent_uuid, arguments))
    assert len(ends) == 4 * 3 * 2
    for pair in ends.values():
        source, target = sorted(pair, key=lambda end: end[0])
        assert (source[0], target[0]) == ("dispatch", "experts")
        assert source[1:] == target[1:]


def test_counters_show_link_use_and_end_at_zero() -> None:
    """A counter track a sampled link, in percent, with the value of every bin, back to 0 at the end."""
    result = make_result(nodes=1, local=2, layers=1, steps=1)
    tables = result.tables
    assert tables is not None
    tracks, events = read(render(result)["timeline.pftrace"])
    counters = {track.name: uuid for uuid, track in tracks.items() if track.HasField("counter")}
    assert [f"use of {name}" for name in tables.link_use_names] == list(counters)
    packets = events[counters[f"use of {tables.link_use_names[0]}"]]
    at = {packet.timestamp: packet.track_event.double_counter_value for packet in packets}
    value, seen = 0.0, []
    for edge in np.rint(tables.link_use_time_s[:-1] * 1e9).astype(int).tolist():
        value = at.get(edge, value)
        seen.append(value / 100)
    np.testing.assert_allclose(seen, tables.link_use[0])
    assert packets[-1].track_event.double_counter_value == 0.0


def test_overlapping_spans_of_one_stream_lie_on_two_tracks() -> None:
    """Two computations at the same time (overlapped batches) do not break the nesting of slices."""
    codes = [PHASES.index("experts"), PHASES.index("attention"), PHASES.index("experts")]
    spans = Spans(
        np.zeros(3, np.int32),
        np.zeros(3, np.int32),
        np.zeros(3, np.int16),
        np.array(codes, np.int8),
        np.array([0.0, 1e-6, 4e-6]),
        np.array([2e-6, 3e-6, 5e-6]),
    )
    tracks, events = read(timeline(_only(spans), [7]))
    lanes = Counter(stream for _, stream, *_ in slices(tracks, events))
    assert dict(lanes) == {"compute": 2, "compute 2": 1}


def test_same_result_same_bytes() -> None:
    """The timeline of a comparison is that of its fastest run, byte for byte."""
    comparison = make_comparison(("contiguous", "eplb_global"), nodes=2, local=2, layers=2, steps=1)
    assert render(comparison) == render(comparison.results["eplb_global"])


def _only(spans: Spans) -> Tables:
    """Tables with these spans and nothing else."""
    empty = np.zeros(0)
    return Tables(
        spans=spans,
        load_LD=np.zeros((1, 1)),
        node_of_device_D=np.zeros(1, np.int32),
        link_names=(),
        link_tier=(),
        link_bandwidth=empty,
        link_bytes=empty,
        fanout_nodes_count=np.zeros(2, np.int64),
        link_use=np.zeros((0, 0)),
        link_use_names=(),
        link_use_time_s=empty,
    )
