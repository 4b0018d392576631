"""Which part of a tree a picture shows, and where on the paper each thing stands.

Lengths are inches, x to the right, y upwards.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from moesim.cluster import Cluster, TreeLayout

MOST_NODES, MOST_DEVICES = 8, 8
PART_UNITS, PART_NODES = 2, 2  # of a cluster too large to draw whole: so many units, so many nodes of each
MARGIN_LEFT, MARGIN, STEP, NODE_PAD, NODE_GAP, UNIT_GAP = 2.5, 0.3, 0.3, 0.12, 0.3, 0.35
LEAF_STEP = 0.36


@dataclass(frozen=True, slots=True)
class TreeView:
    """Where things stand: nodes and spine groups as (left, right), devices and leaves by centre; nodes of each unit."""

    width: float
    nodes: dict[int, tuple[float, float]]
    units: dict[int, list[int]]
    devices: dict[int, float]
    leaves: dict[int, float]
    groups: dict[int, tuple[float, float]]
    hidden_devices: int

    @property
    def right(self) -> float:
        """The right end of everything drawn."""
        return self.width - MARGIN


def view_tree(cluster: Cluster, layout: TreeLayout) -> TreeView:
    """Up to MOST_NODES nodes, spread over the first units, with up to MOST_DEVICES devices each."""
    chosen = _chosen_nodes(cluster, layout)
    shown_locals = min(cluster.devices_per_node, MOST_DEVICES)
    cursor = MARGIN_LEFT
    nodes: dict[int, tuple[float, float]] = {}
    devices: dict[int, float] = {}
    units: dict[int, list[int]] = {}
    for node in chosen:
        members = np.flatnonzero(layout.node_of_device_D == node)[:shown_locals].tolist()
        unit = _unit(layout, members[0])
        cursor += UNIT_GAP if units and unit not in units else 0.0
        units.setdefault(unit, []).append(node)
        right = cursor + 2 * NODE_PAD + max(shown_locals * STEP, 1.2)
        start = (cursor + right - shown_locals * STEP) / 2
        nodes[node] = (cursor, right)
        devices.update({device: start + (place + 0.5) * STEP for place, device in enumerate(members)})
        cursor = right + NODE_GAP
    width = cursor - NODE_GAP + MARGIN
    leaves = _place_leaves(layout, devices)
    groups = _place_groups(layout, leaves, MARGIN_LEFT, width - MARGIN)
    return TreeView(width, nodes, units, devices, leaves, groups, cluster.devices_per_node - shown_locals)


def _chosen_nodes(cluster: Cluster, layout: TreeLayout) -> list[int]:
    """All nodes when they are few; else the first ones of two units, in different pods where there are pods."""
    if cluster.num_nodes <= MOST_NODES:
        return list(range(cluster.num_nodes))
    first_device = np.searchsorted(cluster.node_of_device_D, np.arange(cluster.num_nodes))
    leaf_of_node = layout.leaf_of_device_D[first_device]
    unit_of_node = layout.unit_of_leaf[leaf_of_node]
    pod_of_node = layout.pod_of_group[layout.group_of_leaf[leaf_of_node]]
    apart = pod_of_node if pod_of_node[-1] > 0 else unit_of_node
    starts = np.unique(apart, return_index=True)[1][:PART_UNITS]
    ends = np.searchsorted(unit_of_node, unit_of_node[starts], side="right")
    most = PART_NODES if len(starts) > 1 else 2 * PART_NODES
    return [node for start, end in zip(starts, ends, strict=True) for node in range(start, min(end, start + most))]


def _unit(layout: TreeLayout, device: int) -> int:
    leaf = int(layout.leaf_of_device_D[device])
    return int(layout.unit_of_leaf[leaf]) if leaf >= 0 else 0


def _place_leaves(layout: TreeLayout, devices: dict[int, float]) -> dict[int, float]:
    """Leaves side by side over the middle of their unit's devices."""
    xs_of_unit: dict[int, list[float]] = {}
    leaves_of_unit: dict[int, list[int]] = {}
    for device, x in devices.items():
        leaf = int(layout.leaf_of_device_D[device])
        if leaf < 0:
            continue
        unit = int(layout.unit_of_leaf[leaf])
        xs_of_unit.setdefault(unit, []).append(x)
        if leaf not in leaves_of_unit.setdefault(unit, []):
            leaves_of_unit[unit].append(leaf)
    placed: dict[int, float] = {}
    for unit, leaves in leaves_of_unit.items():
        left, right = min(xs_of_unit[unit]), max(xs_of_unit[unit])
        step = max(LEAF_STEP, (right - left) / len(leaves) * 0.8)
        first = (left + right - step * (len(leaves) - 1)) / 2
        placed.update({leaf: first + step * place for place, leaf in enumerate(sorted(leaves))})
    return placed


def _place_groups(
    layout: TreeLayout, leaves: dict[int, float], left: float, right: float
) -> dict[int, tuple[float, float]]:
    """A spine group over its leaves; groups that would overlap stand side by side over the whole width."""
    members: dict[int, list[float]] = {}
    for leaf, x in leaves.items():
        if layout.leaf_up[leaf] >= 0:
            members.setdefault(int(layout.group_of_leaf[leaf]), []).append(x)
    ordered = sorted(members)
    over = {group: _span(members[group]) for group in ordered}
    if all(over[one][1] < over[other][0] for one, other in pairwise(ordered)):
        return over
    share = (right - left) / len(ordered)
    return {group: (left + share * (place + 0.1), left + share * (place + 0.9)) for place, group in enumerate(ordered)}


def _span(centres: list[float]) -> tuple[float, float]:
    """Left and right end of a box over `centres`, wide enough for its name."""
    middle = (min(centres) + max(centres)) / 2
    half = max((max(centres) - min(centres)) / 2 + 0.2, 0.7)
    return middle - half, middle + half
