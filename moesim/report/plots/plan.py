"""Pictures of a plan: loads and traffic before and after, copies, seconds against the bound, what moved."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from moesim.report.figure import INK, PHASE_COLOUR, QUIET, name_layers, new_figure, styled
from moesim.report.plan_view import PlanView
from moesim.report.plots.device_load import heat_map
from moesim.report.words import scale_of_time

Floats = NDArray[np.float64]
_MOST_SHADES = 8


def top_load(view: PlanView) -> float:
    """Largest load over its layer's mean, before or after, rounded up to a half: the top of both colour scales."""
    both = [_relative(load) for load in (view.load_before_LD, view.load_after_LD)]
    highest = max(float(np.nanmax(relative, initial=0.0)) for relative in both)
    return max(1.5, float(np.ceil(2 * highest) / 2))


@styled
def loads(view: PlanView, load_LD: Floats) -> Figure:
    """Loads of devices around their layer's mean."""
    return heat_map(_relative(load_LD), view.node_of_device_D, [str(layer) for layer in view.layers], top_load(view))


@styled
def traffic(view: PlanView, traffic_NN: Floats) -> Figure:
    """Bytes from row to column, MB a step; both pictures share the scale."""
    figure, (axes,) = new_figure(2.7)
    top = max(float(view.traffic_before_NN.max()), float(view.traffic_after_NN.max()), 1.0) / 1e6
    shown = np.where(np.eye(len(traffic_NN), dtype=bool), np.nan, traffic_NN / 1e6)
    image = axes.imshow(shown, cmap="viridis", vmin=0.0, vmax=top)
    word = view.between[:-1]
    axes.set_xlabel(f"to {word}")
    axes.set_ylabel(f"from {word}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    _bar(figure, image, axes, "MB a step")
    return figure


@styled
def copies(view: PlanView) -> Figure:
    """How many copies each expert has; experts of a layer from the most copied on."""
    sorted_LE = -np.sort(-view.copies_LE, axis=1)
    most = int(sorted_LE.max())
    shown = max(int((sorted_LE > 1).sum(axis=1).max()), 1)
    figure, (axes,) = new_figure(min(3.4, 1.3 + 0.09 * len(view.layers)))
    shades = min(most, _MOST_SHADES)
    norm = BoundaryNorm(np.linspace(0.5, most + 0.5, shades + 1), 256)
    image = axes.imshow(sorted_LE[:, :shown], cmap="cividis", norm=norm, aspect="auto")
    name_layers(axes, [str(layer) for layer in view.layers], vertical=True)
    axes.set_xlabel(f"the {shown} most copied of {view.copies_LE.shape[1]} experts")
    axes.set_ylabel("model layer")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ticks = np.unique(np.linspace(1, most, min(shades, 5)).round())
    bar = _bar(figure, image, axes, "copies")
    bar.set_ticks(ticks.tolist(), labels=[f"{tick:.0f}" for tick in ticks])
    bar.minorticks_off()
    return figure


@styled
def seconds(view: PlanView) -> Figure:
    """Each layer's dispatch, experts and combine before and after, and what no plan of these slots beats."""
    figure, (axes,) = new_figure(2.3)
    place = np.arange(len(view.layers))
    factor, unit = scale_of_time(float(max(view.before_s_L.max(), view.after_s_L.max())))
    axes.bar(place - 0.2, view.before_s_L * factor, 0.4, color=QUIET, label="before")
    axes.bar(place + 0.2, view.after_s_L * factor, 0.4, color=PHASE_COLOUR["dispatch"], label="this plan")
    if view.bound_s_L is not None:
        axes.hlines(
            view.bound_s_L * factor, place - 0.45, place + 0.45, color=INK, linewidth=1.4, label="no plan is quicker"
        )
    name_layers(axes, [str(layer) for layer in view.layers])
    axes.set_xlabel("model layer")
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


@styled
def gap(view: PlanView, bound_s_L: Floats) -> Figure:
    """Each layer's time over what no plan of these slots beats, in percent."""
    figure, (axes,) = new_figure(2.3)
    shown_L = 100.0 * (view.after_s_L / np.maximum(bound_s_L, 1e-300) - 1.0)
    axes.bar(np.arange(len(view.layers)), shown_L, 0.7, color=PHASE_COLOUR["dispatch"])
    name_layers(axes, [str(layer) for layer in view.layers])
    axes.set_xlabel("model layer")
    axes.set_ylabel("% above")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    return figure


@styled
def moved(view: PlanView) -> Figure:
    """Copies of each layer that their device did not hold before."""
    figure, (axes,) = new_figure(1.9)
    axes.bar(np.arange(len(view.layers)), view.moved_L, 0.7, color=PHASE_COLOUR["combine"])
    name_layers(axes, [str(layer) for layer in view.layers])
    axes.set_xlabel("model layer")
    axes.set_ylabel("copies")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def _relative(load_LD: Floats) -> Floats:
    """Loads over the mean of their layer; NaN in a layer without tokens."""
    mean_L1 = load_LD.mean(axis=1, keepdims=True)
    relative_LD = np.full(load_LD.shape, np.nan)
    np.divide(load_LD, mean_L1, out=relative_LD, where=mean_L1 > 0)
    return relative_LD


def _bar(figure: Figure, image: AxesImage, axes: Axes, label: str) -> Colorbar:
    """A colour bar without frame and ticks, as every map of this project has it."""
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02, aspect=24, label=label)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return bar
