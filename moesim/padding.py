"""Padding: what buffers filled up to capacity add to the traffic and to the work of one dispatch.

Array letters: U scope unit, E expert, P slot, D device, R row of padding.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from moesim.placement import ExpertPlacement
from moesim.traffic import PlacedTraffic, count_placed


def send_padding(
    traffic: PlacedTraffic,
    padding_DE: NDArray[np.int64],
    placement: ExpertPlacement,
    policy: str,
    devices_per_node: int,
    seed: int,
    token_offset: int = 0,
) -> PlacedTraffic:
    """`traffic` with rows of padding from each device to each expert: sent, computed and sent back like tokens.

    A row is a token of its own with one expert, so algorithms that merge a token's copies do not merge padding (its
    bytes are in no token). Fan-outs stay those of the tokens.
    """
    source_R, expert_R = (index.astype(np.int32) for index in np.divmod(_repeated(padding_DE), padding_DE.shape[1]))
    rows = count_placed(expert_R[:, None], source_R, placement, policy, devices_per_node, seed, token_offset)
    counts, more = traffic.counts, rows.counts
    padded = dataclasses.replace(
        counts,
        per_expert_DD=counts.per_expert_DD + more.per_expert_DD,
        per_device_DD=counts.per_device_DD + more.per_device_DD,
        per_node_DN=counts.per_node_DN + more.per_node_DN,
        load_D=counts.load_D + more.load_D,
    )
    return PlacedTraffic(padded, traffic.load_P + rows.load_P)


def fill_buffers(traffic: PlacedTraffic, padding_E: NDArray[np.int64], placement: ExpertPlacement) -> PlacedTraffic:
    """`traffic` with rows of padding made where the experts lie: computed, split evenly over copies, never sent."""
    order = placement.slots_by_expert_P  # live slots; copies of an expert are 0, 1, ... in this order
    copy_P = np.arange(order.size) - np.repeat(placement.slot_offsets_E1[:-1], placement.replicas_E)
    share_E, rest_E = np.divmod(padding_E, np.maximum(placement.replicas_E, 1))
    expert_P = placement.expert_of_slot_P[order]
    padding_P = np.zeros(placement.num_slots, dtype=np.int64)
    padding_P[order] = share_E[expert_P] + (copy_P < rest_E[expert_P])
    padding_D = np.zeros(placement.num_devices, dtype=np.int64)
    np.add.at(padding_D, placement.device_of_slot_P, padding_P)
    counts = dataclasses.replace(traffic.counts, load_D=traffic.counts.load_D + padding_D)
    return PlacedTraffic(counts, traffic.load_P + padding_P)


def _repeated(count_DE: NDArray[np.int64]) -> NDArray[np.int64]:
    """The flat index of every entry, as often as the entry says."""
    return np.repeat(np.arange(count_DE.size), count_DE.ravel())
