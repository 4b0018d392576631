"""A small tree as a picture: devices, the switches of their nodes, NICs, leaves, spines, core."""

from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from moesim.cluster import Cluster, Link, TreeLayout
from moesim.report.figure import GRID, INK, MUTED, PAPER, QUIET, styled
from moesim.report.plots._tree_view import MARGIN, STEP, TreeView, view_tree
from moesim.units import format_rate, format_time

# Okabe and Ito's colours, one per rail; more than eight rails start again.
RAIL_COLOUR = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8a7a00", "#5a6877")
DEVICE_Y, SWITCH_Y, NIC_Y, LEAF_Y, SPINE_Y, CORE_Y = 1.25, 1.8, 2.3, 3.9, 5.3, 6.4
HALF = 0.15  # half the height of a switch's box


@styled
def draw_tree(cluster: Cluster, layout: TreeLayout) -> Figure:
    """Up to eight nodes with up to eight devices each; the line under the picture says what is left out."""
    view = view_tree(cluster, layout)
    top = CORE_Y if _has_core(layout, view) else SPINE_Y if view.groups else LEAF_Y if view.leaves else SWITCH_Y
    height = top + 0.95
    figure = Figure(figsize=(view.width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, view.width), ylim=(0, height))
    axes.set_axis_off()
    _draw_uplinks(axes, cluster, layout, view)
    _draw_nodes(axes, cluster, layout, view)
    _draw_switches(axes, cluster, layout, view)
    _draw_units(axes, cluster, layout, view)
    _draw_tier_names(axes, cluster, layout, view)
    axes.text(MARGIN, height - 0.32, cluster.name, size=13, weight="bold", va="center")
    axes.text(MARGIN, 0.22, _caption(cluster, layout, view), size=9, color=MUTED, va="center")
    return figure


def _draw_nodes(axes: Axes, cluster: Cluster, layout: TreeLayout, view: TreeView) -> None:
    for node, (left, right) in view.nodes.items():
        _box(axes, left, right, DEVICE_Y - 0.3, NIC_Y + 0.02, face="#f1f4f7", edge=QUIET)
        _box(axes, left + 0.1, right - 0.1, SWITCH_Y - 0.09, SWITCH_Y + 0.09, face=MUTED, edge=MUTED)
        more = f" (+{view.hidden_devices} devices)" if view.hidden_devices else ""
        axes.text((left + right) / 2, DEVICE_Y - 0.44, f"node {node}{more}", ha="center", va="center", size=8.5)
    for device, x in view.devices.items():
        colour = _rail_colour(layout, device)
        axes.plot([x, x], [DEVICE_Y, SWITCH_Y], color=MUTED, linewidth=1.6, zorder=2)
        side = STEP * 0.8
        corner = (x - side / 2, DEVICE_Y - side / 2)
        axes.add_patch(Rectangle(corner, side, side, facecolor=PAPER, edgecolor=INK, linewidth=1, zorder=4))
        axes.text(x, DEVICE_Y - 0.005, str(layout.local_index_D[device]), ha="center", va="center", size=8, zorder=5)
        if layout.nic_out_D[device] >= 0:
            axes.plot([x, x], [DEVICE_Y, NIC_Y], color=colour, linewidth=0.8, linestyle=":", zorder=1.5)
            axes.plot([x], [NIC_Y], marker="s", markersize=8, color=colour, zorder=4)


def _draw_uplinks(axes: Axes, cluster: Cluster, layout: TreeLayout, view: TreeView) -> None:
    for device, x in view.devices.items():
        leaf = int(layout.leaf_of_device_D[device])
        if leaf >= 0:
            ends = [NIC_Y, LEAF_Y - HALF]
            axes.plot([x, view.leaves[leaf]], ends, color=_rail_colour(layout, device), linewidth=1, alpha=0.8)
    shared = len({int(layout.group_of_leaf[leaf]) for leaf in view.leaves}) < _num_rails(layout)
    for leaf, x in view.leaves.items():
        if layout.leaf_up[leaf] >= 0:
            left, right = view.groups[int(layout.group_of_leaf[leaf])]
            colour = MUTED if shared else _rail_colour(layout, _device_under(layout, view, leaf))
            ends = [x, min(max(x, left + 0.15), right - 0.15)]
            axes.plot(ends, [LEAF_Y + HALF, SPINE_Y - HALF], color=colour, linewidth=2.2)
    if _has_core(layout, view):
        for left, right in view.groups.values():
            axes.plot([(left + right) / 2] * 2, [SPINE_Y + HALF, CORE_Y - HALF], color=INK, linewidth=3)


def _draw_units(axes: Axes, cluster: Cluster, layout: TreeLayout, view: TreeView) -> None:
    """Under the nodes of each unit a bracket, with how many of its nodes are drawn."""
    if not view.leaves or len(set(layout.unit_of_leaf.tolist())) == len(view.nodes) == 1:
        return
    unit_D = layout.unit_of_leaf[layout.leaf_of_device_D]
    y = DEVICE_Y - 0.62
    for unit, nodes in view.units.items():
        left, right = view.nodes[nodes[0]][0], view.nodes[nodes[-1]][1]
        total = int((unit_D == unit).sum()) // cluster.devices_per_node
        whole = "1 node" if total == 1 else f"{total} nodes"
        drawn = whole if len(nodes) == total else f"{len(nodes)} of its {total} nodes drawn"
        axes.plot([left, left, right, right], [y + 0.06, y, y, y + 0.06], color=QUIET, linewidth=1)
        axes.text(
            (left + right) / 2, y - 0.13, f"unit {unit}: {drawn}", ha="center", va="center", size=8.5, color=MUTED
        )


def _draw_switches(axes: Axes, cluster: Cluster, layout: TreeLayout, view: TreeView) -> None:
    half = _half_width(list(view.leaves.values()))
    for leaf, x in view.leaves.items():
        device = _device_under(layout, view, leaf)
        colour = _rail_colour(layout, device)
        number = layout.rail_of_device_D[device] if _num_rails(layout) > 1 else layout.unit_of_leaf[leaf]
        _box(axes, x - half, x + half, LEAF_Y - HALF, LEAF_Y + HALF, face=colour, edge=colour)
        axes.text(x, LEAF_Y - 0.01, str(number), ha="center", va="center", color=PAPER, size=8.5)
    for group, (left, right) in view.groups.items():
        _box(axes, left, right, SPINE_Y - HALF, SPINE_Y + HALF, face=GRID, edge=MUTED)
        axes.text((left + right) / 2, SPINE_Y - 0.01, _group_name(layout, group), ha="center", va="center", size=8.5)
    if _has_core(layout, view):
        left, right = min(a for a, _ in view.groups.values()), max(b for _, b in view.groups.values())
        _box(axes, left, right, CORE_Y - HALF, CORE_Y + HALF, face=GRID, edge=INK)
        axes.text((left + right) / 2, CORE_Y - 0.01, "core", ha="center", va="center", size=8.5)


def _draw_tier_names(axes: Axes, cluster: Cluster, layout: TreeLayout, view: TreeView) -> None:
    """At the left, level with each row: what it is, and what one of its links carries."""
    links = cluster.links
    device = next(iter(view.devices))
    accelerator = cluster.devices[device].accelerator.name
    _tier(axes, DEVICE_Y, "devices", accelerator)
    _tier(axes, SWITCH_Y, "node switches", _rate(links[layout.scale_up_out_D[device]]))
    if view.leaves:
        _tier(axes, NIC_Y, "NICs", _rate(links[layout.nic_out_D[device]]))
        uplinks = [layout.leaf_up[leaf] for leaf in view.leaves if layout.leaf_up[leaf] >= 0]
        name = "leaves, by rail" if _num_rails(layout) > 1 else "leaves, by unit"
        _tier(axes, LEAF_Y, name, _rate(links[uplinks[0]]) if uplinks else "no uplinks")
    if view.groups:
        up = layout.group_up[next(iter(view.groups))]
        _tier(axes, SPINE_Y, "spines", _rate(links[up]) if up >= 0 else "")
    if _has_core(layout, view):
        _tier(axes, CORE_Y, "core", "")


def _tier(axes: Axes, y: float, name: str, detail: str) -> None:
    axes.text(MARGIN, y + (0.09 if detail else 0.0), name, va="center", size=9, weight="bold")
    axes.text(MARGIN, y - 0.1, detail, va="center", size=8, color=MUTED)


def _rate(link: Link) -> str:
    bundle = f", {link.lanes} cables" if link.lanes > 1 else ""
    latency = format_time(float(f"{link.latency_s:.4g}"))  # 1 us, not 1000 ns for what rounds to it
    return f"{format_rate(link.bandwidth_bytes_per_s)} each way{bundle}, {latency}"


def _caption(cluster: Cluster, layout: TreeLayout, view: TreeView) -> str:
    parts = [f"{len(view.nodes)} of {cluster.num_nodes} nodes"]
    if view.hidden_devices:
        shown = cluster.devices_per_node - view.hidden_devices
        parts.append(f"{shown} of {cluster.devices_per_node} devices of each")
    units = len(set(layout.unit_of_leaf.tolist()))
    if units > 1:
        parts.append(f"{len({int(layout.unit_of_leaf[leaf]) for leaf in view.leaves})} of {units} units")
    whole = len(view.nodes) == cluster.num_nodes and not view.hidden_devices
    head = "Drawn whole: " if whole else "Drawn in part: "
    colours = "; one colour per rail" if _num_rails(layout) > 1 and view.leaves else ""
    return head + ", ".join(parts) + "; each line is a link up and one down" + colours


def _group_name(layout: TreeLayout, group: int) -> str:
    pod = int(layout.pod_of_group[group])
    rails = {int(rail) for rail in layout.rail_of_device_D[layout.group_of_leaf[layout.leaf_of_device_D] == group]}
    several = len(set(layout.pod_of_group.tolist())) > 1
    alone = len(rails) == 1 and len(set(layout.rail_of_device_D.tolist())) > 1
    kind = "plane" if layout.planes else "rail"
    return "spines" + (f" of pod {pod}" if several else "") + (f", {kind} {min(rails)}" if alone else "")


def _half_width(centres: list[float]) -> float:
    """Half the width of leaf boxes that leaves a gap between neighbours."""
    closest = min((b - a for a, b in pairwise(centres)), default=1.0)
    return min(0.4, closest * 0.42)


def _num_rails(layout: TreeLayout) -> int:
    return int(layout.rail_of_device_D.max()) + 1


def _device_under(layout: TreeLayout, view: TreeView, leaf: int) -> int:
    return next(device for device in view.devices if layout.leaf_of_device_D[device] == leaf)


def _rail_colour(layout: TreeLayout, device: int) -> str:
    return RAIL_COLOUR[int(layout.rail_of_device_D[device]) % len(RAIL_COLOUR)]


def _has_core(layout: TreeLayout, view: TreeView) -> bool:
    return any(layout.group_up[group] >= 0 for group in view.groups)


def _box(axes: Axes, left: float, right: float, bottom: float, top: float, *, face: str, edge: str) -> None:
    shape = FancyBboxPatch(
        (left, bottom), right - left, top - bottom, boxstyle="round,pad=0,rounding_size=0.05", facecolor=face
    )
    shape.set(edgecolor=edge, linewidth=1, zorder=3 if face != "#f1f4f7" else 1)
    axes.add_patch(shape)
