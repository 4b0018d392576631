"""What faults cost: a step with them and without, one bar each, stacked by phase."""

import numpy as np
from matplotlib.figure import Figure

from moesim.report.figure import INK, PHASE_COLOUR, new_figure, styled
from moesim.report.plots.phases import STACK
from moesim.report.words import scale_of_time
from moesim.result import SimulationResult


@styled
def draw(result: SimulationResult) -> Figure:
    """The result must have `faults`; what no phase accounts for is drawn as other."""
    faults = result.faults
    assert faults is not None
    without = faults.phases_without_s or {"other": faults.step_time_without_s}
    rows = [without, result.phase_seconds()]
    longest = max(result.step_time_s, faults.step_time_without_s)
    factor, unit = scale_of_time(longest)
    figure, (axes,) = new_figure(1.75)
    left = np.zeros(len(rows))
    for phase in STACK:
        width = np.array([row.get(phase, 0.0) * factor for row in rows])
        if width.any():
            axes.barh(range(len(rows)), width, left=left, height=0.66, color=PHASE_COLOUR[phase], label=phase)
        left = left + width
    for row, words in enumerate(("", f"{faults.cost:+.1%}")):
        axes.text(left[row], row, f" {words}", va="center", color=INK)
    axes.set_yticks(range(len(rows)), ["without", "with faults"], color=INK)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0, longest * factor * 1.14 or 1.0)
    axes.set_xlabel(f"time of a step on the slowest rank ({unit})")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=5, columnspacing=1.0, handlelength=0.9)
    return figure
