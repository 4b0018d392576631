"""When each stage of a pipeline ran which pass of which micro-batch: forward, backward, weights' gradients; blanks idle."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from moesim.report.figure import INK, PAPER, PHASE_COLOUR, new_figure, styled
from moesim.report.words import scale_of_time
from moesim.result import PipelineSpan

KINDS = {"F": "forward", "B": "backward", "W": "weights' gradients"}
_COLOUR = {"F": PHASE_COLOUR["attention"], "B": PHASE_COLOUR["experts"], "W": PHASE_COLOUR["dispatch"]}
_LATER_CHUNKS = 0.55  # opacity of what is not on a stage's first part of the model
MOST_BOXES = 1500  # more would make the page heavy; they are painted as one image instead
_TOLD_APART = 500
_NUMBERED = 44  # passes side by side that still have room for their micro-batch's number
_PIXELS = 1200


def end_s(spans: Sequence[PipelineSpan]) -> float:
    """When the last pass ends, seconds; 0 without any."""
    return max((span.end_s for span in spans), default=0.0)


def opening_s(spans: Sequence[PipelineSpan]) -> float:
    """When so many passes have begun as can be drawn one by one and still be told apart; 0 without any."""
    begun = sorted(span.start_s for span in spans)
    return begun[min(_TOLD_APART, len(begun) - 1)] if begun else 0.0


@styled
def draw(spans: Sequence[PipelineSpan], until_s: float) -> Figure:
    """Stages from the top down, time from 0 to `until_s`; passes that overlap share a stage's row, each half of it."""
    shown = [span for span in spans if span.start_s < until_s]
    num_stages = 1 + max((span.stage for span in spans), default=0)
    factor, unit = scale_of_time(until_s)
    figure, (axes,) = new_figure(min(3.6, 1.1 + 0.16 * max(num_stages, 4)))
    heights = row_parts(shown)
    if len(shown) <= MOST_BOXES:
        _boxes(axes, shown, heights, factor, until_s)
    else:
        _image(axes, shown, heights, num_stages, factor, until_s)
    axes.set_xlim(0, until_s * factor or 1.0)
    axes.set_ylim(num_stages - 0.4, -0.6)
    every = max(1, -(-num_stages // 8))
    axes.set_yticks(range(0, num_stages, every), [str(stage) for stage in range(0, num_stages, every)])
    axes.set_xlabel(f"time since the step began ({unit})")
    axes.set_ylabel("stage")
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    handles = [
        Patch(color=_COLOUR[kind], label=word) for kind, word in KINDS.items() if any(s.kind == kind for s in spans)
    ]
    if any(span.chunk > 0 for span in spans):
        handles.append(Patch(color=INK, alpha=0.3, label="paler: later chunk"))
    columns = len(handles) if len(handles) < 4 else 2
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, columnspacing=1.0, handlelength=0.9)
    return figure


def row_parts(spans: Sequence[PipelineSpan]) -> list[tuple[float, float]]:
    """Top and bottom of every span inside its row: a pair that overlaps is forward above, backward below."""
    together: dict[tuple[int, float, float], int] = {}
    for span in spans:
        key = (span.stage, span.start_s, span.end_s)
        together[key] = together.get(key, 0) + 1
    pairs = (together[span.stage, span.start_s, span.end_s] > 1 for span in spans)
    return [
        ((-0.42, 0.0) if span.kind == "F" else (0.0, 0.42)) if paired else (-0.42, 0.42)
        for span, paired in zip(spans, pairs, strict=True)
    ]


def _boxes(
    axes: Axes, spans: Sequence[PipelineSpan], heights: list[tuple[float, float]], factor: float, until_s: float
) -> None:
    for kind, colour in _COLOUR.items():
        for later in (False, True):
            members = [
                (span, height)
                for span, height in zip(spans, heights, strict=True)
                if span.kind == kind and (span.chunk > 0) == later
            ]
            corners = [_corners(span, height, factor) for span, height in members]
            faces = to_rgba(colour, _LATER_CHUNKS if later else 1.0)
            axes.add_collection(PolyCollection(corners, facecolors=[faces], edgecolors=PAPER, linewidths=0.3))
    if min((span.end_s - span.start_s for span in spans), default=0.0) * _NUMBERED > until_s:
        _number(axes, spans, heights, factor)


def _number(axes: Axes, spans: Sequence[PipelineSpan], heights: list[tuple[float, float]], factor: float) -> None:
    for span, (top, bottom) in zip(spans, heights, strict=True):
        middle, row = (span.start_s + span.end_s) / 2 * factor, span.stage + (top + bottom) / 2
        number = str(span.micro_batch)
        axes.text(middle, row, number, ha="center", va="center", size=5.5, color="#ffffff", clip_on=True)


def _corners(span: PipelineSpan, height: tuple[float, float], factor: float) -> list[tuple[float, float]]:
    left, right = span.start_s * factor, span.end_s * factor
    top, bottom = span.stage + height[0], span.stage + height[1]
    return [(left, top), (left, bottom), (right, bottom), (right, top)]


def _image(
    axes: Axes,
    spans: Sequence[PipelineSpan],
    heights: list[tuple[float, float]],
    num_stages: int,
    factor: float,
    until_s: float,
) -> None:
    """Every pixel is the mix of what ran in its stretch of time, as opaque as the stage was busy; two rows a stage."""
    weight: NDArray[np.float64] = np.zeros((2 * num_stages, _PIXELS))
    mixed: NDArray[np.float64] = np.zeros((2 * num_stages, _PIXELS, 3))
    width = until_s / _PIXELS
    for span, (top, bottom) in zip(spans, heights, strict=True):
        first, last = int(span.start_s / width), min(int(span.end_s / width), _PIXELS - 1)
        pixels = np.arange(first, last + 1)
        share = np.minimum(span.end_s, (pixels + 1) * width) - np.maximum(span.start_s, pixels * width)
        opacity = np.maximum(share, 0.0) / width * (_LATER_CHUNKS if span.chunk > 0 else 1.0)
        for row in ([0] if top < 0 else []) + ([1] if bottom > 0 else []):
            weight[2 * span.stage + row, pixels] += opacity
            mixed[2 * span.stage + row, pixels] += opacity[:, None] * np.array(to_rgba(_COLOUR[span.kind])[:3])
    pixels_RGBA = np.concatenate([mixed / np.maximum(weight, 1e-12)[..., None], np.minimum(weight, 1.0)[..., None]], 2)
    axes.imshow(pixels_RGBA, aspect="auto", extent=(0.0, until_s * factor, num_stages - 0.5, -0.5))
