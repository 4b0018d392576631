"""Perfetto: the timeline of the scenario's steps under the plan, ranks as processes, link use as counters."""

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

from moesim.exporters.export import Check, Export, ExportRequest
from moesim.exporters.timeline import simulated_spans
from moesim.report.formats.perfetto import timeline


def export(request: ExportRequest) -> Export:
    """`out` is one trace (.pftrace), simulated now; it opens at ui.perfetto.dev and in trace_processor."""
    tables, layer_index, notes = simulated_spans(request)
    content = timeline(tables, layer_index)
    return Export(
        files={request.out.name: content},
        launch_flags=(f"https://ui.perfetto.dev: open {request.out}",),
        checks=_checks(content),
        notes=notes,
    )


def _checks(content: bytes) -> tuple[Check, ...]:
    trace = Trace()
    trace.ParseFromString(content)
    tracks = {packet.track_descriptor.uuid for packet in trace.packet if packet.HasField("track_descriptor")}
    last: dict[int, int] = {}
    depth: dict[int, int] = {}
    in_order = known = True
    for packet in trace.packet:
        if not packet.HasField("track_event"):
            continue
        event = packet.track_event
        known = known and event.track_uuid in tracks
        in_order = in_order and last.get(event.track_uuid, 0) <= packet.timestamp
        last[event.track_uuid] = packet.timestamp
        step = {event.TYPE_SLICE_BEGIN: 1, event.TYPE_SLICE_END: -1}.get(event.type, 0)
        depth[event.track_uuid] = depth.get(event.track_uuid, 0) + step
    return (
        Check("every event lies on a described track", known),
        Check("events of a track are in order", in_order),
        Check("every slice that begins ends", not any(depth.values())),
        Check("every packet names its sequence", all(packet.trusted_packet_sequence_id for packet in trace.packet)),
    )
