"""Timelines of a plan read back: the simulated spans, on their ranks, at their times."""

import json
import re
from collections import Counter

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

import moesim
from moesim.result import PHASES
from tests.strategies.scenario import tiny_scenario


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """(scenario, plan, the result of simulating it)."""
    folder = tmp_path_factory.mktemp("timelines")
    scenario = tiny_scenario(folder)
    plan = moesim.plan(scenario, "longest_first")
    path = plan.write(folder / "plan.json")
    return scenario, plan, moesim.simulate({**scenario, "placement": {"plan": str(path)}})


def simulated(result):
    """(rank, phase, start, end) of every span, nanoseconds."""
    spans = result.tables.spans
    columns = (spans.rank, spans.phase, spans.start_s, spans.end_s)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return Counter((rank, PHASES[phase], round(s * 1e9), round(e * 1e9)) for rank, phase, s, e in rows)


def drawn(events):
    """The same of trace events, whose times are microseconds."""
    return Counter(
        (
            event["pid"],
            next(word for word in event["name"].split() if word in PHASES),
            round(event["ts"] * 1e3),
            round((event["ts"] + event["dur"]) * 1e3),
        )
        for event in events
        if event["ph"] == "X"
    )


def test_chrome_files_hold_the_spans_of_their_rank(planned, tmp_path):
    """All files together are the simulation; the rank is found by the search HTA does."""
    scenario, plan, result = planned
    made = moesim.export(plan, "chrome", tmp_path / "t.json", scenario=scenario)
    found = Counter()
    for rank, path in enumerate(made.files):
        text = path.read_text()
        assert f"t.rank{rank}.json" == path.name
        assert rank == int(re.search(r'"rank":\s+(\d+)', text)[1])
        assert {rank} == {event["pid"] for event in json.loads(text)["traceEvents"]}
        found += drawn(json.loads(text)["traceEvents"])
    assert simulated(result) == found


def test_chrome_arrows_lead_from_a_dispatch_to_experts(planned, tmp_path):
    """Each flow has one start and one end, inside slices of those names, in one file of all ranks."""
    scenario, plan, result = planned
    made = moesim.export(plan, "chrome", tmp_path / "t.json", scenario=scenario, options={"together": "true"})
    assert ["t.json"] == [path.name for path in made.files]
    events = json.loads(made.files[0].read_text())["traceEvents"]
    assert simulated(result) == drawn(events)
    begun = {(e["pid"], e["tid"], e["ts"]): e["name"] for e in events if e["ph"] == "X"}
    ends = {}
    for event in events:
        if event["ph"] in "sf":
            ends.setdefault(event["id"], {})[event["ph"]] = begun[event["pid"], event["tid"], event["ts"]]
    assert 16 * 2 * 2 == len(ends)
    assert {
        ("ncclDevKernel_SendRecv dispatch L1", "experts L1"),
        ("ncclDevKernel_SendRecv dispatch L2", "experts L2"),
    } == {(end["s"], end["f"]) for end in ends.values()}


def test_perfetto_has_a_slice_for_every_span(planned, tmp_path):
    """As many slices begin as the simulation has spans, at their nanoseconds."""
    scenario, plan, result = planned
    made = moesim.export(plan, "perfetto", tmp_path / "t.pftrace", scenario=scenario)
    trace = Trace()
    trace.ParseFromString(made.files[0].read_bytes())
    begins = [p for p in trace.packet if p.HasField("track_event") and p.track_event.type == 1]
    expected = sorted(start for _, _, start, _ in simulated(result).elements())
    assert expected == sorted(packet.timestamp for packet in begins)
