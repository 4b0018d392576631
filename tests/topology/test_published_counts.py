"""The shipped topologies against the tables their numbers come from."""

from collections import Counter

import numpy as np
import pytest
import yaml

from moesim.cluster import Cluster, GraphLayout, TorusLayout
from moesim.topology import list_topologies, load_topology
from moesim.topology.accelerators import list_accelerators, load_accelerator
from tests.strategies.cluster import shipped


def leaves(cluster: Cluster) -> int:
    return len(cluster.layout.leaf_up)


def cables(cluster: Cluster, tier: str) -> int:
    """Cables upwards from the switches (or NICs) of a tier."""
    return sum(link.lanes for link in cluster.links if link.tier == tier and link.name.endswith(".up"))


@pytest.mark.parametrize(("units", "gpus", "leaf", "cable"), [(1, 256, 8, 256), (2, 512, 16, 512), (4, 1024, 32, 1024)])
def test_dgx_h100_table_4(units: int, gpus: int, leaf: int, cable: int) -> None:
    """Units of 32 nodes have 8 leaves each, and as many node cables as spine-leaf cables (management ports included)."""
    cluster = load_topology("dgx-h100-superpod", nodes=32 * units)
    got = (cluster.num_devices, leaves(cluster), cables(cluster, "nic"), cables(cluster, "leaf"))
    assert (gpus, leaf, cable, cable) == got


@pytest.mark.parametrize(
    ("units", "leaf", "core_cables"), [(2, 16, 0), (4, 32, 0), (8, 64, 0), (16, 128, 4096), (32, 256, 8192)]
)
def test_dgx_b200_table(units: int, leaf: int, core_cables: int) -> None:
    """Up to 8 units there is no core; from 16 up as many spine-core as leaf-spine cables."""
    cluster = load_topology("dgx-b200-superpod", nodes=32 * units)
    assert (leaf, 256 * units, core_cables) == (leaves(cluster), cables(cluster, "leaf"), cables(cluster, "pod"))


def test_dgx_a100_full_machine() -> None:
    """140 nodes: 1120 GPUs, 56 leaves, 1120 cables from 80 spines (14 each) to 28 cores (40 each)."""
    cluster = load_topology("dgx-a100-superpod")
    assert (1120, 56) == (cluster.num_devices, leaves(cluster))
    assert 80 * 14 == 28 * 40 == cables(cluster, "pod") == cables(cluster, "leaf")


def test_mpft_table_3() -> None:
    """The full multi-plane tree: 16384 endpoints on 512 leaves (64 a plane), 16384 switch-to-switch links."""
    cluster = load_topology("deepseek-h800-mpft", nodes=2048)
    assert (16384, 512, 16384) == (cluster.num_devices, leaves(cluster), cables(cluster, "leaf"))
    assert cluster.layout.planes


def test_gb200_rack() -> None:
    """A node is a rack of 72 GPUs with 3.6 TB/s into the network; a unit of 8 racks has 576 GPUs."""
    cluster = load_topology("gb200-nvl72-superpod")
    assert (576, 72) == (cluster.num_devices, cluster.devices_per_node)
    assert cluster.link_bandwidth[cluster.layout.nic_out_D[:72]].sum() == pytest.approx(3.6e12)


def test_meta_cluster() -> None:
    """24576 GPUs in 1536 racks and 8 pods; racks have twice their NIC bandwidth upwards, pods a seventh."""
    cluster = load_topology("meta-24k-roce")
    layout, bandwidth = cluster.layout, cluster.link_bandwidth
    assert (24576, 3072, 1536, 8) == (cluster.num_devices, cluster.num_nodes, leaves(cluster), len(layout.group_up))
    assert bandwidth[layout.leaf_up[0]] == pytest.approx(2 * 16 * 50e9)
    assert bandwidth[layout.group_up[0]] == pytest.approx(3072 * 50e9 / 7)


def test_p5_has_four_ports_a_gpu() -> None:
    """32 ports of 12.5 GB/s per instance are one NIC of 50 GB/s and four lanes per GPU."""
    cluster = load_topology("aws-p5", nodes=1)
    nic = cluster.links[cluster.link_index("node0.nic0.up")]
    assert (4, 50e9) == (nic.lanes, nic.bandwidth_bytes_per_s)


def test_h800_nvlink_is_200_gb_per_s() -> None:
    """NVLink of the H800 is 200 GB/s one way, 160 achieved."""
    cluster = load_topology("deepseek-h800-mpft", nodes=1)
    assert 200e9 == cluster.link_bandwidth[cluster.link_index("node0.dev0.scale_up.out")]
    assert 160e9 == cluster.devices[0].accelerator.achievable["scale_up_bytes_per_s"]


def test_last_unit_is_partial() -> None:
    """41 nodes of units of 32: the leaves of the second unit have 9 nodes, and a node's NIC bandwidth per node up."""
    cluster = load_topology("dgx-h100-superpod", nodes=41)
    layout = cluster.layout
    assert Counter({0: 32 * 8, 1: 9 * 8}) == Counter(layout.unit_of_leaf[layout.leaf_of_device_D].tolist())
    assert [32 * 50e9, 9 * 50e9] == cluster.link_bandwidth[layout.leaf_up[[0, 8]]].tolist()


def test_names_and_files_agree() -> None:
    """Every topology and accelerator carries its file's name, and every topology builds as it is."""
    assert list_topologies() == [shipped(name).name for name in list_topologies()]
    assert list_accelerators() == [load_accelerator(name)[0].name for name in list_accelerators()]


@pytest.mark.parametrize("name", list_topologies())
def test_every_number_has_a_source(name: str) -> None:
    """One line per number, with its kind; ids of link arrays are links of the right tier."""
    cluster = shipped(name)
    kinds = ("(datasheet): ", "(measured): ", "(derived): ", "(assumed): ")
    assert all(any(kind in line for kind in kinds) for line in cluster.sources)
    assert len(cluster.sources) >= 8
    if not isinstance(cluster.layout, TorusLayout | GraphLayout):
        assert {"scale_up"} == {cluster.links[index].tier for index in cluster.layout.scale_up_out_D}


@pytest.mark.shared
@pytest.mark.parametrize("name", list_accelerators())
def test_accelerators_agree_with_the_catalogue(name: str, shared_data) -> None:  # type: ignore[no-untyped-def]
    """Peaks, memory and SM counts are the catalogue's, `like` followed."""
    catalogue = yaml.safe_load((shared_data / "catalog" / "hardware.yaml").read_text())["accelerators"]
    if name in ("gh200-96", "mi250x-gcd"):  # of machines whose accelerator the catalogue does not describe
        return
    entry = catalogue[name.replace("-", "_")]
    entry = {**catalogue.get(entry.get("like"), {}), **entry}
    accelerator = load_accelerator(name)[0]
    peaks = {dtype: entry[dtype][0] for dtype in ("bf16", "fp8", "fp4", "int8") if entry.get(dtype)}
    assert peaks == pytest.approx(dict(accelerator.flops_per_s))
    expected = [entry[key][0] for key in ("hbm_bytes", "hbm_bw")]
    assert expected == pytest.approx([accelerator.memory_bytes, accelerator.memory_bytes_per_s])
    assert entry.get("sms", [None])[0] == accelerator.num_sms


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "key", "scale_up"),
    [
        ("dgx-a100-superpod", "dgx_a100_superpod", "a100_40_sxm"),
        ("dgx-h100-superpod", "dgx_h100_superpod", "h100_sxm"),
        ("dgx-b200-superpod", "dgx_b200_superpod", "b200_sxm"),
        ("dgx-b300-superpod-spectrum", "dgx_b300_superpod_spectrum", "b200_sxm"),
        ("azure-nd-h100-v5", "azure_nd_h100_v5", "h100_sxm"),
        ("perlmutter-gpu", "perlmutter_gpu", "a100_40_sxm"),
        ("deepseek-h800-mpft", "deepseek_h800_mpft", "h800_sxm"),
        ("meta-24k-roce", "meta_24k_roce", "h100_sxm"),
    ],
)
def test_rates_agree_with_the_catalogue(name: str, key: str, scale_up: str, shared_data) -> None:  # type: ignore[no-untyped-def]
    """NIC and scale-up rates per device are the catalogue's."""
    folder = shared_data / "catalog"
    nic = yaml.safe_load((folder / "topologies.yaml").read_text())["topologies"][key]["node"]["nic_rate"]
    link = yaml.safe_load((folder / "hardware.yaml").read_text())["accelerators"][scale_up]["scale_up"]["bw"][0]
    cluster = load_topology(name, nodes=2)
    layout, bandwidth = cluster.layout, cluster.link_bandwidth
    assert np.all(bandwidth[layout.nic_out_D] == nic) and np.all(bandwidth[layout.nic_in_D] == nic)
    assert np.all(bandwidth[layout.scale_up_out_D] == link) and np.all(bandwidth[layout.scale_up_in_D] == link)


@pytest.mark.parametrize(("name", "units", "nodes"), [("spectrum", 1, 64), ("spectrum", 16, 1024), ("xdr", 8, 576)])
def test_dgx_b300_tables(name: str, units: int, nodes: int) -> None:
    """Units of 64 nodes with 8 rails on two planes (16 leaves, of which both planes of a rail are one here), or of 72."""
    cluster = load_topology(f"dgx-b300-superpod-{name}", nodes=nodes)
    assert (8 * nodes, 8 * units) == (cluster.num_devices, leaves(cluster))
    assert 8 * nodes * (2 if name == "spectrum" else 1) == cables(cluster, "nic") == cables(cluster, "leaf")
    assert np.all(cluster.link_bandwidth[cluster.layout.nic_out_D] == 100e9)


def test_perlmutter() -> None:
    """1792 nodes in 28 groups of 16 switches with 16 NICs of 25 GB/s each."""
    layout = load_topology("perlmutter-gpu").layout
    assert (28, 448) == (layout.num_groups, len(layout.group_of_switch))
    assert {16} == set(np.bincount(layout.switch_of_device_D).tolist())


def test_balanced_dragonfly() -> None:
    """Kim 2008: p = h = 4, a = 8, a h + 1 = 33 groups, p a (a h + 1) = 1056 endpoints, every switch with h global links."""
    layout = load_topology("generic-dragonfly").layout
    assert (33, 1056) == (layout.num_groups, len(layout.switch_of_device_D))
    assert {4} == set(np.bincount(layout.global_from).tolist()) == set(np.bincount(layout.global_to).tolist())
    assert {4} == set(np.bincount(layout.switch_of_device_D).tolist())


def test_cloudmatrix() -> None:
    """384 packages of 392 GB/s on one Unified Bus, and 50 GB/s each to other supernodes."""
    cluster = load_topology("huawei-cloudmatrix384")
    assert (384, 1) == (cluster.num_devices, cluster.num_nodes)
    assert {392e9, 50e9} == set(cluster.link_bandwidth.tolist())


def test_most_of_the_catalogue_is_here() -> None:
    """At least twenty of the catalogue's shapes have a file, each with assumed parts marked where there are any."""
    known = (
        "superpod",
        "mpft",
        "roce",
        "pod",
        "perlmutter",
        "frontier",
        "alps",
        "dragonfly",
        "p5",
        "azure",
        "gcp",
        "trn2",
    )
    shipped = [name for name in list_topologies() if any(word in name for word in (*known, "cloudmatrix"))]
    assert len(shipped) >= 20
