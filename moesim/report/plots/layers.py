"""Time of every MoE layer as columns stacked by phase."""

import numpy as np
from matplotlib.figure import Figure

from moesim.report.figure import PHASE_COLOUR, name_layers, new_figure, styled
from moesim.report.plots.phases import STACK
from moesim.report.words import scale_of_time
from moesim.result import SimulationResult

_PHASES = tuple(phase for phase in STACK if phase != "other")


def slowest_layer_s(result: SimulationResult) -> float:
    """Seconds of the slowest layer, all phases together; 0 without layers."""
    return max((float(sum(getattr(layer, f"{phase}_s") for phase in _PHASES)) for layer in result.layers), default=0.0)


@styled
def draw(result: SimulationResult, top_s: float) -> Figure:
    """`top_s` seconds is the top of the axis, so that two runs can be compared side by side."""
    factor, unit = scale_of_time(top_s)
    figure, (axes,) = new_figure(2.7)
    bottom = np.zeros(len(result.layers))
    for phase in _PHASES:
        height = np.array([getattr(layer, f"{phase}_s") * factor for layer in result.layers])
        axes.bar(range(len(result.layers)), height, bottom=bottom, width=0.8, color=PHASE_COLOUR[phase], label=phase)
        bottom = bottom + height
    axes.set_ylim(0, top_s * factor * 1.04 or 1.0)
    axes.set_xlim(-0.6, max(len(result.layers), 1) - 0.4)
    name_layers(axes, [str(layer.layer) for layer in result.layers])
    axes.set_xlabel("model layer")
    axes.set_ylabel(f"time on the slowest rank ({unit})")
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4, columnspacing=1.0, handlelength=0.9)
    return figure
