"""Stand-ins for dead devices in legs that are relayed."""

import numpy as np
import pytest

from moesim.collective.algorithms import algorithms
from moesim.collective.stand_ins import stand_ins, through
from moesim.traffic import count_traffic

DEAD = 5


@pytest.mark.parametrize(
    ("dead", "expected"),
    [
        ([1], [0, 2, 2, 3, 4, 5, 6, 7]),
        ([3], [0, 1, 2, 0, 4, 5, 6, 7]),
        ([0, 1], [2, 2, 2, 3, 4, 5, 6, 7]),
        ([0, 1, 2, 3], [4, 5, 6, 7, 4, 5, 6, 7]),
        (list(range(8)), list(range(8))),
    ],
)
def test_the_next_live_device_stands_in(dead, expected):
    """Of the same node while it has one, else the same local index of the next node; a dead group has none."""
    assert expected == stand_ins(np.isin(np.arange(8), dead), 4, 8).tolist()


@pytest.mark.parametrize("algorithm", ["direct", "per_device", "node_dedup", "all_gather"])
@pytest.mark.parametrize("back", [False, True])
def test_no_flow_and_no_wait_is_left_on_a_dead_device(algorithm, back):
    """Two nodes of four devices; device 5 has no tokens and no experts, but relays for others."""
    rng = np.random.default_rng(3)
    alive = np.delete(np.arange(8), DEAD)
    experts = rng.choice(14, size=(200, 2)).astype(np.int32)
    traffic = count_traffic(experts, rng.choice(alive, 200), np.resize(alive, 14), 8, 4)
    legs = algorithms.get(algorithm)(traffic, 4, back=back)
    moved = through(legs, stand_ins(np.arange(8) == DEAD, 4, 8))
    for leg, before in zip(moved.legs, legs.legs, strict=True):
        assert not np.isin([DEAD], np.concatenate([leg.source_F, leg.target_F])).any()
        assert before.copies_F.sum() == leg.copies_F.sum()
    assert DEAD not in moved.waits_W[:, [0, 2]]
