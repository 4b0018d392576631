"""Share of dropped pairs and of padding in every MoE layer, as columns side by side."""

import numpy as np
from matplotlib.figure import Figure

from moesim.report.figure import PHASE_COLOUR, name_layers, new_figure, styled
from moesim.result import SimulationResult

_RATES = (("drop_rate", "dropped", PHASE_COLOUR["combine"]), ("padding_rate", "padding", PHASE_COLOUR["attention"]))


def highest_rate(result: SimulationResult) -> float:
    """The largest drop or padding rate of any layer, 0..1; 0 without layers."""
    return max((max(layer.drop_rate, layer.padding_rate) for layer in result.layers), default=0.0)


@styled
def draw(result: SimulationResult, top: float) -> Figure:
    """`top` (0..1) is the top of the axis, so that two runs can be compared side by side."""
    figure, (axes,) = new_figure(2.2)
    place = np.arange(len(result.layers))
    for number, (name, label, colour) in enumerate(_RATES):
        height = np.array([getattr(layer, name) * 100 for layer in result.layers])
        axes.bar(place + (number - 0.5) * 0.4, height, width=0.4, color=colour, label=label)
    axes.set_ylim(0, top * 104 or 1.0)
    axes.set_xlim(-0.6, max(len(result.layers), 1) - 0.4)
    name_layers(axes, [str(layer.layer) for layer in result.layers])
    axes.set_xlabel("model layer")
    axes.set_ylabel("share (%)")
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, columnspacing=1.0, handlelength=0.9)
    return figure
