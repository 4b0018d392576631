"""Every topology reader recognises its sample by content and says what the sample says, and nothing more."""

from pathlib import Path

import pytest

from moesim.errors import InputError
from moesim.scenario import load_scenario
from moesim.setting import Setting, load_setting
from moesim.topology import load_topology
from moesim.topology.import_files import import_topology, recognised_format

pytestmark = pytest.mark.shared
_NODE = ["scale_up.latency"]
_NO_RATE = ["accelerator", "scale_up.bandwidth", "scale_up.latency"]
_FABRIC = [
    *("accelerator", "scale_up.devices", "scale_up.bandwidth", "scale_up.latency"),
    *("nic.lanes", "nic.bandwidth", "leaf.latency"),
]
_LEAVES = [*_FABRIC, "spine.oversubscription", "spine.latency"]
_ONE_LEAF = [*_FABRIC, "spine.latency"]
SAMPLES: dict[str, tuple[str, int | None, int, list[str]]] = {  # file -> format, devices, nodes, missing
    "nccl_topo.xml": ("nccl_xml", 2, 1, _NODE),
    "hwloc.xml": ("hwloc_xml", 1, 1, ["scale_up.bandwidth", "scale_up.latency"]),
    "nvidia_smi_topo_m.txt": ("nvidia_smi", 2, 1, _NO_RATE),
    "rocm_smi_showtopo.txt": ("rocm_smi", 2, 1, _NO_RATE),
    "slurm_topology_tree.conf": ("slurm_conf", None, 8, _LEAVES),
    "slurm_topology_block.conf": ("slurm_conf", None, 8, _LEAVES),
    "slurm_topology.yaml": ("slurm_yaml", None, 8, _LEAVES),
    "ibnetdiscover.txt": ("ibnetdiscover", None, 2, _ONE_LEAF),
    "iblinkinfo.txt": ("iblinkinfo", None, 2, _ONE_LEAF),
    "kubernetes_nodes.yaml": ("kubernetes_nodes", None, 1, _ONE_LEAF),
    "astra_network.yml": ("astra_network", 32, 4, ["accelerator"]),
    "simai_topo.txt": ("simai", 4, 2, []),
}


@pytest.mark.parametrize("file", SAMPLES)
def test_samples(shared_data: Path, tmp_path: Path, file: str) -> None:
    """Recognised under any name; devices, nodes and exactly the keys it lacks."""
    name, devices, nodes, missing = SAMPLES[file]
    path = tmp_path / "x"
    path.write_bytes((shared_data / "formats" / "topology" / file).read_bytes())
    assert name == recognised_format(path)
    answer = import_topology([path], tmp_path / "c.yaml")
    assert (devices, nodes, missing) == (answer["devices"], answer["nodes"], answer["missing"])


@pytest.mark.parametrize("file", ["astra_comm_group.json", "astra_ns3_logical.json"])
def test_files_of_other_purpose_are_none_of_them(shared_data: Path, file: str) -> None:
    """Groups of communicators have no rates and no shape."""
    with pytest.raises(InputError, match="is none of the topology formats"):
        recognised_format(shared_data / "formats" / "topology" / file)


def _setting(folder: Path, cluster: Path) -> Setting:
    """What `moesim simulate` loads for a small model on all devices of the cluster."""
    lines = ["format_version: 1", "model: gpt-oss-20b", f"cluster: {{topology: {cluster}}}", "parallel: {ep: 16}"]
    lines += ["trace: {router: zipf, tokens_per_rank: 4, steps: '0:1', seed: 0}", "placement: {strategy: contiguous}"]
    (folder / "s.yaml").write_text("\n".join(lines))
    return load_setting(load_scenario(folder / "s.yaml"))


def test_a_node_and_a_scheduler_make_a_cluster(shared_data: Path, tmp_path: Path) -> None:
    """What both lack is refused by name where a cluster is wanted; a shipped topology fills it in, as assumptions."""
    files = [shared_data / "formats" / "topology" / name for name in ("nccl_topo.xml", "slurm_topology_tree.conf")]
    out = tmp_path / "c.yaml"
    answer = import_topology(files, out)
    assert (16, 8) == (answer["devices"], answer["nodes"])
    assert ["scale_up.latency", "leaf.latency", "spine.oversubscription", "spine.latency"] == answer["missing"]
    with pytest.raises(
        InputError, match=r"c\.yaml lacks scale_up\.latency, leaf\.latency, .*; merge a file that says it"
    ):
        load_topology(out)
    with pytest.raises(InputError, match=r"c\.yaml lacks scale_up\.latency"):
        _setting(tmp_path, out)
    answer = import_topology(files, out, fill="dgx-h100-superpod")
    assert ([], 16) == (answer["missing"], answer["devices"])
    assert "scale_up.latency = 3.33 us (assumed): as dgx-h100-superpod.yaml" in "".join(answer["sources"])
    assert 370.8e9 == pytest.approx(load_topology(out).links[0].bandwidth_bytes_per_s)
    assert 16 == _setting(tmp_path, out).cluster.num_devices


def test_an_import_can_be_merged_further(shared_data: Path, tmp_path: Path) -> None:
    """The file written is itself a file to import."""
    folder = shared_data / "formats" / "topology"
    import_topology([folder / "nccl_topo.xml"], tmp_path / "node.yaml")
    first = import_topology([tmp_path / "node.yaml", folder / "ibnetdiscover.txt"], tmp_path / "c.yaml")
    assert (4, 2) == (first["devices"], first["nodes"])
    assert ["scale_up.latency", "leaf.latency", "spine.latency"] == first["missing"]


def test_the_sample_of_simai_is_its_graph(shared_data: Path, tmp_path: Path) -> None:
    """Every link with its rate and latency; NVSwitches are inside nodes."""
    import_topology([shared_data / "formats" / "topology" / "simai_topo.txt"], tmp_path / "c.yaml")
    cluster = load_topology(tmp_path / "c.yaml")
    links = {(link.tier, link.bandwidth_bytes_per_s, link.latency_s) for link in cluster.links}
    assert {("scale_up", 360e9, 2.5e-8), ("nic", 50e9, 5e-7)} == {(a, b, round(c, 12)) for a, b, c in links}
