"""Faults: what breaks when, and what is left of a cluster."""

import numpy as np
import pytest

from moesim.errors import InputError, UnknownName
from moesim.faults import Fault, device_links, healths, weakened
from tests.strategies.cluster import dragonfly, torus, tree


def test_eras_start_where_something_changes() -> None:
    """Factors multiply, what is down stays down, and a fault of factor 1 makes no era."""
    cluster = tree(nodes=2)
    faults = [
        Fault(kind="slow_device", device=1, factor=0.5, at_s=2.0),
        Fault(kind="slow_device", device=1, factor=0.5),
        Fault(kind="slow_link", link="node0.nic0.up", factor=1.0, at_s=1.0),
        Fault(kind="link_down", link="node1.nic0.down", at_s=3.0),
    ]
    eras = healths(cluster, faults)
    assert [0.0, 2.0, 3.0] == [era.since_s for era in eras]
    assert [0.5, 0.25, 0.25] == [era.speed_D[1] for era in eras]
    assert [0, 0, 1] == [int(era.dead_J.sum()) for era in eras]


def test_nothing_broken_is_the_cluster_itself() -> None:
    """No fault, or a factor of 1: one era, and the very same cluster."""
    cluster = tree(nodes=2)
    for faults in ([], [Fault(kind="slow_device", device=0, factor=1.0)]):
        (only,) = healths(cluster, faults)
        assert cluster is weakened(cluster, only)


def test_slow_things_are_slower_by_the_factor() -> None:
    """Speed of the one device, bandwidth of the one link; all else as it was."""
    cluster = tree(nodes=2)
    faults = [
        Fault(kind="slow_device", device=3, factor=0.25),
        Fault(kind="slow_link", link="node0.nic1.up", factor=0.5),
    ]
    left = weakened(cluster, healths(cluster, faults)[0])
    assert [1.0, 1.0, 1.0, 0.25] == [device.speed for device in left.devices]
    changed = np.flatnonzero(left.link_bandwidth != cluster.link_bandwidth)
    assert [cluster.link_index("node0.nic1.up")] == changed.tolist()
    assert 0.5 * cluster.link_bandwidth[changed] == left.link_bandwidth[changed]


@pytest.mark.parametrize(
    ("cluster", "names"),
    [
        (tree(nodes=2), ["node0.dev1.scale_up.in", "node0.dev1.scale_up.out", "node0.nic1.down", "node0.nic1.up"]),
        (dragonfly(nodes=2), ["node0.dev1.scale_up.in", "node0.dev1.scale_up.out", "node0.nic1.down", "node0.nic1.up"]),
        (torus("4"), ["node0.dev0.x+", "node0.dev1.x+", "node0.dev1.x-", "node1.dev0.x-"]),
    ],
)
def test_links_of_a_device_start_or_end_there(cluster, names) -> None:
    """Scale-up and NIC both ways; on a torus one each way per neighbour."""
    assert names == sorted(cluster.links[link].name for link in device_links(cluster, 1))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"kind": "slow_device", "device": 0, "factor": 0.0}, r"factor is 0.0, outside \(0, 1\]"),
        ({"kind": "slow_device", "device": 0, "factor": 1.5}, r"factor is 1.5, outside \(0, 1\]"),
        ({"kind": "slow_link", "link": "node0.nic0.up", "factor": float("nan")}, "factor is nan"),
        ({"kind": "slow_device", "device": 0}, "needs factor"),
        ({"kind": "link_down", "link": "node0.nic0.up", "factor": 0.5}, "takes no factor"),
        ({"kind": "device_down", "link": "node0.nic0.up"}, "give the key device and no link"),
        ({"kind": "link_down", "device": 3}, "give the key link and no device"),
        ({"kind": "device_down", "device": 0, "at_s": -1.0}, "must be 0 or more"),
        ({"kind": "device_down", "device": 0, "at_s": float("inf")}, "finite"),
        ({"kind": "device_down", "device": 4}, r"devices 0\.\.3; the nearest is device 3"),
        ({"kind": "device_down", "device": -1}, "the nearest is device 0"),
    ],
)
def test_faults_that_cannot_be_are_refused(keys, words) -> None:
    """The sentence names the value and the bound."""
    with pytest.raises(InputError, match=words):
        healths(tree(nodes=2), [Fault(**keys)])


def test_a_link_that_does_not_exist_is_answered_with_the_nearest() -> None:
    """UnknownName, as for every other name."""
    with pytest.raises(UnknownName, match=r"did you mean 'node0\.nic1\.up'"):
        healths(tree(nodes=2), [Fault(kind="link_down", link="node0.nic1.upp")])


def test_one_device_must_stay_alive() -> None:
    """A cluster that is all down has no step."""
    with pytest.raises(InputError, match="all 2 devices"):
        healths(tree(nodes=1), [Fault(kind="device_down", device=device) for device in range(2)])
