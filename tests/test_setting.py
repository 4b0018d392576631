"""Settings: what a scenario names is found."""

import json
from pathlib import Path

import networkx as nx
import pytest

from moesim.errors import InputError
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


def test_more_slots_than_a_placement_has_are_refused_before_a_step_is_made() -> None:
    """Three pools of 67,108,864 values fit; twice as many slots of each do not, and cost no memory first."""
    data = {
        "format_version": 1,
        "model": "memory-plus-1p3b-64m",
        "cluster": {"topology": "dgx-h100-superpod", "nodes": 1},
        "trace": {"router": "zipf", "tokens_per_rank": 1, "steps": "0:1"},
        "placement": {"strategy": "hash"},
        "mode": {"kind": "prefill"},
    }
    assert 3 * 2**26 == 3 * load_setting(make_scenario(data)).num_slots
    data["placement"] = {"strategy": "hash", "slots": 2**27}
    with pytest.raises(InputError, match="slots=134217728 in each of 3 layers is more than 268435456 in all"):
        load_setting(make_scenario(data))
