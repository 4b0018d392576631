"""Pictures of clusters: whole when small, honest about what is left out when not."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from moesim.errors import InputError
from moesim.report.plots.topology import draw, draw_topology
from moesim.topology import load_topology
from tests.strategies.cluster import dragonfly, graph_cluster, torus, tree


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_small_cluster_is_drawn_whole() -> None:
    """Two nodes: every device, both nodes, a leaf per rail, the spines, and the caption says so."""
    shown = texts(draw(load_topology("dgx-h100-superpod", nodes=2)))
    assert {"node 0", "node 1", "spines", "devices", "h100-sxm", "unit 0: 2 nodes"} <= set(shown)
    assert 3 == shown.count("7")  # two devices and one leaf
    assert any(text.startswith("Drawn whole: 2 of 2 nodes") for text in shown)


def test_a_large_cluster_says_what_is_left_out() -> None:
    """128 nodes: two nodes of each of two units, named, and the caption counts the rest."""
    shown = texts(draw(load_topology("dgx-h100-superpod")))
    assert ["node 0", "node 1", "node 32", "node 33"] == [text for text in shown if text.startswith("node ")][:4]
    assert "unit 1: 2 of its 32 nodes drawn" in shown
    assert any(text.startswith("Drawn in part: 4 of 128 nodes, 2 of 4 units") for text in shown)


def test_a_rack_shows_some_of_its_devices() -> None:
    """An NVL72 rack is drawn with 8 of its 72 devices and says so."""
    shown = texts(draw(load_topology("gb200-nvl72-superpod", nodes=1)))
    assert "node 0 (+64 devices)" in shown
    assert any("8 of 72 devices of each" in text for text in shown)


@pytest.mark.parametrize("name", ["dgx-h100", "dgx-a100-superpod", "meta-24k-roce", "deepseek-h800-mpft", "aws-p5"])
def test_every_kind_of_tree_is_drawn(name: str) -> None:
    """One node, rails joined by a core, pods, planes, a single leaf: each has its devices and a title."""
    cluster = load_topology(name)
    shown = texts(draw(cluster))
    assert name in shown
    assert "devices" in shown
    assert ("core" in shown) == any(link.tier == "pod" for link in cluster.links)


def test_same_cluster_same_bytes(tmp_path: Path) -> None:
    """Two drawings are byte for byte the same PNG, with no program or date in it, and nothing else is left behind."""
    first, second = (draw_topology(tree(nodes=3), tmp_path / f"{name}.png") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"\x89PNG")
    assert b"matplotlib" not in first.read_bytes().lower()
    assert ["a.png", "b.png"] == sorted(path.name for path in tmp_path.iterdir())


def test_a_folder_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    """A picture that cannot be written is refused, and leaves no partial file."""
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        draw_topology(tree(nodes=1), tmp_path / "taken.png")
    assert ["taken.png"] == [path.name for path in tmp_path.iterdir()]


def test_a_small_torus_is_drawn_whole() -> None:
    """4x4x4: every chip once, its planes by z, a line for each axis with its rate, and the caption says so."""
    shown = texts(draw(load_topology("tpu-v4-pod", shape="4x4x4")))
    assert sorted(map(str, range(64))) == sorted(text for text in shown if text.isdigit())
    assert {"z = 0", "z = 3", "z: 4 chips, wraps around; 50 GB/s each way, 1 us"} <= set(shown)
    assert any(text.startswith("Drawn whole: a box is a host") for text in shown)


def test_a_twisted_torus_says_how() -> None:
    """The twist vectors stand beside their axis, a mesh says that it ends."""
    shown = texts(draw(load_topology("tpu-v4-pod", shape="4x4x8_twisted")))
    assert any("x: 4 chips, wraps around, shifted by (0, 0, 4) (x, y, z) where it does" in text for text in shown)
    assert any("ends at its edges" in text for text in texts(draw(torus("2x3", wrap="none"))))


def test_a_large_torus_says_what_is_left_out() -> None:
    """A pod is drawn as a corner of 4x4x4 chips, one of several slices as one."""
    assert any("Drawn in part, 64 of 4096 chips" in text for text in texts(draw(load_topology("tpu-v4-pod"))))
    assert any(
        "Drawn in part, 8 of 16 chips; one of 2 slices" in text for text in texts(draw(torus("2x2x2", slices=2)))
    )


def test_a_graph_is_drawn_by_its_links() -> None:
    """Devices by number, switches by name; of a large graph the vertices nearest to device 0."""
    star: dict[str, list[dict[str, object]]] = {"nodes": [{"id": "hub", "kind": "switch"}], "edges": []}
    for device in range(100):
        star["nodes"].append({"id": device, "kind": "device"})
        star["edges"].append({"source": device, "target": "hub", "bandwidth": 10.0})
    small = {"nodes": star["nodes"][:4], "edges": star["edges"][:3]}
    assert {
        "0",
        "1",
        "2",
        "hub",
        "Drawn whole: circles are devices (their number), boxes switches; links 10 B/s one way, thicker = faster",
    } <= set(texts(draw(graph_cluster(small))))
    assert any("Drawn in part, 80 of 101 vertices" in text for text in texts(draw(graph_cluster(star))))


def test_a_dragonfly_is_drawn_by_groups() -> None:
    """Switches with their number of devices, up to five groups."""
    shown = texts(draw(dragonfly(nodes=12)))
    assert 9 == sum(text.isdigit() for text in shown)
    assert any(text.startswith("Drawn whole: 3 groups") for text in shown)
    assert any("5 of 7 groups" in text for text in texts(draw(dragonfly(nodes=28))))


def test_the_same_graph_is_the_same_picture(tmp_path: Path) -> None:
    """The places of vertices do not depend on chance."""
    nodes = [{"id": device} for device in range(6)]
    edges = [{"source": device, "target": (device + 1) % 6, "bandwidth": 1.0} for device in range(6)]
    cluster = graph_cluster({"nodes": nodes, "edges": edges})
    first, second = (draw_topology(cluster, tmp_path / f"{name}.png") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
