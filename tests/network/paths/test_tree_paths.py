"""Laws of paths through trees, for every policy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from moesim.cluster import Cluster
from moesim.errors import InputError, UnknownName
from moesim.network.flow import Paths
from moesim.network.paths import path_policies
from moesim.topology import list_topologies, load_topology
from tests.strategies.cluster import clusters, ends_of_links, shipped, tree

POLICIES = ("rail", "pxn", "cross_rail_spine", "ecmp")


def all_pairs(cluster: Cluster) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    source_F, target_F = np.mgrid[: cluster.num_devices, : cluster.num_devices]
    return source_F.ravel(), target_F.ravel()


def find(cluster: Cluster, source: int, target: int, policy: str = "rail") -> list[int]:
    """The links of one path."""
    paths: Paths = path_policies.get(policy)(cluster, np.array([source]), np.array([target]))
    return paths.links.tolist()


def latency(cluster: Cluster, source: int, target: int, policy: str = "rail") -> float:
    return float(cluster.link_latency_s[find(cluster, source, target, policy)].sum())


@settings(max_examples=80)
@given(cluster=clusters(), policy=st.sampled_from(POLICIES))
def test_paths_lead_from_source_to_target(cluster: Cluster, policy: str) -> None:
    """Each path is a chain of links from its source device to its target; only to itself a device needs none."""
    if cluster.layout.planes and policy == "cross_rail_spine":
        return
    ends = ends_of_links(cluster)
    source_F, target_F = all_pairs(cluster)
    paths = path_policies.get(policy)(cluster, source_F, target_F)
    for flow, (source, target) in enumerate(zip(source_F, target_F, strict=True)):
        links = paths.links[paths.offsets[flow] : paths.offsets[flow + 1]].tolist()
        place = f"dev{source}"
        for link in links:
            assert place == ends[link][0]
            place = ends[link][1]
        assert f"dev{target}" == place
        assert (source == target) == (not links)


@settings(max_examples=60)
@given(cluster=clusters(), policy=st.sampled_from(["rail", "pxn"]))
def test_same_node_never_uses_the_network(cluster: Cluster, policy: str) -> None:
    """Inside a node a path is one link out to the node's switches and one in; between nodes it uses two NICs once."""
    source_F, target_F = all_pairs(cluster)
    paths = path_policies.get(policy)(cluster, source_F, target_F)
    flow_of_hop = np.repeat(np.arange(len(source_F)), np.diff(paths.offsets))
    is_nic = np.array([link.tier == "nic" for link in cluster.links])[paths.links]
    nics_F = np.bincount(flow_of_hop[is_nic], minlength=len(source_F))
    remote_F = cluster.node_of_device_D[source_F] != cluster.node_of_device_D[target_F]
    assert np.array_equal(2 * remote_F, nics_F)


@settings(max_examples=60)
@given(cluster=clusters())
def test_pxn_stays_on_the_rail_of_its_target(cluster: Cluster) -> None:
    """Under pxn no path changes rail in the network, so no path is longer than relay, own rail and target."""
    source_F, target_F = all_pairs(cluster)
    paths = path_policies.get("pxn")(cluster, source_F, target_F)
    layout = cluster.layout
    rail_of_nic = {int(nic): int(rail) for nic, rail in zip(layout.nic_out_D, layout.rail_of_device_D, strict=True)}
    for flow in range(paths.num_flows):
        links = paths.links[paths.offsets[flow] : paths.offsets[flow + 1]].tolist()
        rails = [rail_of_nic[link] for link in links if link in rail_of_nic]
        assert rails in ([], [int(layout.rail_of_device_D[target_F[flow]])])


def test_pxn_relays_at_the_targets_local_index() -> None:
    """From device 1 of node 0 to device 5 of node 3: over NVLink to device 5 of node 0, then rail 5's leaf."""
    cluster = load_topology("dgx-h100-superpod", nodes=4)
    names = [cluster.links[link].name for link in find(cluster, 1, 3 * 8 + 5, "pxn")]
    assert ["node0.dev1.scale_up.out", "node0.dev5.scale_up.in", "node0.nic5.up", "node3.nic5.down"] == names


def test_planes_relay_under_the_default_policy_and_refuse_the_spine() -> None:
    """On a multi-plane tree `rail` is pxn, and the spine policy says in a sentence that planes do not meet."""
    cluster = load_topology("deepseek-h800-mpft", nodes=64)
    assert find(cluster, 1, 33 * 8 + 5, "pxn") == find(cluster, 1, 33 * 8 + 5, "rail")
    with pytest.raises(InputError, match=r"separate planes .* use the path policy pxn"):
        find(cluster, 1, 33 * 8 + 5, "cross_rail_spine")


INFINIBAND, ROCE = (2.8e-6, 3.7e-6), (3.6e-6, 5.6e-6)


@pytest.mark.parametrize(
    ("name", "same_leaf", "cross_leaf"),
    [
        ("dgx-h100-superpod", *INFINIBAND),
        ("dgx-b200-superpod", *INFINIBAND),
        ("dgx-a100-superpod", *INFINIBAND),
        ("deepseek-h800-mpft", *INFINIBAND),
        ("gb200-nvl72-superpod", *INFINIBAND),
        ("aws-p5", *ROCE),
        ("meta-24k-roce", *ROCE),
    ],
)
def test_latencies_sum_to_the_published_figures(name: str, same_leaf: float, cross_leaf: float) -> None:
    """64 B end to end (arXiv 2505.09343): 3.33 us in a node, 2.8/3.7 us InfiniBand, 3.6/5.6 us RoCE by leaf."""
    cluster = load_topology(name, nodes=40)
    per_node = cluster.devices_per_node
    far = int(np.flatnonzero(cluster.layout.unit_of_leaf[cluster.layout.leaf_of_device_D] == 1)[0])
    got = [latency(cluster, 0, 1), latency(cluster, 0, per_node), latency(cluster, 0, far)]
    assert [3.33e-6, same_leaf, cross_leaf] == pytest.approx(got, rel=1e-12)


def test_a_relay_costs_both_latencies() -> None:
    """A relayed path takes the node's latency and the rail's."""
    cluster = load_topology("deepseek-h800-mpft", nodes=2)
    assert latency(cluster, 0, 8 + 3) == pytest.approx(3.33e-6 + 2.8e-6)


def test_no_flows_have_no_paths() -> None:
    """An empty set of flows gives the empty path list."""
    nothing = np.zeros(0, dtype=np.int64)
    paths = path_policies.get("rail")(tree(nodes=2), nothing, nothing)
    assert ([0], []) == (paths.offsets.tolist(), paths.links.tolist())


@pytest.mark.parametrize("device", [-1, 8])
def test_devices_outside_the_cluster_are_refused(device: int) -> None:
    """A flow to a device that is not there is refused with the bound."""
    with pytest.raises(InputError, match=r"has devices 0\.\.7"):
        find(tree(nodes=4), 0, device)


def test_unknown_policy_names_the_nearest() -> None:
    """A misspelt policy is answered with the nearest one."""
    with pytest.raises(UnknownName, match="did you mean 'rail'"):
        path_policies.get("rails")


@pytest.mark.parametrize("name", list_topologies())
def test_many_flows_at_once(name: str) -> None:
    """A hundred thousand flows in one call are the same paths as one by one."""
    cluster = shipped(name)
    rng = np.random.default_rng(0)
    source_F, target_F = rng.integers(0, cluster.num_devices, (2, 100_000))
    policy = cluster.default_path_policy
    paths = path_policies.get(policy)(cluster, source_F, target_F)
    for flow in rng.integers(0, 100_000, 20):
        expected = find(cluster, int(source_F[flow]), int(target_F[flow]), policy)
        assert expected == paths.links[paths.offsets[flow] : paths.offsets[flow + 1]].tolist()
