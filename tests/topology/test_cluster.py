"""The nouns: what a cluster answers, and what it refuses to be."""

import dataclasses

import numpy as np
import pytest

from moesim.cluster import Accelerator, Cluster, Device, Link
from moesim.errors import InputError, UnknownName
from moesim.topology import load_topology
from tests.strategies.cluster import ACCELERATOR, tree


def test_counts_and_arrays() -> None:
    """Two nodes of two devices: node of each device, and the links' numbers in their order."""
    cluster = tree(nodes=2)
    assert (4, 2, 2) == (cluster.num_devices, cluster.num_nodes, cluster.devices_per_node)
    assert [0, 0, 1, 1] == cluster.node_of_device_D.tolist()
    assert [link.bandwidth_bytes_per_s for link in cluster.links] == cluster.link_bandwidth.tolist()
    assert [link.latency_s for link in cluster.links] == cluster.link_latency_s.tolist()


def test_links_have_the_published_names() -> None:
    """Names are how faults and results speak of links."""
    cluster = load_topology("dgx-h100-superpod", nodes=33)
    for name in ("node3.nic2.up", "node32.dev0.scale_up.in", "unit1.leaf7.down"):
        assert name == cluster.links[cluster.link_index(name)].name
    meta = load_topology("meta-24k-roce", nodes=400)
    assert "pod" == meta.links[meta.link_index("pod1.up")].tier
    a100 = load_topology("dgx-a100-superpod", nodes=2)
    assert "pod" == a100.links[a100.link_index("pod0.rail7.down")].tier


def test_unknown_link_names_the_nearest() -> None:
    """A misspelt link is answered with the nearest one."""
    with pytest.raises(UnknownName, match=r"did you mean 'node1\.nic0\.up'"):
        tree(nodes=2).link_index("node1.nc0.up")


def test_uneven_nodes_have_no_devices_per_node() -> None:
    """Where nodes differ there is no one number, and the error says what there is."""
    cluster = tree(nodes=2)
    devices = cluster.devices[:3]
    with pytest.raises(InputError, match="nodes hold 1 to 2 devices"):
        _ = Cluster("odd", devices, cluster.links, cluster.layout).devices_per_node


def test_memory_is_the_accelerators_unless_given() -> None:
    """A device has its accelerator's memory; a slow or small device says so itself."""
    device = Device("node0.dev0", 0, 0, 0, ACCELERATOR)
    assert (1e9, 1.0) == (device.memory_bytes, device.speed)
    assert 5.0 == dataclasses.replace(device, memory_bytes=5.0).memory_bytes


@pytest.mark.parametrize(
    "build",
    [
        lambda: Link("x", 0.0, 0.0, "nic"),
        lambda: Link("x", float("nan"), 0.0, "nic"),
        lambda: Link("x", 1.0, -1.0, "nic"),
        lambda: Link("x", 1.0, 0.0, "nic", lanes=0),
        lambda: Link("x", 1.0, 0.0, "wire"),  # type: ignore[arg-type]  # the point of the case
        lambda: Device("x", 0, 0, 0, ACCELERATOR, speed=0.0),
        lambda: Device("x", 0, 0, 0, ACCELERATOR, memory_bytes=-1.0),
        lambda: Accelerator("x", {"bf16": -1.0}, 1.0, 1.0),
        lambda: Accelerator("x", {}, float("inf"), 1.0),
        lambda: Cluster("x", (), (), tree(nodes=1).layout),
        lambda: Cluster("x", tree(nodes=2).devices[1:], (), tree(nodes=2).layout),
        lambda: Cluster("x", (Device("x", 0, 1, 0, ACCELERATOR),), (), tree(nodes=1).layout),
        lambda: Cluster("x", tree(nodes=1).devices, (Link("a", 1.0, 0.0, "nic"),) * 2, tree(nodes=1).layout),
    ],
)
def test_impossible_parts_are_refused(build) -> None:  # type: ignore[no-untyped-def]
    """No bandwidth, no memory, no devices, gaps or duplicate names: refused where they are made."""
    with pytest.raises(InputError):
        build()


def test_same_file_same_cluster() -> None:
    """Loading twice gives equal devices, links, sources and layout arrays."""
    first, second = (load_topology("dgx-a100-superpod", nodes=23) for _ in range(2))
    assert (first.devices, first.links, first.sources) == (second.devices, second.links, second.sources)
    for field in dataclasses.fields(first.layout):
        assert np.array_equal(getattr(first.layout, field.name), getattr(second.layout, field.name))


def test_parameters_show_in_the_sources() -> None:
    """What was asked for in place of a file's number is listed first, as an assumption."""
    cluster = load_topology("dgx-h100-superpod", nodes=2, oversubscription=4.0, accelerator="h200-sxm")
    assert cluster.sources[0].startswith("nodes = 2 (assumed)")
    assert cluster.sources[1].startswith("oversubscription = 4.0 (assumed)")
    assert 141e9 == cluster.devices[0].memory_bytes
    assert 2 * 50e9 / 4 == cluster.link_bandwidth[cluster.link_index("unit0.leaf0.up")]
