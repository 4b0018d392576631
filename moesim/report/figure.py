"""The look that all pictures share (colours, fonts, sizes), and a picture as SVG that a page can hold.

Colours are Okabe and Ito's (told apart under every common colour blindness), one per phase in every picture. Ink,
grid and paper are named colours of the page, so that the same SVG is legible on light and on dark paper.
"""

import io
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moesim.report.words import printable
from moesim.result import PHASES

P = ParamSpec("P")

INK, MUTED, QUIET, GRID, PAPER = "#18222d", "#5a6877", "#a9b4c0", "#dfe4ea", "#fdfdfe"
_PAGE_NAMES = {INK: "ink", MUTED: "muted", QUIET: "quiet", GRID: "grid", PAPER: "paper"}
PHASE_COLOUR = dict(zip(PHASES, ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#8a949e"), strict=True))
WIDTH = 4.1  # inches; every picture has the width of half a page, and the whole width of a phone

_STYLE: dict[Any, Any] = {  # Any: the stubs know every key by name, matplotlib itself checks them
    "backend": "agg",
    "font.family": ["DejaVu Sans"],  # ships with matplotlib: text is measured alike on every machine
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "text.color": INK,
    "text.parse_math": False,  # names are data: a "$" in one is a dollar
    "axes.labelcolor": MUTED,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "image.interpolation": "none",  # one pixel a cell, scaled by the viewer
    "image.composite_image": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "moesim",
    "axes.formatter.useoffset": False,
}


def _style() -> AbstractContextManager[None]:
    """Our style over matplotlib's own defaults, whatever the user's configuration says; undone at exit."""
    defaults: dict[Any, Any] = {**matplotlib.rcParamsDefault}
    return matplotlib.rc_context({**defaults, **_STYLE})


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A drawing function that runs in our style and gives the style of the process back."""

    def in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _style():
            return draw(*args, **kwargs)

    in_style.__doc__, in_style.__name__, in_style.__module__ = draw.__doc__, draw.__name__, draw.__module__
    return in_style


def new_figure(
    height: float, rows: int = 1, columns: int = 1, height_ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """An empty figure of the common width, `height` inches high, and its axes row by row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=height_ratios)
    return figure, list(axes.ravel())


def svg(figure: Figure, label: str, prefix: str) -> str:
    """`figure` as an SVG element for an HTML page: scales to its box, follows the page's colours, loads nothing.

    `prefix` keeps its ids apart from those of other pictures on the page; `label` is read out for it.
    """
    buffer = io.StringIO()
    with _style():
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    body = re.sub(r"<!--.*?-->\n?|<defs>\s*<style.*?</style>\s*</defs>\n?", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", body)
    for colour, name in _PAGE_NAMES.items():
        body = body.replace(colour, f"var(--{name})")
    return f'<svg role="img" aria-label="{_attribute(printable(label))}" {box.group()}>{body}'


def name_layers(axes: Axes, labels: list[str], *, vertical: bool = False) -> None:
    """Label up to about a dozen of the positions 0..n-1 on the x axis (or y axis)."""
    every = max(1, -(-len(labels) // 12))
    positions = list(range(0, len(labels), every))
    ticks = axes.set_yticks if vertical else axes.set_xticks
    ticks(positions, [labels[position] for position in positions])


def _attribute(text: str) -> str:
    return "".join({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}.get(letter, letter) for letter in text)
