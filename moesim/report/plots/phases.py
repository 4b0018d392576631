"""Where the step goes: one bar a strategy, stacked by phase over all layers."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from moesim.report.figure import INK, PHASE_COLOUR, new_figure, styled
from moesim.report.words import printable, scale_of_time
from moesim.result import SimulationResult

STACK = ("attention", "dispatch", "experts", "combine", "other")


@styled
def draw(results: Sequence[tuple[str, SimulationResult]]) -> Figure:
    """`results` are (name, result) from the top down; the time axis starts at 0."""
    totals = [result.phase_seconds() for _, result in results]
    factor, unit = scale_of_time(max((result.step_time_s for _, result in results), default=0.0))
    figure, (axes,) = new_figure(1.15 + 0.34 * max(len(results), 1))
    left = np.zeros(len(results))
    for phase in STACK:
        width = np.array([total[phase] * factor for total in totals])
        if width.any():
            axes.barh(range(len(results)), width, left=left, height=0.66, color=PHASE_COLOUR[phase], label=phase)
        left = left + width
    axes.set_yticks(range(len(results)), [printable(name, 24) for name, _ in results], color=INK)
    axes.set_ylim(len(results) - 0.45, -0.55)
    axes.set_xlabel(f"time of a step on the slowest rank ({unit})")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=5, columnspacing=1.0, handlelength=0.9)
    return figure
