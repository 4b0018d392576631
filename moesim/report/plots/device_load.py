"""Load of every device in every layer, as a heat map around the layer's mean.

Array letters: L MoE ordinal, D device.
"""

from typing import Any

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moesim.report.context import dead_devices
from moesim.report.figure import PAPER, name_layers, new_figure, styled
from moesim.result import SimulationResult


def relative_load(result: SimulationResult) -> NDArray[np.float64]:
    """Load over the mean load of the layer's live devices [L, D]; NaN in a layer without tokens, and of dead devices."""
    assert result.tables is not None
    load_LD = result.tables.load_LD.astype(np.float64)
    dead = [device for device in dead_devices(result) if device < load_LD.shape[1]]
    mean_L1 = np.delete(load_LD, dead, axis=1).mean(axis=1, keepdims=True)
    load_LD[:, dead] = np.nan
    relative_LD = np.full(load_LD.shape, np.nan)
    np.divide(load_LD, mean_L1, out=relative_LD, where=mean_L1 > 0)
    return relative_LD


def highest_load(result: SimulationResult) -> float:
    """Largest load over its layer's mean, rounded up to a half and at least 1.5: the top of a colour scale."""
    relative_LD = relative_load(result)
    return max(1.5, float(np.ceil(2 * np.nanmax(relative_LD)) / 2)) if np.isfinite(relative_LD).any() else 1.5


@styled
def draw(result: SimulationResult, top: float) -> Figure:
    """White is the mean, red above it up to `top` times the mean, blue below; lines part the nodes."""
    assert result.tables is not None
    names = [str(layer.layer) for layer in result.layers]
    return heat_map(relative_load(result), result.tables.node_of_device_D, names, top)


def heat_map(
    relative_LD: NDArray[np.float64], node: NDArray[np.signedinteger[Any]], layer_names: list[str], top: float
) -> Figure:
    """The map of loads over their layer's mean; to be called in our style (moesim.report.figure.styled)."""
    num_layers, num_devices = relative_LD.shape
    figure, (axes,) = new_figure(min(3.4, 1.3 + 0.09 * num_layers))
    norm = TwoSlopeNorm(vcenter=1.0, vmin=0.0, vmax=top)
    image = axes.imshow(relative_LD, cmap="RdBu_r", norm=norm, aspect="auto")
    borders = np.flatnonzero(np.diff(node)) + 0.5
    if borders.size <= 64:
        axes.vlines(borders, -0.5, num_layers - 0.5, color=PAPER, linewidth=1.2)
    starts = np.flatnonzero(np.diff(node, prepend=-1))
    word = "node " if starts.size <= 4 else ""
    shown = starts[:: max(1, -(-starts.size // 12))]
    axes.set_xticks(shown.tolist(), [f"{word}{node[start]}" for start in shown], ha="left")
    name_layers(axes, layer_names[:num_layers], vertical=True)
    axes.set_xlabel(f"devices (0 to {num_devices - 1}), by node")
    axes.set_ylabel("model layer")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02, aspect=24)
    bar.set_ticks([0.0, 0.5, 1.0, 1 + (top - 1) / 2, top])
    bar.ax.set_yticklabels([f"{tick:.3g}x" for tick in bar.get_ticks()])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return figure
