"""CollectiveBuilder: groups, fixed costs, several expert-parallel groups, relabelled devices."""

import dataclasses

import numpy as np
import pytest

from moesim.calibration import load_profile
from moesim.collective.link_table import build_link_table
from moesim.collective.schedule import join_paths, with_ends
from moesim.network.bound import bound_completion
from moesim.network.flow import Paths
from moesim.topology import load_topology
from moesim.traffic import count_traffic
from tests.collective.conftest import make_builder, make_traffic
from tests.strategies.cluster import torus


def test_groups_of_ranks_are_copies_of_the_same_collective_side_by_side(algorithm):
    """Two groups with equal traffic give twice the flows, the second shifted by the group size."""
    counts, *_ = make_traffic(16)
    one = make_builder(2, algorithm).build((counts,), "dispatch")
    two = make_builder(4, algorithm, group_size=16).build((counts, counts), "dispatch")
    low = two.flows.source_F < 16
    assert one.flows.bytes_F.sum() * 2 == two.flows.bytes_F.sum()
    assert sorted(one.flows.source_F + 16) == sorted(two.flows.source_F[~low])
    assert sorted(zip(one.flows.source_F, one.flows.target_F, one.flows.bytes_F, strict=True)) == sorted(
        zip(two.flows.source_F[low], two.flows.target_F[low], two.flows.bytes_F[low], strict=True)
    )


def test_every_group_a_rank_waits_for_has_flows(algorithm):
    """Group numbers are dense: none is empty, so none can wait for ever."""
    counts, *_ = make_traffic(24, tokens=7)
    collective = make_builder(3, algorithm).build((counts,), "combine")
    assert set(range(int(collective.group_F.max()) + 1)) == set(collective.group_F.tolist())
    assert set(collective.waits_groups.tolist()) <= set(collective.group_F.tolist())


def test_no_traffic_is_no_flows(algorithm):
    """A step without tokens makes an empty collective that still has its fixed cost."""
    empty = count_traffic(np.zeros((0, 6), np.int32), np.zeros(0, np.int32), np.zeros(64, np.int32), 24, 8)
    collective = make_builder(3, algorithm).build((empty,), "dispatch")
    assert (0, 0) == (collective.flows.num_flows, len(collective.waits_groups))
    assert collective.fixed_s > 0


def test_weights_of_a_sender_add_up_to_one_in_each_leg():
    """A device with many flows gets no larger share than one with few."""
    counts, *_ = make_traffic(24)
    collective = make_builder(3, "direct").build((counts,), "dispatch")
    sums = np.bincount(collective.flows.source_F, weights=collective.flows.weight_F)
    assert [1.0] * 24 == pytest.approx(sums)


@pytest.mark.parametrize(("nodes", "microseconds"), [(1, 38), (2, 71), (4, 91), (8, 118)])
def test_the_fixed_cost_is_the_published_one_at_published_sizes(nodes, microseconds):
    """deepep-normal dispatch: notify grows with the nodes."""
    assert microseconds * 1e-6 == pytest.approx(make_builder(nodes, "node_dedup").fixed_s("dispatch"))


def test_extrapolated_fixed_costs_are_told():
    """16 nodes are beyond the published 8."""
    assert [] == make_builder(8, "node_dedup").extrapolated()
    assert any("16 nodes" in sentence for sentence in make_builder(16, "node_dedup").extrapolated())


def test_swapping_nodes_changes_no_completion(algorithm):
    """Node permutation is an automorphism of one scalable unit: bound completion stays."""
    counts, ids_TK, source_T, device_E = make_traffic(24)
    order = np.array([2, 0, 1])
    moved = (order[np.arange(24) // 8] * 8 + np.arange(24) % 8).astype(np.int32)
    swapped = count_traffic(ids_TK, moved[source_T], moved[device_E], 24, 8)
    builder = make_builder(3, algorithm)
    times = [
        bound_completion(builder.build((traffic,), "dispatch").flows, builder.links.bandwidth)
        for traffic in (counts, swapped)
    ]
    assert times[0] == pytest.approx(times[1], rel=1e-12)


def test_more_sms_never_slow_the_bound():
    """The copy engine's rate is proportional to its SMs, and bound is monotone in bandwidths."""
    counts, *_ = make_traffic(8, devices_per_node=8)
    times = []
    for sms in (4, 8, 16, 24):
        builder = make_builder(1, "per_device", sms=sms)
        times.append(bound_completion(builder.build((counts,), "dispatch").flows, builder.links.bandwidth))
    assert sorted(times, reverse=True) == times


def test_a_spread_flow_keeps_its_bytes_its_weight_and_its_ends():
    """minimal_adaptive on a torus: parts of a flow add up to it, carry its share, pass its engines, release its target."""
    counts, *_ = make_traffic(16)
    cluster = torus("4x4")
    profile = load_profile()
    whole = dataclasses.replace(
        make_builder(2, "direct"),
        cluster=cluster,
        links=build_link_table(cluster, profile.links, profile.kernel("deepep-normal"), 4),
        path_policy="dimension_order",
    )
    one = whole.build((counts,), "dispatch")
    spread = dataclasses.replace(whole, path_policy="minimal_adaptive").build((counts,), "dispatch")
    assert spread.flows.num_flows > one.flows.num_flows
    pair = one.flows.source_F * 16 + one.flows.target_F
    pair_of_part = spread.flows.source_F * 16 + spread.flows.target_F
    for name in ("bytes_F", "weight_F"):
        added = np.bincount(pair_of_part, weights=getattr(spread.flows, name))
        assert getattr(one.flows, name) == pytest.approx(added[pair], rel=1e-12)
    assert np.array_equal(spread.group_F, one.group_F[np.searchsorted(pair, pair_of_part)])
    assert np.array_equal(spread.starter_F, spread.flows.source_F)
    paths, (out, into) = spread.flows.paths, (whole.links.engine_out["dispatch"], whole.links.engine_in["dispatch"])
    assert np.array_equal(paths.links[paths.offsets[:-1]], out + spread.flows.source_F)
    assert np.array_equal(paths.links[paths.offsets[1:] - 1], into + spread.flows.target_F)


def test_spreading_over_minimal_paths_shortens_an_even_all_to_all_on_a_twisted_torus():
    """4x4x8 twisted, the same bytes between all chips: one path each overloads some links."""
    cluster = load_topology("tpu-v4-pod", shape="4x4x8_twisted")
    ids_TK = np.tile(np.arange(128, dtype=np.int32), (128, 1))
    counts = count_traffic(ids_TK, np.arange(128, dtype=np.int32), np.arange(128, dtype=np.int32), 128, 4)
    profile = load_profile()
    builder = dataclasses.replace(
        make_builder(1, "torus", group_size=128),
        cluster=cluster,
        links=build_link_table(cluster, profile.links, profile.kernel("generic"), None),
        kernel=profile.kernel("generic"),
        bytes_per_copy={"dispatch": 10**6, "combine": 10**6},
    )
    times = [
        bound_completion(
            dataclasses.replace(builder, path_policy=policy).build((counts,), "dispatch").flows, builder.links.bandwidth
        )
        for policy in ("dimension_order", "minimal_adaptive")
    ]
    assert times[1] < 0.9 * times[0]


def test_paths_keep_their_links_when_ends_are_put_on():
    """with_ends puts one link before and one behind each path, also an empty one."""
    paths = Paths(np.array([0, 2, 2, 3]), np.array([5, 6, 7], dtype=np.int32))
    ended = with_ends(paths, np.array([10, 11, 12]), np.array([20, 21, 22]))
    assert [10, 5, 6, 20, 11, 21, 12, 7, 22] == ended.links.tolist()
    assert [0, 4, 6, 9] == ended.offsets.tolist()


def test_joined_paths_are_the_paths_one_after_the_other():
    """Offsets of the second part go on where the first ends."""
    part = Paths(np.array([0, 1, 3]), np.array([1, 2, 3], dtype=np.int32))
    joined = join_paths([part, part])
    assert [0, 1, 3, 4, 6] == joined.offsets.tolist()
    assert [1, 2, 3, 1, 2, 3] == joined.links.tolist()
