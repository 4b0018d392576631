"""Small clusters and traffic that the tests of collectives share."""

import numpy as np
import pytest

from moesim.calibration import load_profile
from moesim.collective.link_table import build_link_table
from moesim.collective.schedule import CollectiveBuilder
from moesim.topology import load_topology
from moesim.traffic import count_traffic

BYTES = 1000


def make_builder(nodes, algorithm, *, kernel="deepep-normal", group_size=None, sms=None):
    """A builder on DGX H100 nodes whose copies weigh BYTES each."""
    cluster = load_topology("dgx-h100-superpod", nodes=nodes)
    profile = load_profile()
    return CollectiveBuilder(
        cluster=cluster,
        links=build_link_table(cluster, profile.links, profile.kernel(kernel), sms),
        kernel=profile.kernel(kernel),
        algorithm=algorithm,
        path_policy=cluster.default_path_policy,
        group_size=group_size or cluster.num_devices,
        bytes_per_copy={"dispatch": BYTES, "combine": BYTES},
    )


def make_traffic(num_devices, *, tokens=300, experts=64, top_k=6, seed=0, devices_per_node=8):
    """Counts of random routing, and the (source, expert ids, device of expert) behind them."""
    rng = np.random.default_rng(seed)
    ids_TK = np.argsort(rng.random((tokens, experts)), axis=1)[:, :top_k].astype(np.int32)
    source_T = rng.integers(0, num_devices, tokens).astype(np.int32)
    device_E = rng.integers(0, num_devices, experts).astype(np.int32)
    counts = count_traffic(ids_TK, source_T, device_E, num_devices, devices_per_node)
    return counts, ids_TK, source_T, device_E


@pytest.fixture(params=["direct", "per_device", "node_dedup", "all_gather", "torus"])
def algorithm(request):
    return request.param
