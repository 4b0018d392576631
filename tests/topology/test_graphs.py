"""Users' own graphs and dragonflies: what they become, and what is refused."""

import json
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cluster import Cluster, GraphLayout
from moesim.errors import InputError
from moesim.network.bound import link_load
from moesim.network.paths import split_paths
from moesim.topology import describe_topology, load_topology
from moesim.topology.describe import bisection, diameter
from tests.strategies.cluster import dragonflies, dragonfly, graph, graphs, torus, way_ends


def rack() -> nx.Graph:
    """Two nodes of two devices under two switches joined by two parallel links."""
    drawn = nx.MultiGraph(name="rack", accelerator="h100-sxm")
    for device in range(4):
        drawn.add_node(f"gpu{device}", node=device // 2)
        drawn.add_node(f"leaf{device // 2}", kind="switch")
        drawn.add_edge(f"gpu{device}", f"leaf{device // 2}", bandwidth="400 Gbit/s", latency="1 us", lanes=2)
    drawn.add_edge("leaf0", "leaf1", bandwidth=30e9, key="a", tier="core")
    drawn.add_edge("leaf0", "leaf1", bandwidth=20e9, key="b", name="second")
    return drawn


def load_json(folder: Path, data: Any, **parameters: Any) -> Cluster:
    path = folder / "own.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return load_topology(path, **{"accelerator": "h100-sxm", **parameters})


@pytest.mark.parametrize("edges", ["edges", "links"])
def test_node_link_data(tmp_path: Path, edges: str) -> None:
    """What networkx.node_link_data writes, by either name of its edges, is a cluster with its rates, tiers and nodes."""
    cluster = load_json(tmp_path, nx.node_link_data(rack(), edges=edges))
    described = describe_topology(cluster)
    expected = {
        "name": "rack",
        "devices": 4,
        "nodes": 2,
        "links": 12,
        "diameter_hops": 3,
        "bisection_bytes_per_s": 50e9,
    }
    assert expected == {key: described[key] for key in expected}
    assert {"nic": 8, "leaf": 2, "core": 2} == described["tiers"]
    first = cluster.links[cluster.link_index("node0.dev0.to.leaf0.0")]
    assert (50e9, 1e-6, 2) == (first.bandwidth_bytes_per_s, first.latency_s, first.lanes)
    assert [0, 0, 1, 1] == cluster.node_of_device_D.tolist()


def test_graphml_is_the_same_cluster(tmp_path: Path) -> None:
    """A graph written as GraphML and as JSON gives the same devices and, but for their names, the same links."""
    simple = nx.DiGraph((one, other, data) for one, other, data in rack().to_directed().edges(data=True))
    for vertex, data in rack().nodes(data=True):
        simple.nodes[vertex].update(data)
    for _, _, data in simple.edges(data=True):
        data["bandwidth"] = str(data["bandwidth"])
    nx.write_graphml(simple, tmp_path / "own.graphml", infer_numeric_types=True)
    first = load_topology(tmp_path / "own.graphml", accelerator="h100-sxm")
    second = load_json(tmp_path, nx.node_link_data(simple))
    assert first.devices == second.devices
    assert first.links == second.links


def test_a_graph_file_beside_a_topology_file(tmp_path: Path) -> None:
    """A topology file names its graph relative to itself."""
    (tmp_path / "own.json").write_text(json.dumps(nx.node_link_data(rack())))
    text = "format_version: 1\nname: mine\nshape: graph\naccelerator: h100-sxm\nfile: own.json\npath_policy: ecmp\n"
    (tmp_path / "mine.yaml").write_text(text)
    cluster = load_topology(tmp_path / "mine.yaml")
    assert ("mine", 4, "ecmp") == (cluster.name, cluster.num_devices, cluster.default_path_policy)


def test_a_torus_as_a_graph_is_that_torus(tmp_path: Path) -> None:
    """The links of a 4x4 torus written as a graph: same diameter, and an all-to-all loads all of them alike."""
    grid = torus("4x4")
    ends = way_ends(grid).values()
    data = {
        "directed": True,
        "nodes": [{"id": f"dev{chip}"} for chip in range(16)],
        "edges": [{"source": one, "target": other, "bandwidth": 10.0} for one, other in ends],
    }
    cluster = load_json(tmp_path, data)
    assert (diameter(grid), len(grid.links)) == (diameter(cluster), len(cluster.links))
    source_F, target_F = (axis.ravel() for axis in np.mgrid[:16, :16])
    split = split_paths("minimal_adaptive", cluster, source_F, target_F)
    assert link_load(split.paths, split.share_P, 64) == pytest.approx(np.full(64, 16 * 4 / 8))
    assert {"scale_up"} == {link.tier for link in cluster.links}


@settings(max_examples=40)
@given(cluster=st.one_of(graphs(), dragonflies()).filter(lambda cluster: cluster.num_nodes > 1))
def test_bisection_is_what_the_first_half_can_send(cluster: Cluster) -> None:
    """networkx's maximum flow from the devices of the first half of the nodes to the others."""
    network = graph(cluster)
    first = cluster.num_nodes // 2
    for device in cluster.devices:
        pair = ("first", f"dev{device.index}") if device.node < first else (f"dev{device.index}", "second")
        network.add_edge(*pair, capacity=1e9)
    assert nx.maximum_flow_value(network, "first", "second") == pytest.approx(bisection(cluster))


@settings(max_examples=60)
@given(cluster=st.one_of(graphs(), dragonflies()))
def test_diameter_is_the_longest_default_path(cluster: Cluster) -> None:
    """No pair of devices has a longer path under the default policy, and some pair has one as long."""
    source_F, target_F = (axis.ravel() for axis in np.mgrid[: cluster.num_devices, : cluster.num_devices])
    split = split_paths(cluster.default_path_policy, cluster, source_F, target_F)
    assert int(np.diff(split.paths.offsets).max()) == diameter(cluster)


def test_dragonfly_counts() -> None:
    """Three groups of three switches: 2 links a device each way, 6 inside each group, 2 each way per pair of groups."""
    cluster = dragonfly(nodes=12)
    tiers = describe_topology(cluster)["tiers"]
    assert {"scale_up": 48, "nic": 48, "local": 18, "global": 12} == tiers
    assert {"group0.global1.to2", "group2.switch0.to1"} <= {link.name for link in cluster.links}


GOOD: dict[str, Any] = {
    "nodes": [{"id": 0}, {"id": 1}, {"id": "s", "kind": "switch"}],
    "edges": [{"source": 0, "target": "s", "bandwidth": 1.0}, {"source": 1, "target": "s", "bandwidth": 1.0}],
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(GOOD)), **changes}


def with_edge(**edge: Any) -> dict[str, Any]:
    return changed(edges=[*GOOD["edges"], edge])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            changed(edges=GOOD["edges"][:1]),
            "not connected: 1 of its 2 devices, node1.dev0 the first, cannot reach node0.dev0",
        ),
        (changed(edges=[]), "not connected: 1 of its 2 devices"),
        (changed(directed=True), "not connected: 1 of its 2 devices"),
        (
            with_edge(source="s", target=0, bandwidth=2.0),
            "two links from s to node0.dev0; give parallel links different",
        ),
        (with_edge(source=0, target=0, bandwidth=2.0), "node0.dev0 has a link to itself"),
        (with_edge(source=0, target=7, bandwidth=2.0), "a link ends at '7', which is no vertex"),
        (with_edge(source=0, target=[1], bandwidth=2.0), "which is no vertex"),
        (with_edge(source=0, target=1), "the link node0.dev0.to.node1.dev0 has no bandwidth"),
        (with_edge(source=0, target=1, bandwidth="fast"), "cannot read 'fast' as rate"),
        (with_edge(source=0, target=1, bandwidth=float("nan")), "rate nan"),
        (with_edge(source=0, target=1, bandwidth=-1), "rate -1"),
        (with_edge(source=0, target=1, bandwidth=1, latency="-1 us"), "time"),
        (with_edge(source=0, target=1, bandwidth=1, tier="wire"), "unknown tier of link .* 'wire'"),
        (with_edge(source=0, target=1, bandwidth=1, lanes=1.5), "lanes of link .* must be a whole number"),
        (changed(nodes=[{"id": "s", "kind": "switch"}], edges=[]), "has no devices"),
        (changed(nodes=[*GOOD["nodes"], {"id": 0}]), "two vertices with the id '0'"),
        (changed(nodes=[*GOOD["nodes"], {"id": None}]), "the id of a vertex must be"),
        (changed(nodes=[*GOOD["nodes"], {"id": 3, "kind": "swich"}]), "'swich'; did you mean 'switch'"),
        (changed(nodes=[{"id": 0, "node": 0}, *GOOD["nodes"][1:]]), "node of vertex '1' must be a whole number"),
        (changed(nodes=[{"id": 0, "speed": 0}, *GOOD["nodes"][1:]]), "speed of vertex '0' must be a number above 0"),
        (changed(nodes=3), "nodes must be a list of records"),
        (changed(edges=[1]), "must be a list of records"),
        (changed(graph=3), "graph must be a record"),
        ([], "holds a list at its top"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_bad_graphs_are_refused(data: Any, message: str, tmp_path: Path) -> None:
    """A graph that is no cluster is refused in one sentence that names the vertex or link."""
    with pytest.raises(InputError, match=message) as caught:
        load_json(tmp_path, data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<graphml", "is not XML"),
        ("<a/>", "must be GraphML with one graph"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type, entities"),
    ],
)
def test_bad_graphml_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """Broken XML, other XML, and XML with entities (expansion bombs) are refused before anything is built."""
    (tmp_path / "own.graphml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_topology(tmp_path / "own.graphml", accelerator="h100-sxm")


def test_a_graph_needs_an_accelerator_and_a_file(tmp_path: Path) -> None:
    """Without an accelerator, a file, or a file of a known kind, the sentence says which."""
    with pytest.raises(InputError, match="names no accelerator; give one"):
        load_json(tmp_path, GOOD, accelerator=None)
    with pytest.raises(InputError, match="does not exist"):
        load_topology(tmp_path / "none.json", accelerator="h100-sxm")
    (tmp_path / "mine.yaml").write_text(
        "format_version: 1\nname: mine\nshape: graph\naccelerator: h100-sxm\nfile: own.pickle\n"
    )
    with pytest.raises(InputError, match=r"neither \.json"):
        load_topology(tmp_path / "mine.yaml")


def test_vertices_are_numbered_node_by_node(tmp_path: Path) -> None:
    """Devices of one node follow each other whatever the order in the file; switches come last."""
    data = changed(nodes=[{"id": "s", "kind": "switch"}, {"id": 0, "node": 7}, {"id": 1, "node": 3}])
    layout = load_json(tmp_path, data).layout
    assert isinstance(layout, GraphLayout)
    assert ("node0.dev0", "node1.dev0", "s") == layout.vertex_names
