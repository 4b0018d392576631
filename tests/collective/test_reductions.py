"""Reductions: the closed forms of ring, tree and two-hop, and what a device sends."""

import numpy as np
import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from moesim.calibration import load_profile
from moesim.collective.link_table import build_link_table
from moesim.collective.reduction import Group, ReductionLeg, leg_flows, reductions, time_flows, time_reduction
from moesim.collective.reduction_flows import reduction_collectives, reduction_time, send_time
from moesim.errors import InputError
from moesim.network.fabric import BoundFabric, FluidFabric
from moesim.network.flow import Paths
from moesim.network.paths import path_policies
from moesim.topology import load_topology

GB = 1e9


def star_paths(num_devices):
    """A switch: link d out of device d, link num_devices + d into it."""

    def paths_of(source, target):
        offsets = 2 * np.arange(len(source) + 1)
        return Paths(offsets, np.stack([source, num_devices + target], axis=1).ravel())

    return paths_of


def on_a_switch(algorithm, operation, num_devices, num_bytes, *, latency=0.0, fidelity="bound", groups=None):
    links = 2 * num_devices
    return time_reduction(
        algorithm,
        operation,
        groups or [Group(np.arange(num_devices), num_bytes)],
        node_of_device=np.zeros(num_devices, dtype=np.int32),
        paths_of=star_paths(num_devices),
        bandwidth=np.full(links, GB),
        latency_s=np.full(links, latency / 2),
        fidelity=fidelity,
    )


@pytest.mark.parametrize("fidelity", ["bound", "fluid"])
@given(size=st.integers(2, 64))
def test_a_ring_all_reduce_takes_two_n_minus_one_over_n(size, fidelity):
    """2 (n - 1) / n of the bytes over a device's link, and 2 (n - 1) latencies."""
    result = on_a_switch("ring", "all_reduce", size, 4 * GB, latency=1e-6, fidelity=fidelity)
    assert 2 * (size - 1) / size * 4.0 + 2 * (size - 1) * 1e-6 == pytest.approx(result.time_s)


@pytest.mark.parametrize("operation", ["reduce_scatter", "all_gather"])
@given(size=st.integers(2, 64))
def test_half_an_all_reduce_takes_half_the_time(size, operation):
    """A ring all-reduce is a reduce-scatter and an all-gather."""
    whole = on_a_switch("ring", "all_reduce", size, GB, latency=1e-6).time_s
    assert whole / 2 == pytest.approx(on_a_switch("ring", operation, size, GB, latency=1e-6).time_s)


@given(size=st.integers(2, 200))
def test_trees_reach_every_device_and_send_twice_the_bytes_at_most(size):
    """Either tree has n - 1 edges up and down that lead everybody to its root; rounds grow with log2(n)."""
    (leg,) = reductions.get("tree")(np.arange(size), 2.0, "all_reduce", np.zeros(size, dtype=np.int32))
    edges = size - 1
    for tree in range(2):
        mine = slice(tree * edges, (tree + 1) * edges)
        parent = dict(zip(leg.source_F[mine].tolist(), leg.target_F[mine].tolist(), strict=True))
        assert edges == len(parent)
        for device in list(parent):
            seen = set()
            while device in parent:
                assert device not in seen
                seen.add(device)
                device = parent[device]
    sent = np.bincount(leg.source_F, weights=leg.bytes_F, minlength=size)
    received = np.bincount(leg.target_F, weights=leg.bytes_F, minlength=size)
    assert max(sent.max(), received.max()) <= 2 * 2.0
    assert 2 * int(np.ceil(np.log2(size))) == leg.rounds


def test_trees_beat_rings_where_latency_counts():
    """64 devices, 1 kB, 5 us a message: 12 rounds instead of 126."""
    ring = on_a_switch("ring", "all_reduce", 64, 1e3, latency=5e-6).time_s
    tree = on_a_switch("tree", "all_reduce", 64, 1e3, latency=5e-6).time_s
    assert 12 / 126 == pytest.approx(tree / ring, rel=0.05)


def on_h100(algorithm, operation, nodes, num_bytes, groups=None):
    cluster = load_topology("dgx-h100-superpod", nodes=nodes)
    policy = path_policies.get(cluster.default_path_policy)
    return cluster, time_reduction(
        algorithm,
        operation,
        groups or [Group(np.arange(8 * nodes), num_bytes)],
        node_of_device=cluster.node_of_device_D,
        paths_of=lambda source, target: policy(cluster, source, target),
        bandwidth=cluster.link_bandwidth,
        latency_s=np.zeros(len(cluster.links)),
    )


@pytest.mark.parametrize("nodes", [2, 4, 8])
def test_two_hop_is_two_rings_in_nodes_and_one_across(nodes):
    """2 (k - 1) / k x bytes over scale-up links and 2 (N - 1) / N x bytes / k over NICs, one after the other."""
    num_bytes = 8e9
    cluster, result = on_h100("two_hop", "all_reduce", nodes, num_bytes)
    scale_up, nic = (
        next(link.bandwidth_bytes_per_s for link in cluster.links if link.tier == tier) for tier in ("scale_up", "nic")
    )
    inside = 2 * 7 / 8 * num_bytes / scale_up
    across = 2 * (nodes - 1) / nodes * num_bytes / 8 / nic
    assert inside + across == pytest.approx(result.time_s)


@pytest.mark.parametrize("nodes", [2, 4, 8, 16])
def test_rings_of_every_device_share_the_nics(nodes):
    """Every NIC carries 2 (n - 1) / n of bytes / 8 each way: no NIC is the way of all of them."""
    num_bytes, size = 8e9, 8 * nodes
    cluster, result = on_h100("ring", "all_reduce", nodes, num_bytes)
    nic = np.array([link.tier == "nic" for link in cluster.links])
    expected = 2 * (size - 1) / size * num_bytes / 8
    assert result.link_bytes[nic] == pytest.approx(np.full(nic.sum(), expected))
    rate = next(link.bandwidth_bytes_per_s for link in cluster.links if link.tier == "nic")
    assert expected / rate == pytest.approx(result.time_s)


@given(size=st.integers(2, 16), algorithm=st.sampled_from(["ring", "tree", "two_hop"]))
def test_groups_that_share_no_link_do_not_slow_each_other(size, algorithm):
    """Two groups of devices of their own at once take the time of one."""
    groups = [Group(np.arange(size), GB), Group(np.arange(size, 2 * size), GB)]
    both = on_a_switch(algorithm, "all_reduce", 2 * size, GB, groups=groups).time_s
    assert on_a_switch(algorithm, "all_reduce", size, GB).time_s == pytest.approx(both)


def test_groups_that_share_links_add_up():
    """Two groups of the same devices take twice the time of one."""
    group = Group(np.arange(4), GB)
    one = on_a_switch("ring", "all_reduce", 4, GB, groups=[group]).time_s
    assert 2 * one == pytest.approx(on_a_switch("ring", "all_reduce", 4, GB, groups=[group, group]).time_s)


def test_one_device_has_nothing_to_reduce():
    """No flow, no time, no byte."""
    result = on_a_switch("ring", "all_reduce", 2, GB, groups=[Group(np.array([1]), GB)])
    assert (0.0, 0.0) == (result.time_s, result.link_bytes.sum())


def test_a_leg_without_bytes_takes_no_time():
    """Latency is that of a message, and there is none."""
    leg = ReductionLeg(np.array([0]), np.array([1]), np.zeros(1), 3)
    flows = leg_flows([leg], star_paths(2), np.full(4, 1e-6))
    assert [0.0, 0.0] == [time_flows(flows, np.full(4, GB), fidelity, 0.0) for fidelity in ("bound", "fluid")]


def test_wrong_groups_and_names_are_refused():
    """A device cannot be its own partner; an unknown algorithm is named with the known ones."""
    with pytest.raises(InputError, match="twice"):
        on_a_switch("ring", "all_reduce", 2, GB, groups=[Group(np.array([1, 1]), GB)])
    with pytest.raises(InputError, match="ring"):
        on_a_switch("rings", "all_reduce", 2, GB)
    with pytest.raises(InputError, match="nan"):
        Group(np.arange(2), float("nan"))


def h100_links(nodes):
    cluster = load_topology("dgx-h100-superpod", nodes=nodes)
    profile = load_profile()
    return cluster, build_link_table(cluster, profile.links, profile.kernel("generic"), None)


def test_a_ring_over_nodes_pays_each_hops_latency_not_the_longest():
    """A message of a ring of 16 in 2 nodes crosses 14 scale-up hops and 2 NIC hops a turn, and goes round twice less one."""
    cluster, links = h100_links(2)
    latency = {tier: next(x.latency_s for x in cluster.links if x.tier == tier) for tier in ("scale_up", "nic")}
    mean = (14 * 2 * latency["scale_up"] + 2 * 2 * latency["nic"]) / 16
    time = reduction_time(cluster, links, [range(16)], 1e-3).time_s
    assert 30 * mean == pytest.approx(time, rel=1e-6)


@pytest.mark.parametrize("algorithm", ["ring", "tree", "two_hop"])
@pytest.mark.parametrize("operation", ["all_reduce", "reduce_scatter", "all_gather"])
def test_a_reduction_is_never_faster_in_fluid_than_in_bound(algorithm, operation):
    """Groups of 16 on 4 nodes that share NICs: the closed form bounds max-min from below."""
    cluster, links = h100_links(4)
    groups = [np.arange(0, 32, 2), np.arange(1, 32, 2), np.arange(32)]
    times = [
        reduction_time(cluster, links, groups, 1e8, operation, algorithm, fidelity=fidelity).time_s
        for fidelity in ("bound", "fluid")
    ]
    assert 0.0 < times[0] <= times[1] * (1 + 1e-9)


@pytest.mark.parametrize("fabric_of", [BoundFabric, FluidFabric])
@pytest.mark.parametrize("algorithm", ["ring", "tree", "two_hop"])
def test_a_reduction_on_the_fabric_takes_its_closed_form(fabric_of, algorithm):
    """All ranks arrive together and nothing else is sent: every leg's collective ends when `reduction_time` says."""
    cluster, links = h100_links(2)
    groups = [Group(np.arange(16), 1e9)]
    env = simpy.Environment()
    fabric = fabric_of(env, links.bandwidth)
    collectives = reduction_collectives(cluster, links, groups, "all_reduce", algorithm)
    transfers = [open_on(fabric, collective) for collective in collectives]

    def rank(device):
        for transfer in transfers:
            yield transfer.arrive(device)

    for device in range(16):
        env.process(rank(device))
    env.run()
    assert reduction_time(cluster, links, [range(16)], 1e9, algorithm=algorithm).time_s == pytest.approx(env.now)


def open_on(fabric, collective):
    return fabric.open(
        collective.flows,
        collective.starter_F,
        collective.group_F,
        collective.num_ranks,
        collective.waits_offsets,
        collective.waits_groups,
        extra_s=collective.extra_s,
    )


def test_devices_of_no_group_wait_for_nothing():
    """On a fabric every device waits for the groups it is in, and only for those."""
    cluster, links = h100_links(2)
    groups = [Group(np.array([3, 9]), 1.0), Group(np.array([1]), 1.0), Group(np.array([9, 2]), 1.0)]
    (collective,) = reduction_collectives(cluster, links, groups, "all_reduce")
    waits = np.split(collective.waits_groups, collective.waits_offsets[1:-1])
    assert {2: [1], 3: [0], 9: [0, 1]} == {device: ids.tolist() for device, ids in enumerate(waits) if len(ids)}


def test_a_reduction_beside_an_all_to_all_gets_one_collectives_share():
    """A ring flow weighs as much as all flows that one device sends in a leg together, two of a tree half each."""
    cluster, links = h100_links(2)
    for algorithm in ("ring", "tree"):
        (collective,) = reduction_collectives(cluster, links, [Group(np.arange(16), 1.0)], "all_reduce", algorithm)
        flows = collective.flows
        assert np.ones(16) == pytest.approx(np.bincount(flows.source_F, weights=flows.weight_F))


def test_a_stage_hands_over_at_the_rate_of_its_nics():
    """Devices of one node to those of the next, each over its own rail: bytes / NIC rate + latency; to itself nothing."""
    cluster, links = h100_links(2)
    nic = next(link for link in cluster.links if link.tier == "nic")
    time = send_time(cluster, links, range(8), range(8, 16), 1e9)
    assert 1e9 / nic.bandwidth_bytes_per_s + 2 * nic.latency_s == pytest.approx(time)
    assert 0.0 == send_time(cluster, links, range(8), range(8), 1e9) == send_time(cluster, links, [], [], 1e9)


def test_a_device_in_two_groups_sends_for_both():
    """Expert and dense gradients of the same devices at once: times add up on the links they share."""
    cluster, links = h100_links(1)
    one = reduction_time(cluster, links, [range(8)], 1e12).time_s
    assert 2 * one == pytest.approx(reduction_time(cluster, links, [range(8), range(8)], 1e12).time_s, rel=1e-4)


@pytest.mark.parametrize("nodes", [2, 3, 4, 5])
def test_rings_of_several_nodes_stay_on_their_rails(nodes):
    """No flow between nodes changes its local index, every ring has every device once, and all NICs serve one ring."""
    cluster, _ = h100_links(nodes)
    group = np.arange(8 * nodes)
    (leg,) = reductions.get("ring")(group, 1.0, "all_reduce", cluster.node_of_device_D)
    between = cluster.node_of_device_D[leg.source_F] != cluster.node_of_device_D[leg.target_F]
    assert (leg.source_F[between] % 8).tolist() == (leg.target_F[between] % 8).tolist()
    assert np.ones(8 * nodes).tolist() == np.bincount(leg.source_F[between]).tolist()
    assert np.full(8 * nodes, 8).tolist() == np.bincount(leg.source_F).tolist()
    assert np.full(8 * nodes, 8).tolist() == np.bincount(leg.target_F).tolist()


@given(nodes=st.integers(1, 6), per_node=st.integers(1, 6))
def test_a_ring_comes_round_to_every_device(nodes, per_node):
    """Each of the k rings is one cycle over all devices."""
    size = nodes * per_node
    legs = reductions.get("ring")(np.arange(size), 1.0, "all_gather", np.repeat(np.arange(nodes), per_node))
    source, target = legs[0].source_F.reshape(-1, size), legs[0].target_F.reshape(-1, size)
    for ring in range(len(source)):
        follows = dict(zip(source[ring].tolist(), target[ring].tolist(), strict=True))
        place, seen = 0, []
        while place not in seen:
            seen.append(place)
            place = follows[place]
        assert list(range(size)) == sorted(seen)


@pytest.mark.parametrize("shape, lengths", [("4x4x4", (4, 4, 4)), ("8x8x8", (8, 8, 8)), ("4x4x8", (4, 4, 8))])
def test_an_all_reduce_on_a_torus_uses_every_link_alike(shape, lengths):
    """2 (n - 1) / n x bytes over 2 links an axis: six times as fast as over one link, all equally busy."""
    cluster = load_topology("tpu-v4-pod", shape=shape)
    profile = load_profile()
    links = build_link_table(cluster, profile.links, profile.kernel("generic"), None)
    size = cluster.num_devices
    result = reduction_time(cluster, links, [range(size)], 6e9)
    carried = 2 * (size - 1) / size * 6e9 / 6
    assert np.full(len(cluster.links), carried) == pytest.approx(result.link_bytes)
    rounds = 2 * sum(length - 1 for length in lengths)
    assert carried / cluster.link_bandwidth[0] + rounds * 1e-6 == pytest.approx(result.time_s)


def test_a_mesh_reduces_half_as_fast_as_a_torus():
    """A ring over a line without wrap comes back over the same links."""
    profile = load_profile()
    times = []
    for wrap in ("all", "none"):
        cluster = load_topology("tpu-v3-pod", shape="8x8", wrap=wrap)
        links = build_link_table(cluster, profile.links, profile.kernel("generic"), None)
        times.append(reduction_time(cluster, links, [range(64)], 1e12).time_s)
    assert 2.0 == pytest.approx(times[1] / times[0], rel=1e-3)


def test_a_group_that_is_no_grid_takes_one_ring():
    """Three chips at a corner are no rectangle: each sends 4/3 of its bytes to the next."""
    cluster = load_topology("tpu-v4-pod", shape="4x4x4")
    profile = load_profile()
    links = build_link_table(cluster, profile.links, profile.kernel("generic"), None)
    corner = cluster.layout.chip_at.reshape(4, 4, 4)
    group = [int(corner[0, 0, 0]), int(corner[0, 0, 1]), int(corner[0, 1, 0])]
    (collective,) = reduction_collectives(cluster, links, [Group(np.array(group), 3.0)], "all_reduce")
    assert (3, 12.0) == (collective.flows.num_flows, pytest.approx(collective.flows.bytes_F.sum()))
