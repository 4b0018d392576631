"""Link tables: the part of each link's rate that a profile says is reached."""

import pytest

from moesim.calibration import load_profile
from moesim.cluster import TIERS
from moesim.collective.link_table import REACHED_AS, build_link_table
from moesim.topology import load_topology

EXPECTED = {"scale_up": 0.5, "ici": 0.5, "nic": 0.25, "leaf": 0.25, "local": 0.25, "global": 0.25, "dcn": 0.25}


@pytest.mark.parametrize(
    "name, parameters",
    [("dgx-h100-superpod", {"nodes": 2}), ("generic-dragonfly", {}), ("tpu-v4-pod", {"shape": "4x4x4", "slices": 2})],
)
def test_every_tier_reaches_the_part_its_profile_says(name, parameters):
    """Scale-up and torus links reach one fraction, everything the NICs' packets cross the other."""
    cluster = load_topology(name, **parameters)
    profile = load_profile()
    links = profile.links.model_copy(
        update={
            "scale_up": profile.links.scale_up.model_copy(update={"value": 0.5}),
            "nic": profile.links.nic.model_copy(update={"value": 0.25}),
        }
    )
    table = build_link_table(cluster, links, profile.kernel("generic"), None)
    expected = [link.bandwidth_bytes_per_s * EXPECTED[link.tier] for link in cluster.links]
    assert expected == table.bandwidth[: len(expected)].tolist()


def test_no_tier_is_left_out():
    """A new tier has to say whose fraction it reaches."""
    assert list(TIERS) == list(REACHED_AS)
