"""all_gather: ring closed forms, and every device gets every other device's tokens once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.collective.algorithms import algorithms
from moesim.errors import InputError
from moesim.network.bound import bound_completion
from moesim.network.simulate import simulate_flows
from moesim.scenario import make_scenario
from moesim.study import simulate
from moesim.traffic import count_traffic
from tests.collective.conftest import BYTES, make_builder, make_traffic
from tests.strategies.scenario import tiny_scenario


def counts_of(tokens_D, devices_per_node, experts=16):
    """Counts of `tokens_D` tokens on each device, each with two experts of 16, spread over the devices."""
    tokens_D = np.asarray(tokens_D)
    source_T = np.repeat(np.arange(len(tokens_D), dtype=np.int32), tokens_D)
    ids_TK = np.stack([np.arange(len(source_T)) % experts, (np.arange(len(source_T)) + 1) % experts], axis=1)
    device_E = (np.arange(experts) % len(tokens_D)).astype(np.int32)
    return count_traffic(ids_TK.astype(np.int32), source_T, device_E, len(tokens_D), devices_per_node)


@st.composite
def token_counts(draw):
    nodes, local = draw(st.integers(1, 5)), draw(st.sampled_from([1, 2, 4]))
    return draw(st.lists(st.integers(0, 9), min_size=nodes * local, max_size=nodes * local)), local


@given(token_counts())
def test_every_device_receives_every_other_devices_tokens_once(case):
    """Gathered: all tokens but a device's own arrive. Scattered back: as many partial sums leave it."""
    tokens_D, local = case
    counts = counts_of(tokens_D, local)
    there, back = (algorithms.get("all_gather")(counts, local, back=back) for back in (False, True))
    received = sum(np.bincount(leg.target_F, leg.copies_F, minlength=len(tokens_D)) for leg in there.legs)
    sent = sum(np.bincount(leg.source_F, leg.copies_F, minlength=len(tokens_D)) for leg in back.legs)
    others = (sum(tokens_D) - np.array(tokens_D)).tolist()
    assert others == np.asarray(received).tolist()
    assert others == np.asarray(sent).tolist()


@given(token_counts())
def test_everybody_waits_for_the_whole_rings(case):
    """A ring brings what all have: nobody goes on before all flows that end at any rail or in its node have ended."""
    tokens_D, local = case
    legs = algorithms.get("all_gather")(counts_of(tokens_D, local), local, back=False)
    rail, in_node = legs.legs
    expected = {(device, 0, target) for device in range(len(tokens_D)) for target in rail.target_F.tolist()}
    for target in in_node.target_F.tolist():
        first = target // local * local
        expected |= {(device, 1, target) for device in range(first, first + local)}
    assert expected == {tuple(row) for row in legs.waits_W.tolist()}


@pytest.mark.parametrize("operation", ["dispatch", "combine"])
def test_one_node_takes_n_minus_1_over_n_of_all_bytes_over_its_links(operation):
    """Ring all-gather on 8 GPUs with 40 tokens each: 7/8 x 320 copies through every NVLink port, bound and fluid."""
    builder = make_builder(1, "all_gather", kernel="generic")
    flows = builder.build((counts_of([40] * 8, 8),), operation).flows
    bandwidth = builder.links.bandwidth
    expected = 7 / 8 * 320 * BYTES / bandwidth[np.array(builder.links.tiers) == "scale_up"].min()
    fluid = simulate_flows(bandwidth, flows.paths.offsets, flows.paths.links, flows.bytes_F, weight=flows.weight_F)
    assert expected == pytest.approx(fluid.completion_s, rel=1e-9)
    assert expected == pytest.approx(bound_completion(flows, bandwidth) - flows.latency_F.max(), rel=1e-9)


def test_several_nodes_share_the_ring_among_their_rails():
    """4 x 8 GPUs: each NIC carries 3/4 of its rail's tokens, each NVLink port 7/8 of all: together 31/32 of all."""
    builder = make_builder(4, "all_gather", kernel="generic")
    collective = builder.build((counts_of([40] * 32, 8),), "dispatch")
    load = np.zeros(len(builder.links.bandwidth))
    flows = collective.flows
    np.add.at(load, flows.paths.links, np.repeat(flows.bytes_F, np.diff(flows.paths.offsets)))
    tiers = np.array(builder.links.tiers)
    assert [3 / 4 * 160 * BYTES] * 64 == load[tiers == "nic"].tolist()
    assert [7 / 8 * 1280 * BYTES] * 64 == load[tiers == "scale_up"].tolist()
    assert 31 / 32 * 1280 == 3 / 4 * 160 + 7 / 8 * 1280


def test_it_does_not_matter_where_experts_lie():
    """All tokens go everywhere: the same tokens with other experts, or with none, make the same flows."""
    rng = np.random.default_rng(3)
    source_T = rng.integers(0, 24, 100).astype(np.int32)
    device_E = np.arange(24, dtype=np.int32)
    routings = (rng.integers(0, 24, (100, 2)), np.zeros((100, 2)), np.full((100, 2), -1))
    flows = [
        make_builder(3, "all_gather").build((count_traffic(r.astype(np.int32), source_T, device_E, 24, 8),), "dispatch")
        for r in routings
    ]
    for other in flows[1:]:
        assert flows[0].flows.source_F.tolist() == other.flows.source_F.tolist()
        assert flows[0].flows.bytes_F.tolist() == other.flows.bytes_F.tolist()


def test_torus_sends_the_copies_of_direct():
    """The algorithms differ by the paths of the cluster only."""
    counts, *_ = make_traffic(24)
    for back in (False, True):
        torus, direct = (algorithms.get(name)(counts, 8, back=back).legs[0] for name in ("torus", "direct"))
        assert direct.copies_F.tolist() == torus.copies_F.tolist()
        assert direct.target_F.tolist() == torus.target_F.tolist()


@pytest.mark.parametrize("overlap", ["none", "two_batch"])
def test_every_algorithm_runs_on_a_torus(tmp_path, overlap):
    """16 TPU v4 chips, without any NIC: torus is direct there, and rings find their links."""
    times = {}
    for algorithm in ("torus", "direct", "node_dedup", "all_gather"):
        asked = tiny_scenario(tmp_path, dispatch={"algorithm": algorithm}, mode={"overlap": overlap})
        asked["cluster"] = {"topology": "tpu-v4-pod", "shape": "2x2x4"}
        times[algorithm] = simulate(make_scenario(asked)).step_time_s
    assert times["torus"] == times["direct"]
    assert min(times.values()) > 0


def test_torus_needs_a_torus(tmp_path):
    """On a tree the sentence names the algorithm that sends the same copies."""
    with pytest.raises(InputError, match="take direct"):
        simulate(make_scenario(tiny_scenario(tmp_path, dispatch={"algorithm": "torus"})))


@pytest.mark.parametrize("fidelity", ["bound", "fluid"])
def test_a_gathered_step_runs(tmp_path, fidelity):
    """A step by all_gather sends (n - 1) copies of every token each way and layer, whatever the routing."""
    scenario = tiny_scenario(tmp_path, dispatch={"algorithm": "all_gather"}, network={"fidelity": fidelity})
    tables = simulate(make_scenario(scenario)).tables
    tiers = np.array(tables.link_tier)
    hops = tables.link_bytes[tiers == "nic"].sum() / 2 + tables.link_bytes[tiers == "scale_up"].sum() / 2
    copies = 16 * 16 * 15  # tokens of all ranks to everybody else
    assert copies * 2 * 2 * 2 * (256 * 2 + 16) == pytest.approx(hops)
