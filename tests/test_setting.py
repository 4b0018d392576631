"""Settings: what a scenario names is found."""

import json
from pathlib import Path

import networkx as nx
import pytest

from moesim.scenario import make_scenario
from moesim.setting import load_setting
from tests.strategies.scenario import tiny_scenario


@pytest.mark.parametrize("name", ["own.graphml", "own.json", "own.yaml"])
def test_a_cluster_file_is_found_beside_the_scenario(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topology `own.graphml`, without a folder, is the file in the scenario's folder, wherever the run starts."""
    ring = nx.DiGraph(accelerator="h100-sxm", name="ring")
    for place in range(4):
        ring.add_edge(f"gpu{place}", f"gpu{(place + 1) % 4}", bandwidth="50 GB/s", latency="1 us")
    nx.write_graphml(ring, tmp_path / "own.graphml")
    (tmp_path / "own.json").write_text(json.dumps(nx.node_link_data(ring, edges="edges")))
    (tmp_path / "own.yaml").write_text(
        "format_version: 1\nname: ring\nshape: graph\naccelerator: h100-sxm\nfile: own.json\n"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    data = {**tiny_scenario(tmp_path), "cluster": {"topology": name}}
    cluster = load_setting(make_scenario(data, folder=tmp_path)).cluster
    assert ("ring", 4) == (cluster.name, cluster.num_devices)
