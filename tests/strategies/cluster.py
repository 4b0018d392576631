"""Strategies for clusters: small trees, tori, dragonflies and graphs of every kind the shapes build."""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from hypothesis import strategies as st

from moesim.cluster import Accelerator, Cluster, DragonflyLayout, GraphLayout, TorusLayout
from moesim.topology import load_topology
from moesim.topology.shapes import dragonfly as dragonfly_shape
from moesim.topology.shapes import graph as graph_shape
from moesim.topology.shapes import torus as torus_shape
from moesim.topology.shapes.rail_fat_tree import Parameters, Spec, build
from moesim.yaml_file import validate

ACCELERATOR = Accelerator("toy", {"bf16": 1e12}, 1e9, 1e11)


@functools.cache
def shipped(name: str) -> Cluster:
    """A shipped topology as it is, built once: the largest take seconds."""
    return load_topology(name)


def fact(value: Any) -> dict[str, Any]:
    """A number as files hold it."""
    return {"value": value, "kind": "assumed", "source": "test"}


def tree(
    *,
    nodes: int,
    devices: int = 2,
    rails: int = 2,
    nodes_per_unit: int = 2,
    units_per_pod: int | None = None,
    per_rail: bool = False,
    planes: bool = False,
    oversubscription: float = 1.0,
    core_oversubscription: float = 1.0,
    nic: float = 10.0,
    lanes: int = 1,
    **parameters: Any,
) -> Cluster:
    """A tree with scale-up links of 100 B/s, NIC ports of `nic` B/s and latencies of 2, 4, 6 and 8 s end to end."""
    spine: dict[str, Any] = {"per_rail": per_rail, "oversubscription": fact(oversubscription), "latency": fact(6.0)}
    if units_per_pod is not None:
        spine["units"] = fact(units_per_pod)
    data = {
        "format_version": 1,
        "name": "toy",
        "shape": "rail_fat_tree",
        "accelerator": "toy",
        "nodes": fact(nodes),
        "scale_up": {"devices": fact(devices), "bandwidth": fact(100.0), "latency": fact(2.0)},
        "nic": {"lanes": fact(lanes), "bandwidth": fact(nic)},
        "leaf": {"nodes": fact(nodes_per_unit), "rails": fact(rails), "latency": fact(4.0)},
        "spine": spine,
        "core": {"oversubscription": fact(core_oversubscription), "latency": fact(8.0)},
        "planes": planes,
    }
    return build(validate(Spec, data, "toy.yaml"), Parameters(**parameters), ACCELERATOR, ("test",))


def torus(
    shape: str,
    *,
    wrap: str = "all",
    twist: Any = None,
    slices: int | None = None,
    host: tuple[int, ...] = (2, 2, 1),
    bandwidths: tuple[float, ...] = (10.0, 10.0, 10.0),
) -> Cluster:
    """A grid with links of 10 B/s and 1 s a hop, 3 B/s and 4 s end to end between slices per chip."""
    axes = "xyz"[: shape.split("_")[0].count("x") + 1]
    data = {
        "format_version": 1,
        "name": "toy-torus",
        "shape": "torus",
        "accelerator": "toy",
        **{axis: {"chips": fact(2), "bandwidth": fact(rate)} for axis, rate in zip(axes, bandwidths, strict=False)},
        "hop_latency": fact(1.0),
        "wrap": {"multiple": fact(1)},
        "host": {axis: fact(chips) for axis, chips in zip(axes, host, strict=False)},
        "dcn": {"bandwidth_per_chip": fact(3.0), "latency": fact(4.0)},
        "name_counts": fact(2),
    }
    asked = torus_shape.Parameters(shape=shape, wrap=wrap, twist=twist, slices=slices)
    return torus_shape.build(validate(torus_shape.Spec, data, "toy.yaml"), asked, ACCELERATOR, ("test",))


@st.composite
def tori(draw: st.DrawFn, *, most_slices: int = 2) -> Cluster:
    """Grids of one to three axes of one to six chips, wrapped or not, some twisted, some several times over."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3).filter(lambda ns: np.prod(ns) <= 72))
    shape, axes = "x".join(map(str, lengths)), "xyz"[: len(lengths)]
    slices = draw(st.integers(1, most_slices))
    wrap = draw(st.sampled_from(["all", "none", *axes]))
    if draw(st.booleans()) and len(set(lengths)) > 1 and max(lengths) <= 4 * min(lengths) and min(lengths) > 1:
        axis = draw(st.integers(0, len(lengths) - 1))
        shift = [0 if other == axis else draw(st.integers(0, n - 1)) for other, n in enumerate(lengths)]
        return torus(shape, twist={axes[axis]: shift}, slices=slices)
    return torus(shape, wrap=wrap, slices=slices)


def dragonfly(*, nodes: int, devices: int = 2, group_nodes: int = 4, switches: int = 3, per_pair: int = 2) -> Cluster:
    """Switches joined by 5 B/s inside groups and 4 B/s between them, NICs of 10 B/s, scale-up links of 100 B/s."""
    data = {
        "format_version": 1,
        "name": "toy-dragonfly",
        "shape": "dragonfly",
        "accelerator": "toy",
        "nodes": fact(nodes),
        "scale_up": {"devices": fact(devices), "bandwidth": fact(100.0), "latency": fact(2.0)},
        "nic": {"bandwidth": fact(10.0), "latency": fact(4.0)},
        "group": {"nodes": fact(group_nodes), "switches": fact(switches)},
        "local": {"lanes": fact(1), "bandwidth": fact(5.0), "latency": fact(1.0)},
        "global": {"per_pair": fact(per_pair), "bandwidth": fact(4.0), "latency": fact(3.0)},
    }
    spec = validate(dragonfly_shape.Spec, data, "toy.yaml")
    return dragonfly_shape.build(spec, dragonfly_shape.Parameters(), ACCELERATOR, ("test",))


@st.composite
def dragonflies(draw: st.DrawFn) -> Cluster:
    """One to four groups of up to three switches."""
    devices, group_nodes = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    return dragonfly(
        nodes=draw(st.integers(1, 3 * group_nodes)),
        devices=devices,
        group_nodes=group_nodes,
        switches=draw(st.integers(1, min(3, devices * group_nodes))),
        per_pair=draw(st.integers(1, 3)),
    )


def graph_cluster(data: dict[str, Any], **parameters: Any) -> Cluster:
    """The cluster of node-link data, through a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "toy.json"
        path.write_text(json.dumps(data))
        header = {"format_version": 1, "name": "toy-graph", "shape": "graph", "accelerator": "toy", "file": str(path)}
        spec = validate(graph_shape.Spec, header, "toy.yaml")
        return graph_shape.build(spec, graph_shape.Parameters(**parameters), ACCELERATOR, ("test",))


@st.composite
def graphs(draw: st.DrawFn) -> Cluster:
    """Connected graphs of up to seven vertices, some of them switches, with links of 1 to 3 B/s."""
    number = draw(st.integers(1, 7))
    kinds = ["device", *draw(st.lists(st.sampled_from(["device", "switch"]), min_size=number - 1, max_size=number - 1))]
    joined = {(draw(st.integers(0, vertex - 1)), vertex) for vertex in range(1, number)}
    pairs = st.tuples(st.integers(0, number - 1), st.integers(0, number - 1)).filter(lambda pair: pair[0] < pair[1])
    joined |= set(draw(st.lists(pairs, max_size=8))) if number > 1 else set()
    return graph_cluster(
        {
            "nodes": [{"id": vertex, "kind": kind} for vertex, kind in enumerate(kinds)],
            "edges": [
                {"source": one, "target": other, "bandwidth": float(draw(st.integers(1, 3)))}
                for one, other in sorted(joined)
            ],
        }
    )


def way_ends(cluster: Cluster) -> dict[int, tuple[str, str]]:
    """From and to of every link of any cluster, read off its layout."""
    layout = cluster.layout
    if isinstance(layout, TorusLayout):
        ends = {}
        for chip, port in np.argwhere(layout.link_DP >= 0).tolist():
            ends[int(layout.link_DP[chip, port])] = (f"dev{chip}", f"dev{layout.neighbor_DP[chip, port]}")
        for node, (up, down) in enumerate(zip(layout.dcn_up_N.tolist(), layout.dcn_down_N.tolist(), strict=True)):
            ends[up], ends[down] = (f"node{node}", "between"), ("between", f"node{node}")
        return ends
    if isinstance(layout, GraphLayout):
        name = [f"dev{v}" if v < cluster.num_devices else f"switch{v}" for v in range(len(layout.vertex_names))]
        source = np.repeat(np.arange(len(name)), np.diff(layout.offsets))
        return {
            int(link): (name[one], name[other])
            for link, one, other in zip(layout.links, source, layout.targets, strict=True)
        }
    return _dragonfly_ends(cluster, layout) if isinstance(layout, DragonflyLayout) else ends_of_links(cluster)


def _dragonfly_ends(cluster: Cluster, layout: DragonflyLayout) -> dict[int, tuple[str, str]]:
    ends = {}
    for device in range(cluster.num_devices):
        node, switch = f"node{cluster.node_of_device_D[device]}", f"switch{layout.switch_of_device_D[device]}"
        ends[int(layout.scale_up_out_D[device])] = (f"dev{device}", node)
        ends[int(layout.scale_up_in_D[device])] = (node, f"dev{device}")
        ends[int(layout.nic_out_D[device])] = (f"dev{device}", switch)
        ends[int(layout.nic_in_D[device])] = (switch, f"dev{device}")
    per_group = layout.local_SK.shape[1]
    for switch, place in np.argwhere(layout.local_SK >= 0).tolist():
        other = switch // per_group * per_group + place
        ends[int(layout.local_SK[switch, place])] = (f"switch{switch}", f"switch{other}")
    for link, one, other in zip(layout.global_links, layout.global_from, layout.global_to, strict=True):
        ends[int(link)] = (f"switch{one}", f"switch{other}")
    return ends


@st.composite
def clusters(draw: st.DrawFn, max_nodes: int = 6) -> Cluster:
    """A tree of up to `max_nodes` nodes with one to four devices each."""
    devices = draw(st.sampled_from([1, 2, 4]))
    return tree(
        nodes=draw(st.integers(1, max_nodes)),
        devices=devices,
        rails=draw(st.sampled_from([rails for rails in (1, 2, 4) if devices % rails == 0])),
        nodes_per_unit=draw(st.integers(1, 3)),
        units_per_pod=draw(st.one_of(st.none(), st.integers(1, 3))),
        per_rail=draw(st.booleans()),
        planes=draw(st.booleans()),
        oversubscription=draw(st.sampled_from([0.5, 1.0, 2.0, 3.0])),
        core_oversubscription=draw(st.sampled_from([0.5, 1.0, 4.0])),
        lanes=draw(st.sampled_from([1, 4])),
    )


def ends_of_links(cluster: Cluster) -> dict[int, tuple[str, str]]:
    """From and to of every link, read off its name and the layout's leaf and group of each device."""
    layout, ends = cluster.layout, {}
    for device in range(cluster.num_devices):
        node, leaf = f"node{layout.node_of_device_D[device]}", f"leaf{layout.leaf_of_device_D[device]}"
        ends[int(layout.scale_up_out_D[device])] = (f"dev{device}", node)
        ends[int(layout.scale_up_in_D[device])] = (node, f"dev{device}")
        ends[int(layout.nic_out_D[device])] = (f"dev{device}", leaf)
        ends[int(layout.nic_in_D[device])] = (leaf, f"dev{device}")
        spine = f"spine{layout.group_of_leaf[layout.leaf_of_device_D[device]]}"
        ends[int(layout.leaf_up[layout.leaf_of_device_D[device]])] = (leaf, spine)
        ends[int(layout.leaf_down[layout.leaf_of_device_D[device]])] = (spine, leaf)
        core = f"core{layout.rail_of_device_D[device]}" if layout.planes else "core"
        group = layout.group_of_leaf[layout.leaf_of_device_D[device]]
        ends[int(layout.group_up[group])] = (spine, core)
        ends[int(layout.group_down[group])] = (core, spine)
    ends.pop(-1, None)
    return ends


def graph(cluster: Cluster) -> nx.DiGraph:
    """The cluster as a graph of devices and switches, one edge for all links between two with their bandwidth."""
    result = nx.DiGraph()
    for link, (source, target) in way_ends(cluster).items():
        before = result.get_edge_data(source, target, {"capacity": 0.0})["capacity"]
        result.add_edge(source, target, capacity=before + cluster.links[link].bandwidth_bytes_per_s)
    return result
