"""Dragonflies and graphs as pictures: groups around a circle, or vertices where their links pull them."""

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from numpy.typing import NDArray

from moesim.cluster import Cluster, DragonflyLayout, GraphLayout
from moesim.report.figure import INK, MUTED, PAPER, QUIET, styled
from moesim.units import format_rate

MOST_VERTICES, MOST_GROUPS = 80, 5
SIDE, MARGIN = 7.6, 0.5  # inches
DEVICE_COLOUR, SWITCH_COLOUR, GLOBAL_COLOUR = "#56b4e9", "#5a6877", "#d55e00"


@dataclass(frozen=True, slots=True)
class _Point:
    """A vertex: its place in 0..1, the text in it, and whether it is a device."""

    x: float
    y: float
    text: str
    device: bool


@styled
def draw_graph(cluster: Cluster, layout: GraphLayout) -> Figure:
    """Up to 80 vertices, those nearest to device 0 by links."""
    shown = _nearest(layout)
    places = _spread(layout, shown)
    row_of = {vertex: row for row, vertex in enumerate(shown)}
    pairs: dict[tuple[int, int], float] = {}
    for vertex in shown:
        for at in range(layout.offsets[vertex], layout.offsets[vertex + 1]):
            other = int(layout.targets[at])
            if other in row_of:
                pair = (min(row_of[vertex], row_of[other]), max(row_of[vertex], row_of[other]))
                pairs[pair] = max(pairs.get(pair, 0.0), float(cluster.link_bandwidth[layout.links[at]]))
    points = [
        _Point(float(x), float(y), _label(cluster, layout, vertex), vertex < cluster.num_devices)
        for vertex, (x, y) in zip(shown, places.tolist(), strict=True)
    ]
    whole = len(shown) == len(layout.vertex_names)
    head = "Drawn whole" if whole else f"Drawn in part, {len(shown)} of {len(layout.vertex_names)} vertices"
    rates = sorted(set(pairs.values()))
    span = f"{format_rate(rates[0])}" + (f" to {format_rate(rates[-1])}" if len(rates) > 1 else "") if rates else "none"
    caption = f"{head}: circles are devices (their number), boxes switches; links {span} one way, thicker = faster"
    return _figure(cluster.name, points, [(pair, _width(rate, rates), MUTED) for pair, rate in pairs.items()], caption)


@styled
def draw_dragonfly(cluster: Cluster, layout: DragonflyLayout) -> Figure:
    """Up to 5 groups around a circle, each a ring of its switches with the number of devices on each."""
    groups = min(layout.num_groups, MOST_GROUPS)
    switches = np.flatnonzero(layout.group_of_switch < groups).tolist()
    devices = np.bincount(layout.switch_of_device_D, minlength=len(layout.group_of_switch))
    points = [_Point(*_on_ring(layout, switch, groups), str(devices[switch]), False) for switch in switches]
    lines = [
        ((switch, other), 0.7, QUIET)
        for switch in switches
        for other in switches
        if switch < other and layout.group_of_switch[switch] == layout.group_of_switch[other]
    ]
    ends = zip(layout.global_from.tolist(), layout.global_to.tolist(), strict=True)
    joined = dict.fromkeys((one, other) for one, other in ends if one < other and other < len(switches))
    lines += [(pair, 0.9, GLOBAL_COLOUR) for pair in joined]
    nic = format_rate(float(cluster.link_bandwidth[layout.nic_out_D[0]]))
    whole = (
        f"Drawn whole: {groups} groups"
        if groups == layout.num_groups
        else f"Drawn in part: {groups} of {layout.num_groups} groups"
    )
    caption = f"{whole}; boxes are switches with their number of devices, {nic} each; orange: global links"
    return _figure(cluster.name, points, lines, caption)


def _figure(title: str, points: list[_Point], lines: list[tuple[tuple[int, int], float, str]], caption: str) -> Figure:
    figure = Figure(figsize=(SIDE + 2 * MARGIN, SIDE + 1.5))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, SIDE + 2 * MARGIN), ylim=(0, SIDE + 1.5))
    axes.set_axis_off()
    at = [(MARGIN + SIDE * point.x, 0.75 + SIDE * point.y) for point in points]
    for (one, other), width, colour in lines:
        axes.plot([at[one][0], at[other][0]], [at[one][1], at[other][1]], color=colour, linewidth=width, zorder=1)
    radius = min(0.22, 1.7 / math.sqrt(len(points)))
    for point, place in zip(points, at, strict=True):
        _draw_point(axes, point, place, radius)
    axes.text(MARGIN, SIDE + 1.15, title, size=13, weight="bold", va="center")
    axes.text(MARGIN, 0.25, caption, size=9, color=MUTED, va="center")
    return figure


def _draw_point(axes: Axes, point: _Point, place: tuple[float, float], radius: float) -> None:
    if point.device:
        axes.add_patch(Circle(place, radius, facecolor=DEVICE_COLOUR, edgecolor=INK, linewidth=0.9, zorder=3))
    else:
        corner = (place[0] - radius, place[1] - radius * 0.8)
        axes.add_patch(
            Rectangle(corner, 2 * radius, 1.6 * radius, facecolor=SWITCH_COLOUR, edgecolor=INK, linewidth=0.9, zorder=3)
        )
    size = min(9.0, 72 * 1.7 * radius / (0.62 * max(len(point.text), 2)))  # the text fills the width
    colour = INK if point.device else PAPER
    axes.text(*place, point.text, ha="center", va="center", size=size, color=colour, zorder=4)


def _on_ring(layout: DragonflyLayout, switch: int, groups: int) -> tuple[float, float]:
    """Groups on a large circle, the switches of each on a small one."""
    group, place = int(layout.group_of_switch[switch]), int(layout.place_in_group[switch])
    per_group = layout.local_SK.shape[1]
    small = 0.16 if groups == 1 else min(0.13, 0.36 * math.sin(math.pi / groups) * 0.8)
    large = 0.0 if groups == 1 else 0.36
    out, turn = 2 * math.pi * group / groups, 2 * math.pi * place / per_group
    return (
        0.5 + large * math.sin(out) + small * math.sin(out + turn),
        0.5 + large * math.cos(out) + small * math.cos(out + turn),
    )


def _nearest(layout: GraphLayout) -> list[int]:
    """Vertices in the order in which they are reached from device 0, no more than are drawn."""
    found, head = [0], 0
    seen = {0}
    while head < len(found) and len(found) < MOST_VERTICES:
        vertex = found[head]
        head += 1
        for other in layout.targets[layout.offsets[vertex] : layout.offsets[vertex + 1]].tolist():
            if other not in seen and len(found) < MOST_VERTICES:
                seen.add(other)
                found.append(other)
    return found


def _spread(layout: GraphLayout, shown: list[int]) -> NDArray[np.float64]:
    """Places in 0..1 whose distances follow the number of links between vertices."""
    import networkx as nx  # slow to import, and needed only here

    inside = dict.fromkeys(shown)
    graph = nx.Graph()
    graph.add_nodes_from(shown)
    for vertex in shown:
        near = layout.targets[layout.offsets[vertex] : layout.offsets[vertex + 1]].tolist()
        graph.add_edges_from((vertex, other) for other in near if other in inside)
    if len(shown) == 1:
        return np.array([[0.5, 0.5]])
    placed = nx.kamada_kawai_layout(graph)
    places = np.array([placed[vertex] for vertex in shown])
    low, high = places.min(axis=0), places.max(axis=0)
    result: NDArray[np.float64] = 0.05 + 0.9 * (places - low) / np.maximum(high - low, 1e-6)
    return np.where(high - low < 1e-6, 0.5, result)


def _label(cluster: Cluster, layout: GraphLayout, vertex: int) -> str:
    return str(vertex) if vertex < cluster.num_devices else layout.vertex_names[vertex][:10]


def _width(rate: float, rates: list[float]) -> float:
    """Line width by rank of the rate: slowest 1, fastest 3."""
    return 1.0 + 2.0 * (rates.index(rate) / (len(rates) - 1)) if len(rates) > 1 else 1.4
