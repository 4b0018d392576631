"""One layer of one step on all ranks, drawn to scale: who works, who waits."""

from collections.abc import Sequence

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from moesim.report.figure import PHASE_COLOUR, new_figure, styled
from moesim.report.words import scale_of_time
from moesim.result import PHASES, SimulationResult, Spans

_SHOWN_RANKS = 64
_COMMUNICATION = ("dispatch", "combine")


def layer_spans(spans: Spans, step: int, ordinal: int) -> NDArray[np.int64]:
    """Indices of the spans of one MoE ordinal in one step."""
    return np.flatnonzero((spans.step == step) & (spans.layer == ordinal))


def slowest_layer(result: SimulationResult) -> tuple[int, int] | None:
    """(step, MoE ordinal) of the layer that took longest from its first start to its last end; None without spans."""
    assert result.tables is not None
    spans = result.tables.spans
    inside = np.flatnonzero(spans.layer >= 0)
    if inside.size == 0:
        return None
    keys, group = np.unique(np.stack([spans.step[inside], spans.layer[inside]], 1), axis=0, return_inverse=True)
    begin, end = np.full(len(keys), np.inf), np.full(len(keys), -np.inf)
    np.minimum.at(begin, group.ravel(), spans.start_s[inside])
    np.maximum.at(end, group.ravel(), spans.end_s[inside])
    step, ordinal = keys[int(np.argmax(end - begin))].tolist()
    return int(step), int(ordinal)


def duration_s(result: SimulationResult, step: int, ordinal: int) -> float:
    """Seconds from the first start to the last end of a layer; 0 where this run has no such layer."""
    assert result.tables is not None
    spans = result.tables.spans
    chosen = layer_spans(spans, step, ordinal)
    return float(spans.end_s[chosen].max() - spans.start_s[chosen].min()) if chosen.size else 0.0


def drawn_ranks(spans: Spans, chosen: NDArray[np.int64]) -> list[int]:
    """The ranks drawn: all, or 64 evenly spaced ones with the rank that ends last among them."""
    ranks = np.unique(spans.rank[chosen])
    if ranks.size > _SHOWN_RANKS:
        last = spans.rank[chosen[np.argmax(spans.end_s[chosen])]]
        spaced = ranks[np.linspace(0, ranks.size - 1, _SHOWN_RANKS - 1).round().astype(int)]
        ranks = np.union1d(spaced, last)
    return [int(rank) for rank in ranks]


@styled
def draw(result: SimulationResult, step: int, ordinal: int, length_s: float) -> Figure:
    """Time 0 is the layer's first start; the axis ends at `length_s`, so that two runs can be compared."""
    assert result.tables is not None
    spans = result.tables.spans
    chosen = layer_spans(spans, step, ordinal)
    ranks = drawn_ranks(spans, chosen)
    factor, unit = scale_of_time(length_s)
    figure, (axes,) = new_figure(min(3.6, 1.1 + 0.08 * max(len(ranks), 4)))
    origin = float(spans.start_s[chosen].min()) if chosen.size else 0.0
    row_of_rank = {rank: row for row, rank in enumerate(ranks)}
    present: dict[str, Patch] = {}
    for phase in sorted(PHASES, key=lambda name: name not in _COMMUNICATION):  # compute hides the transfers beside it
        code = PHASES.index(phase)
        members = [
            span for span in chosen[spans.phase[chosen] == code].tolist() if int(spans.rank[span]) in row_of_rank
        ]
        if members:
            boxes = [_box(spans, span, row_of_rank[int(spans.rank[span])], origin, factor) for span in members]
            axes.add_collection(PolyCollection(boxes, facecolors=PHASE_COLOUR[phase], edgecolors="none"))
            present[phase] = Patch(color=PHASE_COLOUR[phase], label=phase)
    axes.set_xlim(0, length_s * factor * 1.02 or 1.0)
    axes.set_ylim(len(ranks) - 0.4, -0.6)
    every = max(1, -(-len(ranks) // 8))
    axes.set_yticks(range(0, len(ranks), every), [str(rank) for rank in ranks[::every]])
    axes.set_xlabel(f"time since the layer began ({unit})")
    axes.set_ylabel("rank")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    if present:
        handles = [present[phase] for phase in PHASES if phase in present]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, columnspacing=1.0, handlelength=0.9)
    return figure


def _box(spans: Spans, span: int, row: int, origin: float, factor: float) -> Sequence[tuple[float, float]]:
    left, right = ((float(times[span]) - origin) * factor for times in (spans.start_s, spans.end_s))
    return [(left, row - 0.42), (left, row + 0.42), (right, row + 0.42), (right, row - 0.42)]
