"""Ways round dead links: they are alive, they lead to the target, and there is one wherever there can be one."""

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cluster import Cluster, TreeLayout
from moesim.errors import InputError
from moesim.faults import Fault, healths
from moesim.network.bound import bound_completion
from moesim.network.detours import Detours
from moesim.network.flow import Flows, Paths
from moesim.network.paths import path_policies, split_paths
from moesim.topology import load_topology
from tests.strategies.cluster import clusters, dragonflies, graphs, shipped, tori, torus, tree, way_ends

ANY = st.one_of(clusters(max_nodes=4), tori(most_slices=1), dragonflies(), graphs())


def all_pairs(cluster: Cluster) -> tuple[np.ndarray, np.ndarray]:
    source_F, target_F = np.mgrid[: cluster.num_devices, : cluster.num_devices]
    return source_F.ravel(), target_F.ravel()


def detours_of(cluster: Cluster, dead: list[int], policy: str | None = None) -> Detours:
    dead_J = np.zeros(len(cluster.links), np.bool_)
    dead_J[dead] = True
    return Detours(cluster, policy or cluster.default_path_policy, dead_J)


def paths_of(detours: Detours) -> tuple[Paths, np.ndarray, np.ndarray]:
    source_F, target_F = all_pairs(detours.cluster)
    return path_policies.get(detours.policy)(detours.cluster, source_F, target_F), source_F, target_F


def rows(paths: Paths) -> list[list[int]]:
    return [paths.links[a:b].tolist() for a, b in pairwise(paths.offsets)]


@st.composite
def broken(draw: st.DrawFn) -> tuple[Cluster, list[int]]:
    """A cluster with some links, and up to four of them."""
    cluster = draw(ANY.filter(lambda made: len(made.links) > 0))
    return cluster, draw(st.lists(st.integers(0, len(cluster.links) - 1), min_size=1, max_size=4, unique=True))


@settings(max_examples=150)
@given(broken())
def test_detours_are_live_chains_to_the_target_and_exist_where_they_can(drawn: tuple[Cluster, list[int]]) -> None:
    """A path that crossed no dead link is untouched; another becomes a chain of live links, each at most once.

    It is refused exactly where networkx finds no path either: in a tree, over switches and the two nodes' devices only.
    """
    cluster, dead = drawn
    detours, ends = detours_of(cluster, dead), way_ends(cluster)
    paths, source_F, target_F = paths_of(detours)
    live = nx.DiGraph([pair for link, pair in ends.items() if link not in dead])
    live.add_nodes_from(f"dev{device}" for device in range(cluster.num_devices))
    for before, source, target in zip(rows(paths), source_F, target_F, strict=True):
        one = Paths(np.array([0, len(before)]), np.array(before, np.int32))
        nodes = {int(cluster.node_of_device_D[source]), int(cluster.node_of_device_D[target])}
        others = [device.index for device in cluster.devices if device.node not in nodes]
        view = live
        if isinstance(cluster.layout, TreeLayout):
            view = nx.subgraph_view(live, filter_node=lambda v, hidden={f"dev{d}" for d in others}: v not in hidden)
        try:
            (after,) = rows(detours.around(one, np.array([source]), np.array([target])))
        except InputError as error:
            assert not nx.has_path(view, f"dev{source}", f"dev{target}")
            assert "cut off rank" in str(error)
            continue
        if not set(before) & set(dead):
            assert before == after
        place = f"dev{source}"
        for link in after:
            assert place == ends[link][0] and link not in dead
            place = ends[link][1]
        assert f"dev{target}" == place and len(set(after)) == len(after)


@settings(max_examples=60)
@given(broken())
def test_the_check_up_front_says_what_the_flows_will_say(drawn: tuple[Cluster, list[int]]) -> None:
    """check_connected refuses a cluster exactly when some pair has no path left."""
    detours = detours_of(*drawn)
    paths, source_F, target_F = paths_of(detours)
    try:
        detours.around(paths, source_F, target_F)
    except InputError:
        with pytest.raises(InputError, match="cut off"):
            detours.check_connected(np.arange(detours.cluster.num_devices))
    else:
        detours.check_connected(np.arange(detours.cluster.num_devices))


def test_links_of_devices_stay_at_both_ends() -> None:
    """A copy engine's links, which no cluster knows, frame the detour as they framed the path."""
    cluster = tree(nodes=2)
    own, last = len(cluster.links), len(cluster.links) + 1
    (path,) = rows(path_policies.get("rail")(cluster, np.array([0]), np.array([2])))
    framed = Paths(np.array([0, len(path) + 2]), np.array([own, *path, last], np.int32))
    detours = detours_of(cluster, path[:1])
    (bare,) = rows(detours.around(Paths(np.array([0, len(path)]), np.array(path)), np.array([0]), np.array([2])))
    assert [own, *bare, last] == rows(detours.around(framed, np.array([0]), np.array([2])))[0]


def test_a_dead_nic_relays_through_the_next_device_of_its_node() -> None:
    """H100 SuperPOD, node3.nic2.up down: over NVLink to device 3, up its NIC, by the spine to the target's own NIC."""
    cluster = shipped("dgx-h100-superpod")
    first = 26  # node 3, local index 2
    detours = detours_of(cluster, [cluster.link_index("node3.nic2.up")])
    paths = path_policies.get("rail")(cluster, np.array([first]), np.array([2]))
    names = [cluster.links[link].name for link in rows(detours.around(paths, np.array([first]), np.array([2])))[0]]
    expected = ["node3.dev2.scale_up.out", "node3.dev3.scale_up.in", "node3.nic3.up", "unit0.leaf3.up"]
    assert [*expected, "unit0.leaf2.down", "node0.nic2.down"] == names


def test_planes_relay_in_both_nodes() -> None:
    """With separate planes the next plane is taken, and the target is reached over its own node's scale-up links."""
    cluster = tree(nodes=2, devices=4, rails=4, planes=True)
    detours = detours_of(cluster, [cluster.link_index("node1.nic2.up")])
    paths = path_policies.get("rail")(cluster, np.array([6]), np.array([2]))
    names = [cluster.links[link].name for link in rows(detours.around(paths, np.array([6]), np.array([2])))[0]]
    expected = ["node1.dev2.scale_up.out", "node1.dev3.scale_up.in", "node1.nic3.up", "node0.nic3.down"]
    assert [*expected, "node0.dev3.scale_up.out", "node0.dev2.scale_up.in"] == names


def test_a_dead_cable_moves_its_flows_to_other_cables() -> None:
    """Where cables are links of their own, a flow of a dead cable stays on its rail and takes another one."""
    cluster = load_topology("dgx-h100-superpod", separate_cables=True, nodes=4)
    flows = np.array([0]), np.array([9])  # node 0, rail 0, to node 1, rail 1
    paths = path_policies.get("rail")(cluster, *flows)
    dead = rows(paths)[0][1:2]
    assert "unit0.leaf0.cable" in cluster.links[dead[0]].name
    names = [cluster.links[link].name for link in rows(detours_of(cluster, dead).around(paths, *flows))[0]]
    assert ["node0.nic0.up", "node1.nic1.down"] == [names[0], names[-1]]
    assert "unit0.leaf0.cable" in names[1] and names[1] != cluster.links[dead[0]].name


def test_every_path_of_a_spread_flow_avoids_a_dead_link() -> None:
    """minimal_adaptive on 3x3: of the ways from chip 0 to 4 those over the dead link bend; all still lead to chip 4."""
    cluster = torus("3x3")
    split = split_paths("minimal_adaptive", cluster, np.array([0]), np.array([4]))
    dead = rows(split.paths)[0][0]
    detours = detours_of(cluster, [dead], "minimal_adaptive")
    detours.check_connected(np.arange(cluster.num_devices))
    ends = np.zeros(len(split.flow_P), np.int64), np.full(len(split.flow_P), 4)
    around = rows(detours.around(split.paths, *ends))
    assert all(dead not in path for path in around)
    assert {"dev4"} == {way_ends(cluster)[path[-1]][1] for path in around}
    cut = [link for link, (_, target) in way_ends(cluster).items() if target == "dev4"]
    with pytest.raises(InputError, match=r"cut off rank 4 "):
        detours_of(cluster, cut, "minimal_adaptive").check_connected(np.arange(cluster.num_devices))


def test_slices_that_lose_their_network_are_cut_off() -> None:
    """Two slices meet over hosts only: without host 0's link up its chips cannot reach the other slice."""
    cluster = torus("2x2", slices=2)
    detours = detours_of(cluster, [cluster.link_index("node0.dcn.up")])
    with pytest.raises(InputError, match="cut off"):
        detours.check_connected(np.arange(cluster.num_devices))


@settings(max_examples=150)
@given(
    cluster=st.builds(
        tree,
        nodes=st.integers(2, 4),
        devices=st.just(4),
        rails=st.sampled_from([2, 4]),
        nodes_per_unit=st.integers(1, 4),
    ),
    pick=st.integers(0, 1 << 20),
    sizes=st.lists(st.sampled_from([0.0, 0.0, 1.0, 5.0, 40.0]), min_size=16, max_size=16),
)
def test_a_dead_nic_is_never_faster_under_bound(cluster: Cluster, pick: int, sizes: list[float]) -> None:
    """Trees whose leaves are not oversubscribed: all of a dead NIC's load is on top of another's, so the bound rises."""
    nics = [index for index, link in enumerate(cluster.links) if link.tier == "nic"]
    detours = detours_of(cluster, [nics[pick % len(nics)]])
    paths, source_F, target_F = paths_of(detours)
    size_F = np.random.default_rng(pick).permutation(np.resize(sizes, len(source_F)))
    times = [completion(cluster, each, size_F) for each in (paths, detours.around(paths, source_F, target_F))]
    assert times[0] <= times[1] * (1 + 1e-12)


def completion(cluster: Cluster, paths: Paths, size_F: np.ndarray) -> float:
    """The bound of all pairs, without latency."""
    ids, zero = np.zeros(len(size_F), np.int32), np.zeros(len(size_F))
    return bound_completion(Flows(ids, ids, size_F, paths, zero, zero + 1.0), cluster.link_bandwidth)


def test_a_dead_link_can_be_faster_where_the_paths_were_poor() -> None:
    """Not a law: on an open 2x3 grid a flow to the corner leaves the link it shared, and the bound falls from 4 s to 2 s."""
    cluster = torus("2x3", wrap="none")
    source_F, target_F = np.array([0, 0]), np.array([3, 1])
    paths = path_policies.get("dimension_order")(cluster, source_F, target_F)
    detours = detours_of(cluster, [cluster.link_index("node0.dev1.y+")])
    size_F = np.array([20.0, 20.0])
    around = detours.around(paths, source_F, target_F)
    assert (4.0, 2.0) == (completion(cluster, paths, size_F), completion(cluster, around, size_F))


def test_a_dead_device_takes_its_links_along() -> None:
    """Nothing is relayed through a dead device, and the others still meet."""
    for cluster in (tree(nodes=2), torus("4x4"), shipped("dgx-h100-superpod")):
        (health,) = healths(cluster, [Fault(kind="device_down", device=1)])
        detours = Detours(cluster, cluster.default_path_policy, health.dead_J)
        detours.check_connected(np.delete(np.arange(cluster.num_devices), 1))
        with pytest.raises(InputError, match=r"cut off rank 1 \("):
            detours.check_connected(np.arange(cluster.num_devices))
