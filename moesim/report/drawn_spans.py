"""Drawn spans: what every rank did when, laid on tracks that nest, with the arrows between them; for any timeline.

Times are whole nanoseconds since the first simulated step began.
"""

import heapq
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.result import PHASES, Spans, Tables

STREAMS = ("compute", "communication")
_COMMUNICATION = ("dispatch", "combine")


@dataclass(frozen=True, slots=True)
class DrawnSpan:
    """One span as drawn: times in ns; `layer` the model layer index of MoE ordinal `ordinal`, -1 outside MoE layers."""

    phase: str
    step: int
    ordinal: int
    layer: int
    start: int
    end: int

    @property
    def name(self) -> str:
        """The phase, and its layer where it has one."""
        return self.phase if self.ordinal < 0 else f"{self.phase} L{self.layer}"


def nanoseconds(times_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Seconds as whole nanoseconds."""
    return np.rint(times_s * 1e9).astype(np.int64)


def lanes(spans: Spans) -> list[tuple[tuple[int, int, int], list[int]]]:
    """Spans by (rank, stream, lane), in time order; spans of one stream that overlap go to further lanes.

    Perfetto nests slices of one track, so two that overlap without nesting must lie on two tracks.
    """
    start, end = nanoseconds(spans.start_s), nanoseconds(spans.end_s)
    stream = _stream_of_phase()[spans.phase]
    order = np.lexsort((end, start, stream, spans.rank))
    members: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    free: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)  # (end of its last span, lane)
    for span in order.tolist():
        track = (int(spans.rank[span]), int(stream[span]))
        ends = free[track]
        lane = heapq.heappop(ends)[1] if ends and ends[0][0] <= start[span] else len(ends)
        heapq.heappush(ends, (int(end[span]), lane))
        members[(*track, lane)].append(span)
    return sorted(members.items())


def arrows(spans: Spans) -> dict[int, tuple[str, int]]:
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
    found: dict[int, tuple[str, int]] = {}
    pairs = [pair for key in sorted(ends) for pair in _fed(spans, *ends[key])]
    for flow, (source, target) in enumerate(pairs, start=1):
        found[source], found[target] = ("flow_ids", flow), ("terminating_flow_ids", flow)
    return found


def drawn_spans(spans: Spans, layer_index: list[int]) -> list[DrawnSpan]:
    """Every span in plain numbers, which protobuf takes much faster than numpy's."""
    columns = (
        spans.phase.tolist(),
        spans.step.tolist(),
        spans.layer.tolist(),
        nanoseconds(spans.start_s).tolist(),
        nanoseconds(spans.end_s).tolist(),
    )
    known = dict(enumerate(layer_index))
    return [
        DrawnSpan(PHASES[phase], step, ordinal, known.get(ordinal, ordinal), start, end)
        for phase, step, ordinal, start, end in zip(*columns, strict=True)
    ]


def rank_name(tables: Tables, rank: int) -> str:
    """What a rank is called, with its node where that is known."""
    known = rank < tables.node_of_device_D.size
    return f"rank {rank} (node {int(tables.node_of_device_D[rank])})" if known else f"rank {rank}"


def _stream_of_phase() -> NDArray[np.int64]:
    return np.array([STREAMS.index("communication" if name in _COMMUNICATION else "compute") for name in PHASES])


def _fed(spans: Spans, dispatches: list[int], experts: list[int]) -> list[tuple[int, int]]:
    """Dispatches, by their ends, each with the experts span it feeds; `experts` by their starts."""
    pairs, waiting = [], sorted(dispatches, key=lambda span: float(spans.end_s[span]))
    for target in experts:
        if waiting and spans.end_s[waiting[0]] <= spans.start_s[target]:
            pairs.append((waiting.pop(0), target))
    return pairs
