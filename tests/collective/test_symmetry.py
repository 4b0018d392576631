"""Symmetry: groups of devices that differ in names only are of one class."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.calibration import load_profile
from moesim.collective.link_table import build_link_table
from moesim.collective.schedule import CollectiveBuilder
from moesim.collective.symmetry import _in_order_of_appearance, classes
from moesim.faults import Fault, healths, weakened
from moesim.network.detours import Detours
from moesim.topology import load_topology


def blocks(cluster, size, *, policy=None, detours=None):
    profile = load_profile()
    policy = policy or cluster.default_path_policy
    return [
        CollectiveBuilder(
            cluster=cluster,
            links=build_link_table(cluster, profile.links, profile.kernel("generic"), None),
            kernel=profile.kernel("generic"),
            algorithm="direct",
            path_policy=policy,
            group_size=size,
            bytes_per_copy={"dispatch": 16, "combine": 16},
            device_of_rank=np.arange(first, first + size),
            detours=detours,
        )
        for first in range(0, cluster.num_devices, size)
    ]


@pytest.mark.parametrize("size", [4, 8, 16])
def test_blocks_of_a_tree_are_alike(size):
    """Half nodes, nodes and pairs of nodes of a fat tree with one unit are of one class."""
    cluster = load_topology("dgx-h100-superpod", nodes=4)
    assert [0] * (32 // size) == classes(blocks(cluster, size))


def test_blocks_across_units_are_of_another_class():
    """33 nodes: the pair of nodes that straddles two units crosses other links than those inside one."""
    cluster = load_topology("dgx-h100-superpod", nodes=34)
    whole = blocks(cluster, 16)
    straddling = dataclasses.replace(whole[15], device_of_rank=np.arange(8 * 31, 8 * 33))
    assert [0, 1] == classes([whole[0], straddling])


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="slow_device", device=9, factor=0.5),
        Fault(kind="slow_link", link="node1.nic1.up", factor=0.5),
        Fault(kind="link_down", link="node1.nic1.up"),
    ],
)
def test_a_fault_sets_its_own_block_apart(fault):
    """Blocks of two nodes: only the first has the fault."""
    cluster = load_topology("dgx-h100-superpod", nodes=6)
    (health,) = healths(cluster, [fault])
    weak = weakened(cluster, health)
    dead = Detours(cluster=cluster, policy=cluster.default_path_policy, dead_J=health.dead_J)
    found = classes(blocks(weak, 16, detours=dead if health.dead_J.any() else None))
    assert [0, 1, 1] == found


def test_a_slow_link_that_a_block_does_not_use_changes_nothing():
    """Blocks inside a node do not cross its NICs."""
    cluster = load_topology("dgx-h100-superpod", nodes=2)
    (health,) = healths(cluster, [Fault(kind="slow_link", link="node1.nic1.up", factor=0.5)])
    assert [0, 0] == classes(blocks(weakened(cluster, health), 8))


@given(st.lists(st.integers(0, 9), max_size=20))
def test_links_are_numbered_as_paths_meet_them(numbers: list[int]) -> None:
    """Each once, whichever comes first in front; none of none."""
    assert list(dict.fromkeys(numbers)) == _in_order_of_appearance(np.array(numbers, np.int32)).tolist()
