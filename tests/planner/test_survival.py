"""Failure domains: who survives, and which constraints forbid it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.planner import PlacementProblem, place
from moesim.planner.survival import contradiction, fewest_domains


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 14), st.integers(2, 10), st.sampled_from([1, 2, 4]))
def test_every_expert_survives_exactly_where_no_constraints_contradict(seed, experts, devices, per_node):
    """balanced keeps each expert in two domains whenever the slots of the domains can take two copies of each."""
    rng = np.random.default_rng(seed)
    problem = PlacementProblem(
        load_LE=rng.exponential(1.0, (1, experts)),
        num_devices=devices,
        devices_per_node=per_node,
        num_slots=int(rng.integers(experts, 4 * experts + 1)),
        survive=1,
    )
    impossible = contradiction(problem, np.zeros(devices, dtype=np.bool_))
    if impossible is None:
        assert 2 <= fewest_domains(problem, place("balanced", problem).placements[0].expert_of_slot_P)[1]
    else:
        assert "survive=1" in impossible and "dead" not in impossible and "memory" not in impossible


def test_survival_costs_little_balance():
    """Two copies of each of 256 experts on 32 devices of 4 nodes, 640 slots: >= .999."""
    load_LE = (1.0 / np.arange(1, 257))[None, :]
    problem = PlacementProblem(load_LE=load_LE, num_devices=32, devices_per_node=8, num_slots=640, survive=1)
    placement = place("balanced", problem).placements[0]
    share_P = load_LE[0][placement.expert_of_slot_P] / placement.replicas_E[placement.expert_of_slot_P]
    load_D = np.bincount(placement.device_of_slot_P, weights=share_P)
    assert load_D.mean() / load_D.max() >= 0.999
    assert 2 <= fewest_domains(problem, placement.expert_of_slot_P)[1]


def test_the_smallest_contradictory_set_is_named():
    """Too few slots: slots and survive, without the dead device; only one node left: survive and faults, without slots."""
    size = {"load_LE": np.ones((1, 4)), "num_devices": 4, "devices_per_node": 2, "survive": 1}
    dead = np.array([False, False, False, True])
    slots = contradiction(PlacementProblem(num_slots=6, **size), dead)
    assert slots is not None and "slots=6" in slots and "survive=1" in slots and "dead" not in slots
    alive = np.zeros(4, dtype=np.bool_)
    memory = contradiction(PlacementProblem(num_slots=10, slots_D=np.array([4, 4, 1, 1]), **size), alive)
    assert memory is not None and "memory holds" in memory and "slots=" not in memory
    dead = np.array([False, False, True, True])
    faults = contradiction(PlacementProblem(num_slots=8, slots_D=np.array([4, 4, 0, 0]), **size), dead)
    assert faults is not None and "2 dead of 4" in faults and "survive=1" in faults and "slots=" not in faults
