"""Topology files of other programs: figures and their arithmetic, contradictions, and hostile variants."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.topology import describe_topology, load_topology
from moesim.topology.foreign_text import hosts
from moesim.topology.import_files import import_topology
from moesim.topology.readers import readers

TREE = "SwitchName=leaf0 Nodes=n[0-3]\nSwitchName=leaf1 Nodes=n[4-7]\nSwitchName=spine Switches=leaf[0-1]\n"
MATRIX = (
    "\tGPU0\tGPU1\tNIC0\tCPU Affinity\nGPU0\t X \tNV18\tPXB\t0-31\nGPU1\tNV18\t X \tSYS\t32-63\nNIC0\tPXB\tSYS\t X \n"
)
ASTRA = "topology: [{0}]\nnpus_count: [{1}]\nbandwidth: [{2}]\nlatency: [{3}]\n"
GPU = '<pci link_speed="{1}" link_width="16" vendor="0x10de" device="0x2330"><gpu dev="{0}" rank="{0}" sm="{2}">{3}</gpu></pci>'


def nccl(count: int = 2, links: str = '<nvlink target="x" count="18" tclass="0x068000"/>', sm: str = "90") -> str:
    """XML of a node of `count` equal devices and two NICs of 400 Gbit/s a device."""
    gpus = "".join(GPU.format(number, "16.0 GT/s PCIe", sm, links) for number in range(count))
    nets = "".join(f'<nic><net dev="{number}" speed="400000"/></nic>' for number in range(2 * count))
    return f'<system version="1"><cpu numaid="0" arch="x86_64">{gpus}{nets}</cpu></system>'


def written(folder: Path, *texts: str, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(answer, file written) of importing files with these texts."""
    paths = []
    for number, text in enumerate(texts):
        paths.append(folder / f"file{number}")
        paths[-1].write_text(text)
    answer = import_topology(paths, folder / "c.yaml", **options)
    return answer, yaml.safe_load((folder / "c.yaml").read_text())


@pytest.mark.parametrize(
    ("sm", "links", "expected"),
    [
        ("80", '<nvlink target="x" count="12" tclass="0x068000"/>', "240 GB/s"),
        ("90", '<nvlink target="x" count="18" tclass="0x068000"/>', "370.8 GB/s"),
        ("100", '<nvlink target="x" count="18" tclass="0x068000"/>', "721.8 GB/s"),
        ("90", '<nvlink target="x" count="2" tclass="0x068001"/>', "24 GB/s"),
        (
            "90",
            '<nvlink target="a" count="4" tclass="0x03"/><nvlink target="b" count="2" tclass="0x03"/>',
            "123.6 GB/s",
        ),
        ("90", "", "24 GB/s"),
    ],
)
def test_rates_of_nccl_are_its_constants_per_link(tmp_path: Path, sm: str, links: str, expected: str) -> None:
    """Links to devices and switches count, those to a CPU do not; without any it is PCIe: 16 lanes x 120 / 80 GB/s."""
    _, data = written(tmp_path, nccl(links=links, sm=sm))
    assert (expected, 2, "h100-sxm") == (
        data["scale_up"]["bandwidth"]["value"],
        data["scale_up"]["devices"]["value"],
        data["accelerator"],
    )


def test_xgmi_goes_by_architecture(tmp_path: Path) -> None:
    """Seven links of 48 GB/s on gfx942."""
    text = nccl(links='<xgmi target="x" count="7" tclass="0x120000"/>').replace("<gpu ", '<gpu arch="gfx942:sramecc+" ')
    assert "336 GB/s" == written(tmp_path, text)[1]["scale_up"]["bandwidth"]["value"]


def test_ports_of_a_node_are_shared_by_its_devices(tmp_path: Path) -> None:
    """Two a device are two lanes; three for two devices are shared evenly."""
    _, data = written(tmp_path, nccl(), TREE)
    assert (2, "50 GB/s") == (data["nic"]["lanes"]["value"], data["nic"]["bandwidth"]["value"])
    _, data = written(tmp_path, nccl().replace('<nic><net dev="3" speed="400000"/></nic>', ""), TREE)
    assert (1, "75 GB/s") == (data["nic"]["lanes"]["value"], data["nic"]["bandwidth"]["value"])


@given(st.integers(0, 99), st.integers(0, 30), st.integers(1, 3))
def test_host_lists_expand(first: int, more: int, width: int) -> None:
    """Ranges keep their zeros."""
    text = f"n[{first:0{width}d}-{first + more:0{width}d},x7]".replace("x7", "7")
    assert [*(f"n{number:0{width}d}" for number in range(first, first + more + 1)), "n7"] == hosts(text, "test")


def test_trees_of_slurm(tmp_path: Path) -> None:
    """Two leaves of four nodes; three levels with several spines are units and a core."""
    _, data = written(tmp_path, TREE)
    assert (8, 4, 1) == (data["nodes"]["value"], data["leaf"]["nodes"]["value"], data["leaf"]["rails"]["value"])
    assert "core.latency" not in data["missing"]
    more = (
        TREE.replace("spine", "spine0")
        + "SwitchName=l2 Nodes=m[0-2]\nSwitchName=spine1 Switches=l2\nSwitchName=core Switches=spine[0-1]\n"
    )
    _, data = written(tmp_path, more)
    assert (11, 4, 2) == (data["nodes"]["value"], data["leaf"]["nodes"]["value"], data["spine"]["units"]["value"])
    assert "unequal sizes [4, 3], built as the largest" in data["leaf"]["nodes"]["source"]
    assert {"core.oversubscription", "core.latency"} < set(data["missing"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SwitchName=a Nodes=n1 Switches=b\n", "the switch a must have switches or nodes, and not both"),
        ("SwitchName=a\n", "the switch a must have switches or nodes, and not both"),
        ("SwitchName=a Nodes=n1\nSwitchName=a Nodes=n2\n", "the switch a is defined twice"),
        ("SwitchName=a Switches=b\n", "has the child b, which is not defined"),
        ("SwitchName=a Nodes=n1\nSwitchName=b Nodes=n1\n", "the node n1 is under a and under b"),
        (TREE + "SwitchName=top Switches=leaf0\n", "is not a tree: leaf0 is under spine and under top"),
        ("SwitchName=a Switches=b\nSwitchName=b Switches=a\n", "has no nodes under its switches"),
        ("SwitchName=a Nodes=n[1-\n", "its brackets do not match"),
        ("SwitchName=a Nodes=n[0-999999999]\n", "more than 200000 hosts"),
        ("SwitchName=a Nodes=n[0-499][0-499]\n", "names more than 200000 hosts"),
        ("BlockName=a Nodes=n[1-4]\nBlockSizes=4,12\n", r"\[4, 12\] must be the first one times a power of two"),
        ("BlockName=a Nodes=n[1-2]\nBlockSizes=4\n", "has fewer nodes than the base block of 4"),
        ("- topology: x\n  tree: {switches: []}\n  flat: true\n", "must have exactly one of tree, block, ring"),
        ("- topology: x\n  tree: {switches: 3}\n", "switches must be a list of mappings"),
        (
            "- topology: x\n  torus3d: {toruses: [{dims: {x: 2, y: 2, z: 2}, nodes: 'n[1-7]'}]}\n",
            "8 places, but 7 nodes",
        ),
        (nccl()[:-40], "is not whole XML"),
        (nccl().replace('version="1"', 'version="2"'), r'expected <system version="1">'),
        (nccl().replace("rank=", "x="), "has no gpu with a rank"),
        (nccl().replace('count="18"', 'count="-3"'), "count of <nvlink> is '-3'"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + nccl(), "none of the topology formats"),
        ("\tGPU0\tGPU1\nGPU0\t X \tNV18\n", "no whole row of GPU1; it is truncated"),
        ("== Link Type between two GPUs ==\n GPU0 GPU1\nGPU0 0 XGMI\n", "the row of GPU1 .* is missing or cut off"),
        (
            ASTRA.format("Ring, Switch", "2, 2", "1, 1", "1, 1"),
            "has dimensions Ring, Switch, which no topology here expresses",
        ),
        (ASTRA.format("Switch", "1", "1", "1"), "expected Ring, FullyConnected, Switch of > 1"),
        (ASTRA.format("Switch", "2", "0", "1"), "bandwidth must be > 0 GB/s"),
        (ASTRA.format("Switch", "2", "1, 2", "1"), "must be of one length"),
        ("3 2 1 0 3 H100\n2\n0 2 9Gbps 1ms 0\n", "claims 3 links, but has 1 lines of them; it is truncated"),
        ("3 2 0 0 1 H100\n2\n0 2 9Gbps 1ms 0\n", "must be whole servers of 2 GPUs"),
        ("3 2 1 0 1 H100\n2\n0 2 fast 1ms 0\n", "the bandwidth 'fast' is not like 400Gbps"),
        ("kind: Node\nmetadata: &a {labels: {kubernetes.io/x: y}}\nother: *a\n", "uses an alias"),
        ("kind: List\nitems: []\nx: kubernetes.io/\n", "has no Node"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, message: str) -> None:
    """One sentence each, in words of the file."""
    with pytest.raises(InputError, match=message):
        written(tmp_path, text)
    assert not (tmp_path / "c.yaml").exists()


def test_entities_and_external_files_are_never_read(tmp_path: Path) -> None:
    """A document type of its own is refused; one that only names a file, as hwloc writes, is not followed."""
    bomb = '<!DOCTYPE topology [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><topology version="2.0">&b;</topology>'
    (tmp_path / "x").write_text(bomb)
    with pytest.raises(InputError, match="declares a document type of its own"):
        readers.get("hwloc_xml")(tmp_path / "x")
    secret = tmp_path / "secret"
    secret.write_text("<object/>")
    (tmp_path / "x").write_text(f'<!DOCTYPE topology SYSTEM "{secret}"><topology version="2.0"/>')
    with pytest.raises(InputError, match="has no Machine"):
        readers.get("hwloc_xml")(tmp_path / "x")
    (tmp_path / "x").write_text("<topology/>")
    with pytest.raises(InputError, match=r"hwloc XML of version 1\.x"):
        readers.get("hwloc_xml")(tmp_path / "x")


def test_matrices_of_nvidia_smi_in_both_spellings(tmp_path: Path) -> None:
    """NIC0 or mlx5_0, with terminal codes around the header and spaces for tabs."""
    for text in (
        MATRIX,
        MATRIX.replace("NIC0", "mlx5_0"),
        "\x1b[4m" + MATRIX.replace("\tGPU0\tGPU1", "\tGPU0\tGPU1\x1b[0m"),
        MATRIX.replace("\t", "  "),
    ):
        answer, data = written(tmp_path, text)
        assert (2, 2) == (answer["devices"], data["scale_up"]["devices"]["value"])
        assert ["file0: devices are joined by NV18, whose rate it does not say"] == answer["notes"]


def test_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """Devices must agree; of two rates the first file's is taken and the other one named beside it."""
    with pytest.raises(
        InputError, match=r"scale_up\.devices is 4 \(file0: gpu elements\) but 2 \(file1: GPU columns\)"
    ):
        written(tmp_path, nccl(4), MATRIX)
    _, data = written(tmp_path, nccl(sm="80"), nccl())
    source = data["scale_up"]["bandwidth"]["source"]
    assert ("360 GB/s", True) == (data["scale_up"]["bandwidth"]["value"], source.endswith("; file1 says 370.8 GB/s"))
    other = TREE.replace("n[0-3]", "n[0-1,6-7]").replace("n[4-7]", "n[2-5]")
    with pytest.raises(InputError, match="put the same nodes under different leaves"):
        written(tmp_path, TREE, other)
    with pytest.raises(InputError, match="have no node in common"):
        written(tmp_path, TREE, TREE.replace("n[", "m["))
    with pytest.raises(InputError, match="a torus and a tree of switches cannot be merged"):
        written(tmp_path, TREE, ASTRA.format("Ring", "4", "1", "1"))


def _fabric() -> str:
    """Two leaves of two nodes with one adapter, each leaf with one cable up to a spine."""

    def block(kind: str, guid: str, name: str, ports: list[str]) -> str:
        lines = [f"[{number}]{'(1)' if kind == 'Ca' else ''}\t{port}" for number, port in enumerate(ports, 1)]
        return f'\nvendid=0x2c9\n{kind}\t64 "{guid}"\t\t# "{name}" lid 1\n' + "\n".join(lines) + "\n"

    def port(guid: str, number: int, name: str) -> str:
        return f'"{guid}"[{number}]\t\t# "{name}" lid 2 4xHDR'

    adapters = [f"H-{number}" for number in range(4)]
    text = "".join(
        block("Ca", guid, f"n{number} mlx5_0", [port(f"S-{number // 2}", number % 2 + 1, "leaf")])
        for number, guid in enumerate(adapters)
    )
    for leaf in range(2):
        ports = [port(guid, 1, "n") for guid in adapters[2 * leaf : 2 * leaf + 2]]
        text += block("Switch", f"S-{leaf}", f"leaf{leaf}", [*ports, port("S-a", leaf + 1, "spine")])
    return text + block("Switch", "S-a", "spine", [port(f"S-{leaf}", 3, "leaf") for leaf in range(2)])


def test_fabrics_know_their_oversubscription(tmp_path: Path) -> None:
    """Two cables down for one up; each cable stands in the file twice and counts once."""
    _, data = written(tmp_path, nccl().replace("<net", "<x"), _fabric())
    assert (4, 2, 1, 2.0) == (
        *(data["nodes"]["value"], data["leaf"]["nodes"]["value"], data["leaf"]["rails"]["value"]),
        data["spine"]["oversubscription"]["value"],
    )
    with pytest.raises(InputError, match="cables to S-a, which it does not describe; it is truncated"):
        written(tmp_path, _fabric()[: _fabric().index('Switch\t64 "S-a"')])
    with pytest.raises(InputError, match="a link of 4x 'ZDR' is not known"):
        written(tmp_path, _fabric().replace("HDR", "ZDR"))
    with pytest.raises(InputError, match="which names no node; set node_desc there"):
        written(tmp_path, _fabric().replace("n0 mlx5_0", "MT4129 ConnectX7"))


def test_hosts_of_one_nvlink_domain_are_one_node(tmp_path: Path) -> None:
    """Eight hosts of four devices in two domains: two nodes of sixteen; rates stay missing."""
    items = [
        {
            "kind": "Node",
            "metadata": {
                "name": f"h{number}",
                "labels": {
                    **{"kubernetes.io/hostname": f"h{number}", "nvidia.com/gpu.clique": f"uuid.{number // 4}"},
                    **{"nvidia.com/gpu.count": "4", "nvidia.com/gpu.product": "NVIDIA-GB200"},
                    **{"network.topology.nvidia.com/leaf": f"l{number // 4}", "network.topology.nvidia.com/spine": "s"},
                },
            },
        }
        for number in range(8)
    ]
    answer, data = written(tmp_path, yaml.safe_dump({"kind": "List", "items": items}))
    assert (32, 2, 16, "gb200-nvl72") == (
        answer["devices"],
        answer["nodes"],
        data["scale_up"]["devices"]["value"],
        data["accelerator"],
    )
    assert {"scale_up.bandwidth", "nic.bandwidth"} < set(answer["missing"])


def _hosts(labels: Mapping[str, str]) -> str:
    """Two hosts n0 and n1 of Kubernetes with these labels, {} in their values being the host's number."""
    items = [
        {"metadata": {"name": f"n{number}", "labels": {key: text.format(number) for key, text in labels.items()}}}
        for number in range(2)
    ]
    return yaml.safe_dump({"kind": "NodeList", "items": items})


def test_hosts_of_kubernetes_are_the_nodes_of_a_fabric(tmp_path: Path) -> None:
    """Where no NVLink domain has two hosts; the first file's nodes are taken, and a note says how many others have."""
    leaf = {"kubernetes.io/os": "linux", "network.topology.nvidia.com/leaf": "l0"}
    text = _hosts({**leaf, "nvidia.com/gpu.clique": "uuid.{}"})
    answer, _ = written(tmp_path, nccl(), _fabric(), text)
    assert (4, ["the 4 nodes of file1 are taken; file2 has 2, 2 of them the same"]) == (
        answer["nodes"],
        answer["notes"],
    )
    assert 2 == written(tmp_path, text, _fabric())[0]["nodes"]
    with pytest.raises(InputError, match=r"nodes is 2 .* but 4 .*of different machines, or one is outdated"):
        written(tmp_path, _hosts({"kubernetes.io/os": "linux"}), _fabric())


def test_subblocks_of_gke_are_leaves(tmp_path: Path) -> None:
    """Its `host` is the machine itself."""
    levels = {f"cloud.google.com/gce-topology-{level}": level for level in ("block", "subblock", "host")}
    levels["cloud.google.com/gce-topology-host"] = "host{}"
    _, data = written(tmp_path, _hosts({**levels, "kubernetes.io/os": "linux"}))
    assert (2, 2) == (data["nodes"]["value"], data["leaf"]["nodes"]["value"])


def test_rings_of_astra_are_a_torus(tmp_path: Path) -> None:
    """Its rates and latency, every axis wrapped."""
    text = ASTRA.format("Ring, Ring", "4, 8", "50, 25", "500, 700")
    answer, _ = written(tmp_path, text, accelerator="tpu-v4")
    assert ([], 32) == (answer["missing"], answer["devices"])
    cluster = load_topology(tmp_path / "c.yaml")
    assert {50e9, 25e9} == {link.bandwidth_bytes_per_s for link in cluster.links}
    assert 4 * 32 == len(cluster.links)


@pytest.mark.parametrize(
    ("name", "same"),
    [("v4-256", "v4-256"), ("v5p 8x8x16", "v5p:8x8x16"), ("v5litepod-256", "v5e-256"), ("tpu7x-128", "v7-128")],
)
def test_names_of_tpu_slices_become_files(tmp_path: Path, name: str, same: str) -> None:
    """The file describes the cluster that the name is."""
    import_topology([name], tmp_path / "c.yaml")
    left, right = (describe_topology(load_topology(one)) for one in (tmp_path / "c.yaml", same))
    assert [right[key] for key in ("devices", "links", "bisection_bytes_per_s")] == [
        left[key] for key in ("devices", "links", "bisection_bytes_per_s")
    ]


def test_calls_that_cannot_be_answered(tmp_path: Path) -> None:
    """Absent files, unknown slices, another ending, an empty file."""
    for files, out, message in (
        (["gone.xml"], "c.yaml", r"there is no file gone\.xml, and it is no name of a TPU slice"),
        (["v99-8"], "c.yaml", "unknown topology 'v99-8'"),
        (["v4-8", "v4-8"], "c.yaml", "is a whole TPU slice; import it alone"),
        (["v4-8"], "c.json", r"must end in \.yaml"),
        ([], "c.yaml", "name at least one file"),
    ):
        with pytest.raises(InputError, match=message):
            import_topology(files, tmp_path / out)
    with pytest.raises(InputError, match="is empty"):
        written(tmp_path, "\n")
    with pytest.raises(InputError, match="unknown topology 'dgx'"):
        written(tmp_path, TREE, fill="dgx")
