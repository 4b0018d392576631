"""The links that are alive, as a graph: what a torus, a dragonfly or a graph becomes once links are dead.

Vertices 0..D-1 are the devices; switches follow. Array letters: D device, J link, N node, S switch, X directed edge. A
link is one edge, but for the links between slices, which every device of a node uses.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import Cluster, DragonflyLayout, GraphLayout, TorusLayout
from moesim.errors import InputError

Ids = NDArray[np.integer[Any]]
Edges = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]  # source [X], target [X], link [X]


def live_graph(cluster: Cluster, dead_J: NDArray[np.bool_]) -> GraphLayout:
    """The cluster's wiring without its dead links; raises InputError for a tree, which has paths of its own kind."""
    layout = cluster.layout
    if isinstance(layout, TorusLayout):
        (source_X, target_X, link_X), num_vertices = _torus_edges(cluster, layout), cluster.num_devices + 1
    elif isinstance(layout, DragonflyLayout):
        source_X, target_X, link_X = _dragonfly_edges(cluster, layout)
        num_vertices = cluster.num_devices + cluster.num_nodes + len(layout.group_of_switch)
    elif isinstance(layout, GraphLayout):
        num_vertices = len(layout.vertex_names)
        source_X = np.repeat(np.arange(num_vertices), np.diff(layout.offsets))
        target_X, link_X = layout.targets.astype(np.int64), layout.links.astype(np.int64)
    else:
        raise InputError(f"{cluster.name} is a tree: its links are not followed as a graph")
    alive_X = np.flatnonzero((link_X >= 0) & ~dead_J[link_X])
    order = alive_X[np.argsort(source_X[alive_X], kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(source_X[order], minlength=num_vertices))])
    return GraphLayout(
        vertex_names=tuple(str(vertex) for vertex in range(num_vertices)),
        offsets=offsets.astype(np.int32),
        links=link_X[order].astype(np.int32),
        targets=target_X[order].astype(np.int32),
        hash_seed=getattr(layout, "hash_seed", 0),
    )


def _torus_edges(cluster: Cluster, layout: TorusLayout) -> Edges:
    """Chip to chip by port; with slices also every chip to the network between slices and back."""
    chip_X, port_X = np.nonzero(layout.link_DP >= 0)
    source: list[Ids] = [chip_X]
    target: list[Ids] = [layout.neighbor_DP[chip_X, port_X]]
    links: list[Ids] = [layout.link_DP[chip_X, port_X]]
    if len(layout.dcn_up_N):
        chip_D = np.arange(cluster.num_devices)
        outside_D = np.full_like(chip_D, cluster.num_devices)
        source += [chip_D, outside_D]
        target += [outside_D, chip_D]
        links += [layout.dcn_up_N[cluster.node_of_device_D], layout.dcn_down_N[cluster.node_of_device_D]]
    return _joined(source, target, links)


def _dragonfly_edges(cluster: Cluster, layout: DragonflyLayout) -> Edges:
    """Device to node and switch, switch to switch of its group, and between groups."""
    chip_D, node_D = np.arange(cluster.num_devices), cluster.num_devices + cluster.node_of_device_D
    first_switch = cluster.num_devices + cluster.num_nodes
    switch_D = first_switch + layout.switch_of_device_D
    near_X, place_X = np.nonzero(layout.local_SK >= 0)
    members = {
        (group, place): switch
        for switch, (group, place) in enumerate(zip(layout.group_of_switch, layout.place_in_group, strict=True))
    }
    far_X = np.array([members[layout.group_of_switch[s], k] for s, k in zip(near_X, place_X, strict=True)], np.int64)
    source: list[Ids] = [chip_D, node_D, chip_D, switch_D, first_switch + near_X, first_switch + layout.global_from]
    target: list[Ids] = [node_D, chip_D, switch_D, chip_D, first_switch + far_X, first_switch + layout.global_to]
    links: list[Ids] = [
        layout.scale_up_out_D,
        layout.scale_up_in_D,
        layout.nic_out_D,
        layout.nic_in_D,
        layout.local_SK[near_X, place_X],
        layout.global_links,
    ]
    return _joined(source, target, links)


def _joined(source: list[Ids], target: list[Ids], links: list[Ids]) -> Edges:
    one, two, three = (np.concatenate(column).astype(np.int64) for column in (source, target, links))
    return one, two, three
