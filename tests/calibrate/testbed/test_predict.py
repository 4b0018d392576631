import dataclasses

import numpy as np

from calibrate.testbed.cases import LayerShape, drawn_routing
from calibrate.testbed.fit import nominal_profile
from calibrate.testbed.predict import Predictor, with_own_sends
from calibrate.testbed.wiring import Wiring
from moesim.placement import device_of_slot
from moesim.traffic import PlacedTraffic, count_traffic

WIRING = Wiring(nodes=2, ranks_per_node=2, rank_bytes_per_s=1e6, uplink_bytes_per_s=1.5e6)
PREDICTOR = Predictor(
    wiring=WIRING, shape=LayerShape(tokens_per_rank=64), profile=nominal_profile(WIRING), experts=8, top_k=2
)


def _traffic(wiring: Wiring = WIRING) -> PlacedTraffic:
    routing = drawn_routing(wiring, 64, experts=8, top_k=2, seed=5)
    ids, source, devices = (a.astype(np.int32) for a in (routing.slots_TK, routing.source_T, routing.device_of_slot_P))
    counts = count_traffic(ids, source, devices, wiring.ranks, wiring.ranks_per_node)
    return PlacedTraffic(counts, np.bincount(ids.ravel(), minlength=8))


def test_a_rank_waits_for_every_flow_it_sends_or_receives() -> None:
    """Each flow is a group of its own, and both its ends wait for it."""
    collective = with_own_sends(PREDICTOR.builder("direct").build((_traffic().counts,), "dispatch"))
    for rank in range(WIRING.ranks):
        waited = collective.waits_groups[collective.waits_offsets[rank] : collective.waits_offsets[rank + 1]]
        mine = (collective.flows.source_F == rank) | (collective.flows.target_F == rank)
        assert np.flatnonzero(mine).tolist() == np.sort(waited).tolist()


def test_phases_follow_each_other_and_no_link_carries_more_than_its_rate() -> None:
    """Dispatch ends before the experts, these before combine; a direct layer takes at least twice its fullest uplink."""
    traffic = _traffic()
    ends = PREDICTOR.predict(traffic, "direct", device_of_slot(8, WIRING.ranks))
    assert 0.0 < ends.dispatch_s < ends.experts_s < ends.layer_s
    crossing = traffic.counts.per_expert_DD[:2, 2:].sum(), traffic.counts.per_expert_DD[2:, :2].sum()
    row = PREDICTOR.builder("direct").bytes_per_copy["dispatch"]
    assert ends.layer_s >= 2 * max(crossing) * row / WIRING.uplink_bytes_per_s * (1 - 1e-9)


def test_twice_the_bandwidth_halves_the_network_time() -> None:
    """With nominal rates and no fixed cost, dispatch is all network."""
    faster = Wiring(nodes=2, ranks_per_node=2, rank_bytes_per_s=2e6, uplink_bytes_per_s=3e6)
    twice = dataclasses.replace(PREDICTOR, wiring=faster)
    slots_P = device_of_slot(8, WIRING.ranks)
    one, other = (p.predict(_traffic(), "node_dedup", slots_P) for p in (PREDICTOR, twice))
    first_s, second_s = one.dispatch_s, other.dispatch_s
    assert np.isclose(first_s, 2 * second_s, rtol=0.05)  # combines of early ranks share the links with late dispatches
