"""Dispatch algorithms: what crosses which link, counted again token by token."""

import numpy as np
import pytest

from moesim.collective.algorithms import algorithms
from tests.collective.conftest import BYTES, make_builder, make_traffic

NODES, DEVICES = 3, 24


def copies_by_pair(leg):
    matrix = np.zeros((DEVICES, DEVICES), dtype=np.int64)
    np.add.at(matrix, (leg.source_F, leg.target_F), leg.copies_F)
    return matrix


def recount(ids_TK, source_T, device_E):
    """Rail and in-node copies of node_dedup, with Python sets."""
    rail = np.zeros((DEVICES, DEVICES), dtype=np.int64)
    in_node = np.zeros((DEVICES, DEVICES), dtype=np.int64)
    for ids, source in zip(ids_TK, source_T, strict=True):
        devices = {int(device_E[expert]) for expert in ids}
        for node in {device // 8 for device in devices}:
            forwarder = node * 8 + source % 8
            if node != source // 8:
                rail[source, forwarder] += 1
            for device in devices:
                if device // 8 == node:
                    in_node[forwarder, device] += 1
    return rail, in_node


def test_node_dedup_sends_one_copy_per_remote_node_and_forwards_one_per_device():
    """Both legs equal a recount with sets, for dispatch, and transposed for combine."""
    counts, *raw = make_traffic(DEVICES)
    rail, in_node = recount(*raw)
    there = algorithms.get("node_dedup")(counts, 8, back=False)
    back = algorithms.get("node_dedup")(counts, 8, back=True)
    assert [rail.tolist(), in_node.tolist()] == [copies_by_pair(leg).tolist() for leg in there.legs]
    assert [rail.T.tolist(), in_node.T.tolist()] == [copies_by_pair(leg).tolist() for leg in back.legs]


def test_at_a_forwarder_copies_in_are_nodes_and_copies_out_are_devices():
    """Copies in (own tokens included) = distinct nodes of all tokens, copies out = distinct devices of all tokens."""
    counts, *_ = make_traffic(DEVICES)
    rail, in_node = algorithms.get("node_dedup")(counts, 8, back=False).legs
    own = counts.per_node_DN[np.arange(DEVICES), np.arange(DEVICES) // 8].sum()
    assert counts.per_node_DN.sum() == rail.copies_F.sum() + own
    assert counts.per_device_DD.sum() == in_node.copies_F.sum()


def test_a_device_waits_for_everyone_who_sends_or_forwards_to_it():
    """Dispatch: my own receives, and the rail receives of every device that forwards to me."""
    counts, *raw = make_traffic(DEVICES, tokens=40)
    rail, in_node = recount(*raw)
    legs = algorithms.get("node_dedup")(counts, 8, back=False)
    expected = set()
    for target in range(DEVICES):
        forwarders = np.flatnonzero(in_node[:, target])
        if len(forwarders):
            expected.add((target, 1, target))
        expected |= {(target, 0, int(forwarder)) for forwarder in forwarders}
        if rail[:, target].any():
            expected.add((target, 0, target))
    assert expected == {tuple(row) for row in legs.waits_W.tolist()}


@pytest.mark.parametrize("operation", ["dispatch", "combine"])
def test_bytes_are_copies_times_bytes_per_copy(algorithm, operation):
    """No byte is lost or made between counting and flows."""
    counts, *_ = make_traffic(DEVICES)
    legs = algorithms.get(algorithm)(counts, 8, back=operation == "combine")
    flows = make_builder(NODES, algorithm).build((counts,), operation).flows
    assert BYTES * sum(int(leg.copies_F.sum()) for leg in legs.legs) == flows.bytes_F.sum()


@pytest.mark.parametrize("operation", ["dispatch", "combine"])
def test_every_copy_engine_carries_the_logical_copies_of_its_device(algorithm, operation):
    """Copies a device sends and receives in the engine leg, its own included, load its two engine links."""
    counts, *_ = make_traffic(DEVICES)
    builder = make_builder(NODES, algorithm)
    flows = builder.build((counts,), operation).flows
    load = np.zeros(len(builder.links.bandwidth))
    for flow in range(flows.num_flows):
        for link in flows.paths.links[flows.paths.offsets[flow] : flows.paths.offsets[flow + 1]]:
            load[link] += flows.bytes_F[flow]
    leg = algorithms.get(algorithm)(counts, 8, back=operation == "combine").legs[-1]
    sent = BYTES * np.bincount(leg.source_F, weights=leg.copies_F, minlength=DEVICES)
    received = BYTES * np.bincount(leg.target_F, weights=leg.copies_F, minlength=DEVICES)
    out, into = builder.links.engine_out[operation], builder.links.engine_in[operation]
    assert sent.tolist() == load[out : out + DEVICES].tolist()
    assert received.tolist() == load[into : into + DEVICES].tolist()


def test_only_the_rail_leg_uses_nics():
    """node_dedup forwards inside a node: its in-node flows touch no NIC, its rail flows no scale-up link."""
    counts, *_ = make_traffic(DEVICES)
    builder = make_builder(NODES, "node_dedup")
    legs = algorithms.get("node_dedup")(counts, 8, back=False)
    paths = builder.build((counts,), "dispatch").flows.paths
    num_rail = len(legs.legs[0].source_F)
    tiers = np.array(builder.links.tiers)
    assert {"nic"} == set(tiers[paths.links[: paths.offsets[num_rail]]].tolist())
    assert {"scale_up", "copy_engine"} == set(tiers[paths.links[paths.offsets[num_rail] :]].tolist())
