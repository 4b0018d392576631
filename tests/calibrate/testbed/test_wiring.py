import pytest

from calibrate.testbed.topology import emulated
from calibrate.testbed.wiring import Wiring, fabric_commands, fabric_shaping, rank_shaping


def test_every_link_is_shaped_in_both_directions() -> None:
    """2 x 2 ranks have 2 uplinks and 4 rank links: 4 + 4 queues in the fabric, one in each rank's namespace."""
    wiring = Wiring(nodes=2, ranks_per_node=2, rank_bytes_per_s=1e6, uplink_bytes_per_s=2e6)
    shaped = fabric_shaping(wiring)
    assert 4 == sum("rate 16000000bit" in line for line in shaped)
    assert 4 == sum("rate 8000000bit" in line for line in shaped)
    assert ["qdisc replace dev eth0 root tbf rate 8000000bit burst 32768 limit 67108864"] == rank_shaping(wiring)


def test_a_rank_is_plugged_into_the_bridge_of_its_node() -> None:
    """Rank 3 of nodes of two is on node 1, and its end goes into the namespace of its process."""
    lines = fabric_commands(Wiring(nodes=2, ranks_per_node=2), [11, 12, 13, 14])
    assert "link add rank3 type veth peer name eth0 netns 14" in lines
    assert "link set rank3 master node1 up" in lines


def test_moesim_sees_the_same_links_at_the_same_rates() -> None:
    """The graph has one link each way per rank (scale-up) and per node (NIC), at the rates given to tc."""
    wiring = Wiring(nodes=4, ranks_per_node=2, rank_bytes_per_s=3e6, uplink_bytes_per_s=5e6)
    cluster = emulated(wiring)
    assert (8, 4, 2) == (cluster.num_devices, cluster.num_nodes, cluster.devices_per_node)
    found = sorted((link.tier, link.bandwidth_bytes_per_s) for link in cluster.links)
    assert sorted([("nic", 5e6)] * 8 + [("scale_up", 3e6)] * 16) == found


@pytest.mark.parametrize(
    ("change", "word"),
    [({"nodes": 0}, "ranks"), ({"nodes": 40}, "ranks"), ({"rank_bytes_per_s": 0.0}, "rank link")],
)
def test_sizes_and_rates_out_of_range_are_refused(change: dict[str, float], word: str) -> None:
    """No ranks, too many, or a link without a rate: one sentence with the bound."""
    with pytest.raises(ValueError, match=word):
        Wiring(**change)  # type: ignore[arg-type]
