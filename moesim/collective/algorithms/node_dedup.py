"""node_dedup: one copy per remote node over the rail, then forwarding inside the node (DeepEP normal, HybridEP).

Dispatch from device (node a, index i) to experts on (b, j):
  1. rail leg      (a, i) -> (b, i)   one copy per token and distinct remote node b
  2. in-node leg   (b, i) -> (b, j)   one copy per token and distinct device j; for a = b it starts at the source
Combine is the transpose: partial sums go (b, j) -> (b, i), are added there, and one sum per node returns to (a, i).
Both legs start together and overlap (kernels pipeline chunks), so a device goes on when both have delivered: it waits
for its own receives and for the receives of the devices that forward to it. Copy engines do the in-node leg.
"""

import numpy as np

from moesim.collective.leg import Leg, Legs, own_waits
from moesim.traffic import TrafficCounts

_RAIL, _IN_NODE = 0, 1


def legs(traffic: TrafficCounts, devices_per_node: int, *, back: bool) -> Legs:
    """The rail leg and the in-node leg, in this order."""
    rail = _rail_leg(traffic, devices_per_node)
    in_node = _in_node_leg(traffic, devices_per_node)
    if back:
        rail, in_node = rail.reversed(), in_node.reversed()
        # (a, i) needs the sums made at (b, i), which needs every (b, j) -> (b, i): wait for them beside the rail leg.
        relayed = np.stack([rail.target_F, np.full_like(rail.target_F, _IN_NODE), rail.source_F], axis=1)
    else:
        relayed = np.stack([in_node.target_F, np.full_like(in_node.target_F, _RAIL), in_node.source_F], axis=1)
    waits = np.concatenate([relayed, own_waits(rail, _RAIL), own_waits(in_node, _IN_NODE)])
    return Legs(legs=(rail, in_node), waits_W=waits)


def _rail_leg(traffic: TrafficCounts, devices_per_node: int) -> Leg:
    copies_DN = traffic.per_node_DN.copy()
    num_devices = len(copies_DN)
    device = np.arange(num_devices)
    copies_DN[device, device // devices_per_node] = 0
    source_F, node_F = np.nonzero(copies_DN)
    target_F = node_F * devices_per_node + source_F % devices_per_node
    return Leg(source_F=source_F, target_F=target_F, copies_F=copies_DN[source_F, node_F], engine=False)


def _in_node_leg(traffic: TrafficCounts, devices_per_node: int) -> Leg:
    num_devices = len(traffic.per_device_DD)
    num_nodes = num_devices // devices_per_node
    shape = (num_nodes, devices_per_node, num_nodes, devices_per_node)
    copies_RNR = traffic.per_device_DD.reshape(shape).sum(axis=0)
    index_F, node_F, target_index_F = np.nonzero(copies_RNR)
    return Leg(
        source_F=node_F * devices_per_node + index_F,
        target_F=node_F * devices_per_node + target_index_F,
        copies_F=copies_RNR[index_F, node_F, target_index_F],
        engine=True,
    )
