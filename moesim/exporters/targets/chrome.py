"""Chrome: the timeline as trace-event JSON, one file per rank, as Holistic Trace Analysis and chrome://tracing read it.

HTA finds a file's rank by searching for `"rank":` and a space, and tells communication by names that begin with nccl.
"""

import json
import math
import re
from typing import Any

from moesim.exporters.export import Check, Export, ExportRequest
from moesim.exporters.timeline import simulated_spans
from moesim.report.drawn_spans import STREAMS, arrows, drawn_spans, lanes, rank_name
from moesim.result import Tables

_KERNEL = {"dispatch": "ncclDevKernel_SendRecv dispatch", "combine": "ncclDevKernel_SendRecv combine"}
_RANK = re.compile(rb'"rank":\s+(\d+)')  # HTA's own search


def export(request: ExportRequest) -> Export:
    """Files PREFIX.rank<r>.json, PREFIX being `out` without .json; option together=true makes `out` one file of all."""
    prefix = request.out.name.removesuffix(".json")
    together = request.switch("together")
    tables, layer_index, notes = simulated_spans(request)
    ranks = _events_by_rank(tables, layer_index)
    if together:
        events = sorted((event for own in ranks.values() for event in own), key=_order)
        files = {f"{prefix}.json": _content({}, events)}
    else:
        files = {
            f"{prefix}.rank{rank}.json": _content(_distributed(rank, len(ranks)), own) for rank, own in ranks.items()
        }
    flags = (f"chrome://tracing or https://ui.perfetto.dev: open {request.out.with_name(f'{prefix}.json')}",)
    if not together:
        flags = (f"TraceAnalysis(trace_dir={str(request.out.parent)!r})",)
    return Export(
        files=files,
        launch_flags=flags,
        checks=_checks(files, together),
        notes=(
            *notes,
            "HTA takes every .json and .gz of a folder for a rank's trace: keep these files in one of their own",
        ),
    )


def _distributed(rank: int, ranks: int) -> dict[str, Any]:
    return {"distributedInfo": {"backend": "nccl", "rank": rank, "world_size": ranks}}


def _events_by_rank(tables: Tables, layer_index: list[int]) -> dict[int, list[dict[str, Any]]]:
    """Events of every rank in the order of time; ranks in order."""
    spans = drawn_spans(tables.spans, layer_index)
    ends = arrows(tables.spans)
    found: dict[int, list[dict[str, Any]]] = {}
    for (rank, stream, lane), members in lanes(tables.spans):
        if rank not in found:
            found[rank] = [_named("process_name", rank, 0, rank_name(tables, rank))]
        events, thread = found[rank], stream + lane * len(STREAMS)
        events.append(_named("thread_name", rank, thread, STREAMS[stream] + (f" {lane + 1}" if lane else "")))
        for index in members:
            span, place = spans[index], {"pid": rank, "tid": thread, "ts": spans[index].start / 1e3}
            name = span.name.replace(span.phase, _KERNEL.get(span.phase, span.phase), 1)
            arguments = {"stream": thread, "correlation": index, "step": span.step}
            if span.ordinal >= 0:
                arguments |= {"layer": span.layer, "moe_ordinal": span.ordinal}
            duration = (span.end - span.start) / 1e3
            events.append({"ph": "X", "cat": "kernel", "name": name, **place, "dur": duration, "args": arguments})
            if index in ends:
                way, flow = ends[index]
                part = {"ph": "s"} if way == "flow_ids" else {"ph": "f", "bp": "e"}
                events.append({**part, "cat": "flow", "name": "dispatch to experts", "id": flow, **place})
    return {rank: sorted(events, key=_order) for rank, events in sorted(found.items())}


def _named(kind: str, rank: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": rank, "tid": thread, "args": {"name": name}}


def _order(event: dict[str, Any]) -> tuple[float, int]:
    """Names first, then by time; an arrow's end stands behind the slice it belongs to."""
    return event.get("ts", -1.0), int(event["ph"] in "sf")


def _content(head: dict[str, Any], events: list[dict[str, Any]]) -> bytes:
    parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in {"schemaVersion": 1, **head}.items()]
    lines = ",\n".join(json.dumps(event) for event in events)
    return ("{" + ",\n".join([*parts, '"displayTimeUnit": "ns"', '"traceEvents": [\n' + lines]) + "\n]}\n").encode()


def _checks(files: dict[str, bytes], together: bool) -> tuple[Check, ...]:
    data = {name: json.loads(content) for name, content in files.items()}
    slices = [event for one in data.values() for event in one["traceEvents"] if event["ph"] == "X"]
    found = [int(match[1]) for match in map(_RANK.search, files.values()) if match]
    return (
        Check("numbers are finite and no slice is shorter than 0", all(map(_sound, slices))),
        Check("events are in the order of time", all(_sorted(one["traceEvents"]) for one in data.values())),
        Check("slices of a thread do not overlap", _apart(slices)),
        Check("HTA's search finds each file's own rank", together or found == list(range(len(files)))),
    )


def _sound(event: dict[str, Any]) -> bool:
    return math.isfinite(event["ts"]) and math.isfinite(event["dur"]) and event["dur"] >= 0


def _sorted(events: list[dict[str, Any]]) -> bool:
    times = [event["ts"] for event in events if "ts" in event]
    return times == sorted(times)


def _apart(slices: list[dict[str, Any]]) -> bool:
    """Within half a nanosecond, the place of the last digit."""
    last: dict[tuple[int, int], float] = {}
    for event in slices:
        thread = event["pid"], event["tid"]
        if event["ts"] < last.get(thread, 0.0) - 5e-4:
            return False
        last[thread] = event["ts"] + event["dur"]
    return True
