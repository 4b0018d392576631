"""Bisection and diameter against graphs of small clusters."""

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings

from moesim.cluster import Cluster
from moesim.network.paths import path_policies
from moesim.topology import describe_topology, load_topology
from moesim.topology.describe import bisection, diameter
from tests.strategies.cluster import clusters, graph, tree


def smallest_cut(cluster: Cluster) -> float:
    """Maximum flow over every even split of the nodes, the smallest of them, by brute force."""
    nodes = range(cluster.num_nodes)
    flows = []
    for first in itertools.combinations(nodes, cluster.num_nodes // 2):
        for side in (set(first), set(nodes) - set(first)):
            network = graph(cluster)
            for device in cluster.devices:
                pair = ("source", f"dev{device.index}") if device.node in side else (f"dev{device.index}", "sink")
                network.add_edge(*pair, capacity=1e12)
            flows.append(nx.maximum_flow_value(network, "source", "sink"))
    return min(flows)


@settings(max_examples=40)
@given(cluster=clusters(max_nodes=5).filter(lambda cluster: cluster.num_nodes > 1))
def test_bisection_is_the_smallest_cut(cluster: Cluster) -> None:
    """The tier-by-tier bisection equals the smallest maximum flow over all even splits of the nodes."""
    assert smallest_cut(cluster) == pytest.approx(bisection(cluster))


def test_bisection_of_an_uneven_oversubscribed_tree() -> None:
    """3:1 leaves over units of 2, 2 and 1 nodes: the cheapest even split takes whole units."""
    cluster = tree(nodes=5, oversubscription=3.0)
    assert smallest_cut(cluster) == pytest.approx(2 * 2 * 10.0 / 3) == pytest.approx(bisection(cluster))


def test_bisection_without_oversubscription() -> None:
    """A non-blocking tree passes half its nodes' NIC bandwidth: 64 x 8 x 50 GB/s for 128 DGX H100."""
    assert 64 * 8 * 50e9 == bisection(load_topology("dgx-h100-superpod"))


def test_bisection_of_oversubscribed_pods() -> None:
    """Meta's eight pods are cut where four of them leave for the core, at a seventh of their NIC bandwidth."""
    assert bisection(load_topology("meta-24k-roce")) == pytest.approx(4 * 3072 * 50e9 / 7)


def test_bisection_of_one_node_is_that_of_its_devices() -> None:
    """Four of eight devices send at NVLink rate; one device alone has nothing to split."""
    assert 4 * 450e9 == bisection(load_topology("dgx-h100"))
    assert bisection(tree(nodes=1, devices=1, rails=1)) is None


@settings(max_examples=60)
@given(cluster=clusters())
def test_diameter_is_the_longest_default_path(cluster: Cluster) -> None:
    """No pair of devices has a longer path under the default policy, and some pair has one as long."""
    source_F, target_F = (axis.ravel() for axis in np.mgrid[: cluster.num_devices, : cluster.num_devices])
    paths = path_policies.get(cluster.default_path_policy)(cluster, source_F, target_F)
    assert int(np.diff(paths.offsets).max()) == diameter(cluster)


@settings(max_examples=60)
@given(cluster=clusters())
def test_every_device_reaches_every_other(cluster: Cluster) -> None:
    """The links of a cluster connect all its devices, in both directions."""
    network = graph(cluster)
    devices = [f"dev{device.index}" for device in cluster.devices]
    assert all(set(devices) <= nx.descendants(network, device) | {device} for device in devices)
    assert len(cluster.links) == network.number_of_edges()


def test_description_of_four_nodes() -> None:
    """Four DGX H100: 32 devices with 4 links each, 8 leaves with 2, half of 4 nodes across, 4 links to another rail."""
    described = describe_topology(load_topology("dgx-h100-superpod", nodes=4))
    expected = {"devices": 32, "nodes": 4, "links": 144, "bisection_bytes_per_s": 800e9, "diameter_hops": 4}
    assert expected == {key: described[key] for key in expected}
    assert {"scale_up": 64, "nic": 64, "leaf": 16} == described["tiers"]
