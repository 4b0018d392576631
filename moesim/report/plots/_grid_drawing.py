"""A small torus or mesh as a picture: its planes side by side, hosts as boxes, wraps as arrows out of the edges."""

from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from moesim.cluster import Cluster, TorusLayout
from moesim.report.figure import INK, MUTED, PAPER, QUIET, styled
from moesim.units import format_rate, format_time

MOST_CHIPS = 128  # drawn whole up to so many, when no axis is longer than 8
LONGEST, PART = 8, 4  # of a larger grid so many chips along each axis (a plane: 8 of each)
STEP, PLANE_GAP, MARGIN = 0.62, 0.75, 0.45  # inches
STUB = 0.3
AXIS_COLOUR = ("#0072b2", "#d55e00", "#009e73")


@dataclass(frozen=True, slots=True)
class _View:
    """How many chips are drawn along x, y and z (absent axes: one), and where the first plane stands."""

    across: tuple[int, int, int]
    bottom: float

    def place(self, x: int, y: int, z: int) -> tuple[float, float]:
        """The middle of a chip, in inches; y grows upwards, planes stand side by side."""
        plane = self.across[0] * STEP + PLANE_GAP
        return MARGIN + STUB + 0.3 + z * plane + (x + 0.5) * STEP, self.bottom + (y + 0.5) * STEP


@styled
def draw_grid(cluster: Cluster, layout: TorusLayout) -> Figure:
    """A grid of up to 128 chips whole, else a corner of it; one of several slices."""
    lengths = (*layout.lengths, 1, 1)[:3]
    whole = layout.coordinate_DA.shape[0] // layout.num_slices <= MOST_CHIPS and max(lengths) <= LONGEST
    most = LONGEST if whole or lengths[2] == 1 else PART
    across = tuple(min(length, most) for length in lengths)
    view = _View((across[0], across[1], across[2]), bottom=1.3)
    width = max(7.5, 2 * MARGIN + 0.6 + across[2] * (across[0] * STEP + PLANE_GAP))
    height = view.bottom + across[1] * STEP + 1.35
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    for z in range(across[2]):
        _draw_plane(axes, cluster, layout, view, z)
    _draw_plane_links(axes, layout, view)
    axes.text(MARGIN, height - 0.35, cluster.name, size=13, weight="bold", va="center")
    for line, (text, colour) in enumerate(_captions(cluster, layout, view)):
        axes.text(MARGIN, 0.82 - 0.2 * line, text, size=9, color=colour, va="center")
    return figure


def _draw_plane(axes: Axes, cluster: Cluster, layout: TorusLayout, view: _View, z: int) -> None:
    _draw_hosts(axes, cluster, layout, view, z)
    for x in range(view.across[0]):
        for y in range(view.across[1]):
            for axis, along in ((0, x), (1, y)):
                if axis < len(layout.lengths):
                    _draw_links(axes, layout, view, (x, y, z), axis, along)
            here, side = view.place(x, y, z), 0.3
            corner = (here[0] - side / 2, here[1] - side / 2)
            axes.add_patch(Rectangle(corner, side, side, facecolor=PAPER, edgecolor=INK, linewidth=0.9, zorder=4))
            axes.text(*here, str(_chip(layout, x, y, z)), ha="center", va="center", size=6.5, zorder=5)
    if len(layout.lengths) == 3:
        left, top = view.place(0, view.across[1] - 1, z)
        middle = left + (view.across[0] - 1) * STEP / 2
        axes.text(middle, top + 0.75, f"z = {z}", ha="center", va="center", size=9, color=AXIS_COLOUR[2])


def _draw_links(
    axes: Axes, layout: TorusLayout, view: _View, place: tuple[int, int, int], axis: int, along: int
) -> None:
    """The line to the next chip up the axis; at the edges a stub: an arrow where it wraps, dots where more follow."""
    here = view.place(*place)
    unit = (1.0, 0.0) if axis == 0 else (0.0, 1.0)
    if along + 1 < view.across[axis]:
        there = (here[0] + unit[0] * STEP, here[1] + unit[1] * STEP)
        axes.plot([here[0], there[0]], [here[1], there[1]], color=AXIS_COLOUR[axis], linewidth=1.4, zorder=2)
    cut = view.across[axis] < layout.lengths[axis]
    for edge, sign in ((along == 0, -1), (along == view.across[axis] - 1, 1)):
        if edge and (layout.wraps[axis] or (cut and sign > 0)):
            start, end = (
                (here[0] + sign * unit[0] * out, here[1] + sign * unit[1] * out) for out in (0.15, 0.15 + STUB)
            )
            colour = AXIS_COLOUR[axis]
            if cut and sign > 0:
                axes.plot([start[0], end[0]], [start[1], end[1]], color=colour, linewidth=1.2, linestyle=":", zorder=2)
            else:
                arrow = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=7, color=colour, linewidth=1.1)
                axes.add_patch(arrow)


def _draw_hosts(axes: Axes, cluster: Cluster, layout: TorusLayout, view: _View, z: int) -> None:
    """A box around the drawn chips of each host of this plane."""
    boxes: dict[int, list[tuple[float, float]]] = {}
    for x in range(view.across[0]):
        for y in range(view.across[1]):
            node = int(cluster.node_of_device_D[_chip(layout, x, y, z)])
            boxes.setdefault(node, []).append(view.place(x, y, z))
    for places in boxes.values():
        left, bottom = min(x for x, _ in places) - 0.22, min(y for _, y in places) - 0.22
        right, top = max(x for x, _ in places) + 0.22, max(y for _, y in places) + 0.22
        axes.add_patch(
            Rectangle((left, bottom), right - left, top - bottom, facecolor="#eef2f6", edgecolor=QUIET, zorder=1)
        )


def _draw_plane_links(axes: Axes, layout: TorusLayout, view: _View) -> None:
    """Between planes one thick line for all links up the third axis; dots and arrows at its ends as in the planes."""
    if len(layout.lengths) < 3:
        return
    y = view.place(0, view.across[1] - 1, 0)[1] + 0.75
    middles = [view.place(0, 0, z)[0] + (view.across[0] - 1) * STEP / 2 for z in range(view.across[2])]
    for left, right in pairwise(middles):
        axes.plot([left + 0.3, right - 0.3], [y, y], color=AXIS_COLOUR[2], linewidth=2.4)
    cut = view.across[2] < layout.lengths[2]
    if cut:
        axes.plot([middles[-1] + 0.3, middles[-1] + 0.9], [y, y], color=AXIS_COLOUR[2], linewidth=2, linestyle=":")
    for edge, sign in ((middles[0], -1), (middles[-1], 1)):
        if layout.wraps[2] and not (cut and sign > 0):
            ends = (edge + sign * 0.3, y), (edge + sign * 0.9, y)
            axes.add_patch(
                FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=9, color=AXIS_COLOUR[2], linewidth=2)
            )


def _captions(cluster: Cluster, layout: TorusLayout, view: _View) -> list[tuple[str, str]]:
    """One line per axis in its colour, and what is drawn."""
    lines = []
    for axis, (length, wraps) in enumerate(zip(layout.lengths, layout.wraps, strict=True)):
        links = layout.link_DP[:, 2 * axis]
        if not (links >= 0).any():
            continue
        link = cluster.links[int(links[links >= 0][0])]
        shift = layout.twist_AA[axis]
        end = "wraps around" if wraps else "ends at its edges"
        end += f", shifted by {tuple(shift.tolist())} (x, y, z) where it does" if shift.any() else ""
        latency = format_time(float(f"{link.latency_s:.4g}"))
        text = f"{'xyz'[axis]}: {length} chips, {end}; {format_rate(link.bandwidth_bytes_per_s)} each way, {latency}"
        lines.append((text, AXIS_COLOUR[axis]))
    shown = view.across[0] * view.across[1] * view.across[2]
    whole = shown == cluster.num_devices
    head = "Drawn whole" if whole else f"Drawn in part, {shown} of {cluster.num_devices} chips"
    slices = f"; one of {layout.num_slices} slices" if layout.num_slices > 1 else ""
    third = "; the thick line stands for a link between every two chips at the same place" if view.across[2] > 1 else ""
    return [*lines, (f"{head}{slices}: a box is a host, a number its chip's device{third}", MUTED)]


def _chip(layout: TorusLayout, x: int, y: int, z: int) -> int:
    flat = 0
    for length, along in zip(layout.lengths, (x, y, z), strict=False):
        flat = flat * length + along
    return int(layout.chip_at[flat])
