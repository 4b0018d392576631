"""all_gather: every token to every device of the group, outputs reduce-scattered back (Megatron's allgather dispatcher).

Two rings that run pipelined, as NCCL's rings share the work among the NICs of a node:
  1. rail leg      (a, i) -> (a + 1, i)   around the nodes on each rail: tokens of all devices (., i) but the receiver's
  2. in-node leg   (b, i) -> (b, i + 1)   around the node: the tokens of all rails but the receiver's
so every device receives every other device's tokens once: (n - 1)/n of all, evenly dealt. Combine is the transpose, a
reduce-scatter: each device sends all partial sums but its own. A ring brings data from everybody, so every device waits
for all of its rails' and its node's flows. Left out: the latency of the further hops of a ring; routing maps and gate
weights, which go along in some bytes a token.
"""

import numpy as np

from moesim.collective.leg import Ints, Leg, Legs
from moesim.traffic import TrafficCounts

_RAIL, _IN_NODE = 0, 1


def legs(traffic: TrafficCounts, devices_per_node: int, *, back: bool) -> Legs:
    """The rail ring and the in-node ring, in this order."""
    tokens_NR = traffic.tokens_D.reshape(-1, devices_per_node)
    device_NR = np.arange(tokens_NR.size).reshape(tokens_NR.shape)
    rail_R = tokens_NR.sum(axis=0)
    onward = np.roll(device_NR, -1, axis=0)
    rail = _ring(device_NR, onward, rail_R[None, :] - tokens_NR.ravel()[onward], engine=False)
    around = np.roll(device_NR, -1, axis=1)
    others_NR = np.broadcast_to((rail_R.sum() - rail_R)[None, :], tokens_NR.shape)
    in_node = _ring(device_NR, around, np.roll(others_NR, -1, axis=1), engine=True)
    if back:
        rail, in_node = rail.reversed(), in_node.reversed()
    return Legs(legs=(rail, in_node), waits_W=_waits(rail, in_node, device_NR))


def _ring(device_NR: Ints, next_NR: Ints, copies_NR: Ints, *, engine: bool) -> Leg:
    """One flow from each device to its next; rings of one device and empty flows are left out."""
    kept = (copies_NR > 0) & (device_NR != next_NR)
    return Leg(source_F=device_NR[kept], target_F=next_NR[kept], copies_F=copies_NR[kept], engine=engine)


def _waits(rail: Leg, in_node: Leg, device_NR: Ints) -> Ints:
    """Every device waits for all rail flows of the group, and for the in-node flows of its node."""
    devices, targets = np.meshgrid(device_NR.ravel(), np.unique(rail.target_F), indexing="ij")
    across = np.stack([devices, np.full_like(devices, _RAIL), targets], axis=-1).reshape(-1, 3)
    receives_NR = np.isin(device_NR, in_node.target_F)
    rows = [across]
    for members, receives in zip(device_NR, receives_NR, strict=True):
        devices, targets = np.meshgrid(members, members[receives], indexing="ij")
        rows.append(np.stack([devices, np.full_like(devices, _IN_NODE), targets], axis=-1).reshape(-1, 3))
    return np.concatenate(rows)
