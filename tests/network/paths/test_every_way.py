"""Laws of paths through tori, dragonflies and graphs, for every policy that has paths there."""

from collections import defaultdict
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cluster import Cluster, TorusLayout
from moesim.errors import InputError, UnknownName
from moesim.network.paths import SplitPaths, path_policies, split_paths
from tests.strategies.cluster import dragonflies, dragonfly, graph_cluster, graphs, tori, torus, tree, way_ends

ANY = st.one_of(tori(), dragonflies(), graphs())


def all_pairs(cluster: Cluster) -> tuple[np.ndarray, np.ndarray]:
    source_F, target_F = np.mgrid[: cluster.num_devices, : cluster.num_devices]
    return source_F.ravel(), target_F.ravel()


def policies_of(cluster: Cluster) -> list[str]:
    return ["ecmp", "minimal_adaptive", *(["dimension_order"] if isinstance(cluster.layout, TorusLayout) else [])]


def rows(split: SplitPaths) -> list[list[int]]:
    offsets = split.paths.offsets
    return [split.paths.links[a:b].tolist() for a, b in pairwise(offsets)]


@settings(max_examples=60)
@given(cluster=ANY)
def test_paths_lead_from_source_to_target(cluster: Cluster) -> None:
    """Each path of every policy is a chain of links from its source to its target; only to itself it is empty.

    Between slices the chain starts and ends at the hosts.
    """
    ends, (source_F, target_F) = way_ends(cluster), all_pairs(cluster)
    for policy in policies_of(cluster):
        split = split_paths(policy, cluster, source_F, target_F)
        for flow, links in zip(split.flow_P, rows(split), strict=True):
            hosts = bool(links) and cluster.links[links[0]].tier == "dcn"
            name_D = [f"node{device.node}" if hosts else f"dev{device.index}" for device in cluster.devices]
            place = name_D[source_F[flow]]
            for link in links:
                assert place == ends[link][0]
                place = ends[link][1]
            assert name_D[target_F[flow]] == place
            assert (source_F[flow] == target_F[flow]) == (not links)


@settings(max_examples=60)
@given(cluster=st.one_of(tori(most_slices=1), graphs()))
def test_paths_are_the_shortest(cluster: Cluster) -> None:
    """No policy takes more links than the fewest that networkx finds, in plain, open and twisted grids and in graphs."""
    network = nx.DiGraph(list(way_ends(cluster).values()))
    network.add_nodes_from(f"dev{device}" for device in range(cluster.num_devices))
    hops = dict(nx.all_pairs_shortest_path_length(network))
    source_F, target_F = all_pairs(cluster)
    for policy in policies_of(cluster):
        split = split_paths(policy, cluster, source_F, target_F)
        expected = [hops[f"dev{source_F[flow]}"][f"dev{target_F[flow]}"] for flow in split.flow_P]
        assert expected == np.diff(split.paths.offsets).tolist()


@settings(max_examples=60)
@given(cluster=ANY)
def test_shares_are_a_whole(cluster: Cluster) -> None:
    """The paths of a flow are in the order of flows, differ from each other, and carry all of it together."""
    source_F, target_F = all_pairs(cluster)
    split = split_paths("minimal_adaptive", cluster, source_F, target_F)
    assert np.all(np.diff(split.flow_P) >= 0)
    assert np.bincount(split.flow_P, split.share_P, minlength=len(source_F)) == pytest.approx(np.ones(len(source_F)))
    keys = [(int(flow), tuple(links)) for flow, links in zip(split.flow_P, rows(split), strict=True)]
    assert len(keys) == len(set(keys))


@settings(max_examples=40)
@given(cluster=tori(most_slices=1))
def test_adaptive_tori_use_every_straight_way(cluster: Cluster) -> None:
    """minimal_adaptive takes all shortest ways that walk each axis in one go and one direction, and no other."""
    layout, target_F = cluster.layout, np.arange(cluster.num_devices)
    split = split_paths("minimal_adaptive", cluster, np.zeros_like(target_F), target_F)
    got = defaultdict(set)
    for flow, links in zip(split.flow_P.tolist(), rows(split), strict=True):
        got[flow].add(tuple(links))
    furthest = int(np.diff(split.paths.offsets).max())
    expected = defaultdict(set)
    stack = [(0, (), ())]
    while stack:
        chip, ports, links = stack.pop()
        expected[chip].add(links)
        for port in range(layout.link_DP.shape[1]):
            turned_back = any(used // 2 == port // 2 for used in ports if used != port) or port in ports[:-1]
            straight = not ports or ports[-1] == port or not turned_back
            if len(links) < furthest and layout.link_DP[chip, port] >= 0 and straight:
                went_on = ports if ports and ports[-1] == port else (*ports, port)
                stack.append((int(layout.neighbor_DP[chip, port]), went_on, (*links, int(layout.link_DP[chip, port]))))
    for chip in range(cluster.num_devices):
        fewest = min(map(len, expected[chip]))
        assert {links for links in expected[chip] if len(links) == fewest} == got[chip]


@settings(max_examples=60)
@given(cluster=graphs())
def test_adaptive_graphs_use_every_shortest_path(cluster: Cluster) -> None:
    """minimal_adaptive follows as many paths as networkx lists, each with the product of even shares on its way."""
    network = nx.DiGraph(list(way_ends(cluster).values()))
    network.add_nodes_from(f"dev{device}" for device in range(cluster.num_devices))
    ends, (source_F, target_F) = way_ends(cluster), all_pairs(cluster)
    split = split_paths("minimal_adaptive", cluster, source_F, target_F)
    got = {}
    for flow, share, links in zip(split.flow_P, split.share_P, rows(split), strict=True):
        stops = tuple(ends[link][1] for link in links)
        got[int(flow), (f"dev{source_F[flow]}", *stops)] = share
    expected = {}
    for flow, (source, target) in enumerate(zip(source_F, target_F, strict=True)):
        ways = list(nx.all_shortest_paths(network, f"dev{source}", f"dev{target}"))
        for way in ways:
            share = 1.0
            for place in range(len(way) - 1):
                share /= len({other[place + 1] for other in ways if other[place] == way[place]})
            expected[flow, tuple(way)] = share
    assert expected == pytest.approx(got)


@settings(max_examples=40)
@given(cluster=ANY)
def test_one_path_is_one_of_all(cluster: Cluster) -> None:
    """The hashed path of ecmp, and of a caller of minimal_adaptive that takes one, is one of its split paths."""
    source_F, target_F = all_pairs(cluster)
    every = split_paths("minimal_adaptive", cluster, source_F, target_F)
    known = {(int(flow), tuple(links)) for flow, links in zip(every.flow_P, rows(every), strict=True)}
    for policy in ("ecmp", "minimal_adaptive"):
        one = path_policies.get(policy)(cluster, source_F, target_F)
        for flow in range(one.num_flows):
            assert (flow, tuple(one.links[one.offsets[flow] : one.offsets[flow + 1]].tolist())) in known


@settings(max_examples=60)
@given(cluster=dragonflies())
def test_dragonfly_paths_cross_one_global_link(cluster: Cluster) -> None:
    """Between groups: NICs, one global link, at most one link inside each group; all global links of a pair are used."""
    layout, (source_F, target_F) = cluster.layout, all_pairs(cluster)
    split = split_paths("minimal_adaptive", cluster, source_F, target_F)
    group_D = layout.group_of_switch[layout.switch_of_device_D]
    tiers = np.array([link.tier for link in cluster.links])
    ways_F = np.bincount(split.flow_P)
    for flow, links in zip(split.flow_P, rows(split), strict=True):
        used = tiers[links].tolist()
        across = group_D[source_F[flow]] != group_D[target_F[flow]]
        assert used.count("global") == across
        assert used.count("local") <= 1 + across
        pair = int(group_D[source_F[flow]]) * layout.num_groups + int(group_D[target_F[flow]])
        assert ways_F[flow] == max(1, layout.global_offsets[pair + 1] - layout.global_offsets[pair])


def test_slices_are_joined_by_their_hosts() -> None:
    """From slice 0 to slice 1: up from the source's host and down to the target's, 4 s end to end, 12 B/s a host."""
    cluster = torus("2x2x2", slices=2)
    paths = path_policies.get("dimension_order")(cluster, np.array([5]), np.array([8 + 6]))
    assert ["node1.dcn.up", "node3.dcn.down"] == [cluster.links[link].name for link in paths.links]
    assert (4.0, [12.0, 12.0]) == (
        cluster.link_latency_s[paths.links].sum(),
        cluster.link_bandwidth[paths.links].tolist(),
    )


def test_ecmp_picks_cables_by_seed() -> None:
    """With separate cables a leaf's flows spread over its cables by hash; down they come from the spine they went up to."""
    cluster, other = (tree(nodes=16, nodes_per_unit=4, separate_cables=True, hash_seed=seed) for seed in (0, 1))
    source_F, target_F = all_pairs(cluster)
    one, two = (path_policies.get("ecmp")(c, source_F, target_F) for c in (cluster, other))
    assert not np.array_equal(one.links, two.links)
    layout = cluster.layout
    up = {int(layout.leaf_up[leaf]) + cable: cable for leaf in range(8) for cable in range(4)}
    down = {int(layout.leaf_down[leaf]) + cable: cable for leaf in range(8) for cable in range(4)}
    seen = np.zeros(4)
    for flow in range(one.num_flows):
        links = one.links[one.offsets[flow] : one.offsets[flow + 1]].tolist()
        cables = [up[link] for link in links if link in up]
        assert cables == [down[link] for link in links if link in down]
        seen[cables] += 1
    assert 0.7 * seen.mean() < seen.min()


def test_ecmp_on_bundles_is_the_even_split() -> None:
    """Where cables are one bundle, ecmp and rail take the same links."""
    cluster = tree(nodes=8)
    source_F, target_F = all_pairs(cluster)
    one, two = (path_policies.get(policy)(cluster, source_F, target_F) for policy in ("ecmp", "rail"))
    assert np.array_equal(one.links, two.links)


def test_separate_cables_add_up() -> None:
    """A bundle and its separate cables have the same bandwidth."""
    one, two = tree(nodes=6, oversubscription=2.0), tree(nodes=6, oversubscription=2.0, separate_cables=True)
    totals = [
        sum(link.bandwidth_bytes_per_s for link in cluster.links if link.tier == "leaf") for cluster in (one, two)
    ]
    assert totals[0] == pytest.approx(totals[1])
    assert len(one.links) <= len(two.links)


@pytest.mark.parametrize(
    ("cluster", "policy", "message"),
    [
        (torus("2x2"), "rail", "rail has no paths through toy-torus, a torus; use dimension_order"),
        (dragonfly(nodes=2), "pxn", "a dragonfly; use minimal_adaptive or ecmp"),
        (tree(nodes=2), "dimension_order", "a tree; use rail, pxn"),
        (tree(nodes=2), "minimal_adaptive", "a tree; use rail, pxn"),
    ],
)
def test_a_policy_of_another_layout_is_refused(cluster: Cluster, policy: str, message: str) -> None:
    """A policy without paths through a cluster says which ones have."""
    one = np.zeros(1, dtype=np.int64)
    for find in (path_policies.get(policy), lambda *flows: split_paths(policy, *flows)):
        with pytest.raises(InputError, match=message):
            find(cluster, one, one)


def test_unknown_policies_and_devices_are_refused() -> None:
    """A misspelt policy is answered with the nearest, a device that is not there with the bound."""
    with pytest.raises(UnknownName, match="did you mean 'dimension_order'"):
        split_paths("dimension_ordr", torus("2x2"), np.array([0]), np.array([1]))
    for policy in ("dimension_order", "ecmp", "minimal_adaptive"):
        with pytest.raises(InputError, match=r"has devices 0\.\.3"):
            split_paths(policy, torus("2x2"), np.array([0]), np.array([4]))


def test_too_many_shortest_paths_are_refused() -> None:
    """Nine stages of two switches have 2^9 shortest paths: refused with the way out, which works."""
    stages = [[f"s{stage}.{side}" for side in "ab"] for stage in range(9)]
    nodes = [{"id": name} for name in ("first", "last")] + [
        {"id": s, "kind": "switch"} for stage in stages for s in stage
    ]
    edges = [(one, other) for a, b in pairwise(stages) for one in a for other in b]
    edges += [("first", other) for other in stages[0]] + [(one, "last") for one in stages[-1]]
    data = {"nodes": nodes, "edges": [{"source": a, "target": b, "bandwidth": 1.0} for a, b in edges]}
    cluster, ends = graph_cluster(data), (np.array([0]), np.array([1]))
    with pytest.raises(InputError, match=r"more than 256 shortest paths .* use the path policy ecmp"):
        split_paths("minimal_adaptive", cluster, *ends)
    assert 10 == len(split_paths("ecmp", cluster, *ends).paths.links)
