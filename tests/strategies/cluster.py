"""Strategies for clusters: small trees of every kind the rail_fat_tree shape builds."""

from typing import Any

import networkx as nx
from hypothesis import strategies as st

from moesim.cluster import Accelerator, Cluster
from moesim.topology.shapes.rail_fat_tree import Parameters, Spec, build
from moesim.yaml_file import validate

ACCELERATOR = Accelerator("toy", {"bf16": 1e12}, 1e9, 1e11)


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
    return build(validate(Spec, data, "toy.yaml"), Parameters(), ACCELERATOR, ("test",))


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
    """The cluster as a graph of devices and switches, one edge per link with its bandwidth as capacity."""
    result = nx.DiGraph()
    for link, (source, target) in ends_of_links(cluster).items():
        result.add_edge(source, target, capacity=cluster.links[link].bandwidth_bytes_per_s)
    return result
