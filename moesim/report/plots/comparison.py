"""Step time of every strategy as bars, fastest on top, its speedup beside it."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moesim.report.figure import INK, MUTED, QUIET, new_figure, styled
from moesim.report.summary import Summary
from moesim.report.words import aligned_times, printable, scale_of_time


@styled
def draw(summary: Summary) -> Figure:
    """The fastest bar in ink; known headroom as dashed lines; strategies that declined are left to the table."""
    lines = [line for line in summary.lines if line.step_time_s is not None]
    times = [line.step_time_s or 0.0 for line in lines]
    factor, _ = scale_of_time(max(times, default=0.0))
    figure, (axes,) = new_figure(1.15 + 0.34 * max(len(lines), 1))
    colours = [INK if line.is_best else QUIET for line in lines]
    axes.barh(range(len(lines)), [time * factor for time in times], height=0.66, color=colours)
    limit = max(times, default=0.0) * factor or 1.0
    shown, unit = aligned_times(times)
    for row, (line, time) in enumerate(zip(lines, times, strict=True)):
        weight = "bold" if line.is_best else "normal"
        speedup = "" if line.speedup is None else f" ({line.speedup:.2f}x)"
        axes.text(time * factor + limit * 0.015, row, f"{shown[row]} {unit}{speedup}", va="center", weight=weight)
    _mark(axes, "perfect balance", summary.headroom.perfect_balance_s, factor, len(lines), above=True)
    _mark(axes, "oracle", summary.headroom.oracle_s, factor, len(lines), above=False)
    axes.set_yticks(range(len(lines)), [printable(line.strategy, 24) for line in lines], color=INK)
    axes.set_ylim(len(lines) - 0.1, -0.95)
    axes.set_xlim(0, limit * 1.62)  # room for the numbers beside the bars
    axes.set_xticks([])
    axes.set_xlabel("time of a step, from 0")
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def _mark(axes: Axes, name: str, bound_s: float | None, factor: float, rows: int, *, above: bool) -> None:
    """A dashed line through all bars at a step time that is known but was not compared."""
    if bound_s is None:
        return
    x = bound_s * factor
    axes.plot([x, x], [-0.5, rows - 0.5], color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
    y, side = (-0.52, "bottom") if above else (rows - 0.48, "top")
    axes.text(x, y, name, ha="center", va=side, color=MUTED, size=7.5)
