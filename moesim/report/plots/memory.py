"""What fills the tightest device's memory: one bar a run, stacked by part, with a line at its capacity."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from moesim.report.figure import INK, new_figure, styled
from moesim.report.words import printable
from moesim.result import MemoryResult

# Okabe and Ito's colours in an order of their own: memory parts are no phases.
_COLOURS = ("#56b4e9", "#0072b2", "#f0e442", "#d55e00", "#cc79a7", "#009e73", "#e69f00", "#8a949e")
_GIB = float(1 << 30)


def part_words(name: str) -> str:
    """A part's key as words.

    >>> part_words("expert_weights")
    'expert weights'
    """
    return name.replace("_", " ")


@styled
def draw(rows: Sequence[tuple[str, MemoryResult]]) -> Figure:
    """`rows` are (name, memory) from the top down, in GiB from 0; runs without a breakdown are drawn in one piece."""
    parts = list(dict.fromkeys(name for _, memory in rows for name in _parts(memory)))
    figure, (axes,) = new_figure(1.45 + 0.34 * max(len(rows), 1))
    left = np.zeros(len(rows))
    for place, part in enumerate(parts):
        width = np.array([_parts(memory).get(part, 0.0) / _GIB for _, memory in rows])
        if width.any():
            colour = _COLOURS[place % len(_COLOURS)]
            axes.barh(range(len(rows)), width, left=left, height=0.66, color=colour, label=part_words(part))
        left = left + width
    capacity = [memory.capacity_bytes / _GIB for _, memory in rows]
    places = np.arange(len(rows))
    axes.vlines(capacity, places - 0.42, places + 0.42, color=INK, linewidth=1.6, label="capacity")
    axes.set_yticks(range(len(rows)), [printable(name, 24) for name, _ in rows], color=INK)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0, 1.04 * max([*capacity, *left.tolist()], default=0.0) or 1.0)
    axes.set_xlabel("memory of the tightest device (GiB)")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, columnspacing=1.0, handlelength=0.9)
    return figure


def _parts(memory: MemoryResult) -> dict[str, float]:
    return memory.breakdown or {"needed": memory.max_device_bytes}
