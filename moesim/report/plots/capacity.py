"""Shares of dropped pairs, of lost pairs and of padding in every MoE layer, as columns side by side."""

import numpy as np
from matplotlib.figure import Figure

from moesim.report.figure import PHASE_COLOUR, name_layers, new_figure, styled
from moesim.result import LayerResult, SimulationResult

_COLOUR = {"dropped": PHASE_COLOUR["combine"], "lost": PHASE_COLOUR["dense"], "padding": PHASE_COLOUR["attention"]}


def rates(layer: LayerResult) -> dict[str, float]:
    """Shares 0..1: pairs that found their expert full, pairs lost to dead devices, and padding of the rows computed."""
    dropped = max(layer.drop_rate - layer.lost_rate, 0.0)
    return {"dropped": dropped, "lost": layer.lost_rate, "padding": layer.padding_rate}


def highest_rate(result: SimulationResult) -> float:
    """The largest of these rates in any layer, 0..1; 0 without layers."""
    return max((max(rates(layer).values()) for layer in result.layers), default=0.0)


@styled
def draw(result: SimulationResult, top: float) -> Figure:
    """`top` (0..1) is the top of the axis, so that two runs can be compared side by side."""
    figure, (axes,) = new_figure(2.2)
    place = np.arange(len(result.layers))
    found = [rates(layer) for layer in result.layers]
    shown = [name for name in _COLOUR if name != "lost" or any(layer[name] for layer in found)]
    width = 0.8 / len(shown)
    for number, name in enumerate(shown):
        height = np.array([layer[name] * 100 for layer in found])
        left = place - 0.4 + (number + 0.5) * width
        axes.bar(left, height, width=width, color=_COLOUR[name], label=name)
    axes.set_ylim(0, top * 104 or 1.0)
    axes.set_xlim(-0.6, max(len(result.layers), 1) - 0.4)
    name_layers(axes, [str(layer.layer) for layer in result.layers])
    axes.set_xlabel("model layer")
    axes.set_ylabel("share (%)")
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, columnspacing=1.0, handlelength=0.9)
    return figure
