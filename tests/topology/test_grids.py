"""Tori and meshes: who is whose neighbour, hosts, wraps, twists, slices, names of TPU slices."""

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings

from moesim.cluster import Cluster, TorusLayout
from moesim.errors import InputError
from moesim.topology import describe_topology, load_topology
from moesim.topology.describe import bisection, diameter
from tests.strategies.cluster import graph, tori, torus


def layout_of(cluster: Cluster) -> TorusLayout:
    assert isinstance(cluster.layout, TorusLayout)
    return cluster.layout


@settings(max_examples=60)
@given(cluster=tori())
def test_every_link_has_its_opposite(cluster: Cluster) -> None:
    """Going up an axis and down again leads back, each chip has one link per direction, and none to itself."""
    layout = layout_of(cluster)
    for chip, port in np.argwhere(layout.link_DP >= 0).tolist():
        other = int(layout.neighbor_DP[chip, port])
        assert chip != other
        assert chip == layout.neighbor_DP[other, port ^ 1]
        assert (
            f"{cluster.devices[chip].name}.{'xyz'[port // 2]}{'+-'[port % 2]}"
            == cluster.links[layout.link_DP[chip, port]].name
        )
    used = np.sort(layout.link_DP[layout.link_DP >= 0])
    assert np.arange(len(used)).tolist() == used.tolist()


@settings(max_examples=60)
@given(cluster=tori(most_slices=1))
def test_a_grid_holds_together(cluster: Cluster) -> None:
    """Any chip reaches any other; the diameter is the longest of the shortest ways."""
    network = graph(cluster)
    network.add_nodes_from(f"dev{device}" for device in range(cluster.num_devices))
    longest = max(max(hops.values()) for _, hops in nx.all_pairs_shortest_path_length(network))
    assert longest == diameter(cluster)


def test_plain_grid_by_hand() -> None:
    """2x3, wrapped: coordinates with the last axis fastest, + and - neighbours of chip (0, 0), twice the same along x."""
    layout = layout_of(torus("2x3", host=(1, 1)))
    assert [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]] == layout.coordinate_DA.tolist()
    assert [3, 3, 1, 2] == layout.neighbor_DP[0].tolist()


def test_open_axes_end() -> None:
    """A mesh has no link over its edges: 2x3 open has 2 x (3 + 4) of them."""
    cluster = torus("2x3", wrap="none")
    assert 2 * (3 + 4) == len(cluster.links)
    assert 2 * (3 + 6) == len(torus("2x3", wrap="y").links)


def test_twisted_wrap_by_hand() -> None:
    """4x4x8 twisted: up from (3, 1, 6) on x leads to (0, 1, 2); down from (0, 0, 1) on y to (0, 3, 5)."""
    layout = layout_of(torus("4x4x8_twisted"))
    chip_at = layout.chip_at.reshape(4, 4, 8)
    assert chip_at[0, 1, 2] == layout.neighbor_DP[chip_at[3, 1, 6], 0]
    assert chip_at[0, 3, 5] == layout.neighbor_DP[chip_at[0, 0, 1], 3]


def test_hosts_are_blocks() -> None:
    """A v4 host is 2x2x1 chips, numbered one after the other; along an axis of 3 it takes one chip (gcd)."""
    cluster = load_topology("tpu-v4-pod", shape="4x4x4")
    layout = layout_of(cluster)
    assert (16, 4) == (cluster.num_nodes, cluster.devices_per_node)
    assert [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]] == layout.coordinate_DA[:4].tolist()
    assert "node1.dev0" == cluster.devices[4].name and [0, 0, 1] == layout.coordinate_DA[4].tolist()
    assert 2 == torus("4x3").devices_per_node
    assert 8 == load_topology("v5e-16").devices_per_node


def test_chip_at_is_the_inverse_of_coordinates() -> None:
    """Chips found by slice and coordinates have these coordinates and lie in this slice."""
    layout = layout_of(torus("2x4x6", slices=3))
    assert 3 == layout.num_slices
    for slice_, place in itertools.product(range(3), range(48)):
        chip = layout.chip_at[slice_ * 48 + place]
        assert list(np.unravel_index(place, (2, 4, 6))) == layout.coordinate_DA[chip].tolist()
        assert slice_ == layout.slice_of_device_D[chip]


@pytest.mark.parametrize(
    ("name", "shape", "wraps"),
    [
        ("v4-256", (4, 4, 8), "xyz"),
        ("v4-8", (2, 2, 1), ""),
        ("v4-32", (2, 2, 4), ""),
        ("v4-4096", (8, 16, 16), "xyz"),
        ("tpu-v4-pod", (16, 16, 16), "xyz"),
        ("v5p-8", (2, 2, 1), ""),
        ("v5p-768", (4, 8, 12), "xyz"),
        ("v5p-12288", (16, 16, 24), "xyz"),
        ("v5p:8x8x16", (8, 8, 16), "xyz"),
        ("tpu-v5p:4x4x6", (4, 4, 6), ""),
        ("v5e-16", (4, 4), ""),
        ("v5litepod-8", (2, 4), ""),
        ("v5e-128", (8, 16), "y"),
        ("v6e-256", (16, 16), "xy"),
        ("v3-2048", (32, 32), "xy"),
        ("v3-16", (2, 4), ""),
        ("tpu7x-128", (4, 4, 4), "xyz"),
    ],
)
def test_slice_names(name: str, shape: tuple[int, ...], wraps: str) -> None:
    """Names count TensorCores, two a chip (v2 to v5p, v7), or chips (v5e, v6e); cubes of 4 wrap, smaller v4 are meshes."""
    layout = layout_of(load_topology(name))
    assert (shape, wraps) == (layout.lengths, "".join(a for a, w in zip("xyz", layout.wraps, strict=False) if w))


def test_v4_256_has_128_chips() -> None:
    """v4-256 is 256 TensorCores, so 128 chips on 32 hosts, and says which grid was built."""
    described = describe_topology(load_topology("v4-256"))
    assert (128, 32, 768) == (described["devices"], described["nodes"], described["links"])
    assert described["sources"][0].startswith("grid = 4x4x8 (derived): a torus, all axes wrap")


@pytest.mark.parametrize(
    ("name", "published"), [("tpu-v5e-pod", 1.6e12), ("tpu-v6e-pod", 3.2e12), ("tpu-v4-pod", 24e12 / 45 * 48)]
)
def test_published_bisection(name: str, published: float) -> None:
    """Pods' published bisections: 1.6 and 3.2 TB/s for v5e and v6e; v4's 24 TB/s within 7 % (50 GB/s links: 25.6)."""
    assert bisection(load_topology(name)) == pytest.approx(published)


@pytest.mark.parametrize(
    ("shape", "wrap", "cut"),
    [
        ("4x4x8", "all", 32),
        ("4x4x8", "none", 16),
        ("2x6", "all", 4),
        ("2x6", "x", 2),
        ("4", "all", 2),
        ("3x2", "none", 3),
    ],
)
def test_bisection_of_a_grid(shape: str, wrap: str, cut: int) -> None:
    """chips / k links across the middle of the longest even axis, twice that where it wraps."""
    assert cut * 10.0 == bisection(torus(shape, wrap=wrap))


@pytest.mark.parametrize(
    "cluster",
    [
        torus("2x4"),
        torus("2x4", wrap="none"),
        torus("3x3"),
        torus("2x2x2"),
        torus("9"),
        torus("2x5"),
        torus("2x6", twist={"x": [0, 3]}),
    ],
)
def test_bisection_is_the_smallest_cut_of_small_grids(cluster: Cluster) -> None:
    """Over all ways to halve the chips none cuts fewer links."""
    layout, num = layout_of(cluster), cluster.num_devices
    used, cuts = layout.link_DP >= 0, []
    for first in itertools.combinations(range(num), num // 2):
        first_D = np.isin(np.arange(num), first)
        cuts.append(int((used & first_D[:, None] & ~first_D[layout.neighbor_DP]).sum()))
    assert 10.0 * min(cuts) == bisection(cluster)


def test_twisting_doubles_the_cut() -> None:
    """Twisted 4x4x8 and 4x8x8 have twice the links across their smallest plane cut."""
    for shape in ("4x4x8", "4x8x8"):
        assert 2 * bisection(torus(shape)) == bisection(torus(f"{shape}_twisted"))  # type: ignore[operator]


def test_slices_halve_between_hosts() -> None:
    """Two of four slices are cut from the others at their hosts' links: 2 x 2 hosts of 4 x 3 B/s."""
    cluster = torus("2x2x2", slices=4)
    assert 4 * 12.0 == bisection(cluster)
    assert 3 == diameter(cluster)


def test_axes_may_differ_in_rate() -> None:
    """The UltraServer's links between instances are half as fast as those inside, and cut the bisection on z."""
    cluster = load_topology("trn2-ultraserver")
    assert {128e9: 256, 64e9: 128} == dict(zip(*np.unique(cluster.link_bandwidth, return_counts=True), strict=True))
    assert 2 * 16 * 64e9 == bisection(cluster)
    assert (64, 4) == (cluster.num_devices, cluster.num_nodes)


V4 = "tpu-v4-pod"


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        (V4, {"shape": "4x4x4_twisted"}, "4x4x4 has no standard twist: .* n x n x 2n .*cube cannot be twisted"),
        (V4, {"shape": "4x4x4", "twist": {"x": [0, 0, 2]}}, r"a cube \(4x4x4\) cannot be twisted"),
        (V4, {"shape": "4x8x16", "twist": "standard"}, "4x8x16 has no standard twist"),
        (
            V4,
            {"shape": "2x2x4", "twist": {"x": [0, 0, 2]}},
            "all axes of it must wrap, 2x2x4 has a mesh, no axis wraps",
        ),
        (V4, {"shape": "4x4x8", "twist": {"x": [1, 0, 0]}}, "axis x may shift only along other axes"),
        (V4, {"shape": "4x4x8", "twist": {"x": [0, 1, 0], "y": [0, 0, 4]}}, "that are not twisted themselves"),
        (V4, {"shape": "4x4x8", "twist": {"w": [0, 0, 4]}}, "twist w: .* must give one of the axes xyz"),
        (V4, {"shape": "4x4x8", "twist": {"x": [0, 4]}}, "a shift of 3 numbers"),
        (V4, {"shape": "4x4x8", "twist": "yes"}, "twist must be standard, none or vectors"),
        (
            V4,
            {"shape": "4x4x8", "twist": {"x": [0, 0, 10**9]}},
            r"twist: x: \[0, 0, 1000000000\] must be up to 3 whole numbers",
        ),
        (V4, {"shape": "4x4x8_twisted", "twist": "standard"}, "give the twist either in shape or as twist"),
        (V4, {"shape": "4x4x32", "twist": {"x": [0, 0, 4]}}, "at most 16384 chips, no axis over 4 times another"),
        (V4, {"shape": "0x4x4"}, "3 axes of 1 or more chips each, such as 4x4x8, got '0x4x4'"),
        (V4, {"shape": "4x4"}, "shape must give 3 axes"),
        (V4, {"shape": "4x4x4x4"}, "shape must give 3 axes"),
        (V4, {"shape": "4x-4x4"}, "shape must give 3 axes"),
        (V4, {"shape": ""}, "shape must give 3 axes .* got ''"),
        (V4, {"shape": "4x4x4; rm"}, "shape must give 3 axes"),
        (V4, {"shape": "\u0664x4x4"}, "shape must give 3 axes"),
        (V4, {"shape": "9" * 500}, "shape must give 3 axes"),
        (V4, {"shape": 444}, "shape got 444"),
        (V4, {"shape": "999x999x999"}, "999x999x999 is 997002999 chips; at most 131072 are built"),
        (V4, {"shape": "16x16x16", "slices": 100}, "16x16x16 times 100 slices is 409600 chips; at most 131072"),
        (V4, {"nodes": 4}, "unknown key in parameters of tpu-v4-pod: 'nodes'; .*shape"),
        (V4, {"shape": "4x4x4", "wrap": "w"}, "wrap must be all, none or some of the axes xyz, got 'w'"),
        (V4, {"shape": "4x4x4", "wrap": ""}, "wrap must be all, none or some"),
        (V4, {"shape": "4x4x4", "slice": 8}, "give shape or slice, not both"),
        ("tpu-v3-pod", {"slices": 2}, r"no network between slices \(key dcn\), got slices=2"),
        ("trn2-ultraserver", {"slice": 4}, "has no slice names; give a shape such as 4x4x4"),
        ("v4-16384", {}, "no slice of size 16384: its names count 2 for each of 1 to 4096 chips, up to 8192"),
        ("v4-255", {}, "no slice of size 255"),
        ("v4-0", {}, "no slice of size 0|slice got 0"),
        ("v4-48", {}, "no slice of 24 chips by name; give its shape"),
        ("v5e-24", {}, "no slice of 24 chips by name"),
        ("v9-8", {}, "unknown topology 'v9-8'"),
        ("v4-999999999999", {}, "unknown topology 'v4-999999999999'"),
        ("v5p:8x8x16", {"shape": "4x4x4"}, "already says its size, got shape='4x4x4' as well"),
        ("v5p:8x8", {}, "shape must give 3 axes"),
    ],
)
def test_bad_grids_are_refused(name: str, parameters: dict, message: str) -> None:  # type: ignore[type-arg]
    """A shape, wrap, twist or slice that cannot be is named in one sentence with the bound."""
    with pytest.raises(InputError, match=message) as caught:
        load_topology(name, **parameters)
    assert "\n" not in str(caught.value)
