"""Experts paged from a slower tier: what is kept, what is fetched, and what it costs a step."""

import numpy as np
import pytest

from moesim import study
from moesim.errors import InputError
from moesim.expert_cache import pin_hottest
from moesim.placement import ExpertPlacement
from moesim.scenario import make_scenario

PLACEMENT = ExpertPlacement(np.array([0, 1, 2, 3, 0, 2]), num_experts=4, num_devices=2)
SCENARIO = {
    "format_version": 1,
    "model": "olmoe-1b-7b",
    "cluster": {"topology": "dgx-h100-superpod", "nodes": 2},
    "trace": {"router": "zipf", "tokens_per_rank": 16, "steps": "0:1", "seed": 0},
    "network": {"fidelity": "bound"},
}


def test_the_hottest_slots_stay_and_the_others_are_fetched_when_tokens_come() -> None:
    """Two slots a device: by load per copy, 1 and 2 stay on device 0, 2 and 3 on device 1; each miss is one expert."""
    cache = pin_hottest([PLACEMENT], np.array([[2.0, 9.0, 8.0, 5.0]]), 10.0, 25.0, 5.0)
    assert [[False, True, True, True, False, True]] == [kept.tolist() for kept in cache.kept_LP]
    assert 22.0 / 24.0 == pytest.approx(cache.kept_share)
    load_P = np.array([3, 1, 0, 0, 4, 1])
    assert [2.0, 2.0] == cache.fetch_s(0, load_P, PLACEMENT.device_of_slot_P, 10.0, 2).tolist()
    assert [0.0, 2.0] == cache.fetch_s(0, load_P * [0, 1, 1, 1, 1, 1], PLACEMENT.device_of_slot_P, 10.0, 2).tolist()


def test_a_cache_of_everything_costs_nothing_and_a_smaller_one_more() -> None:
    """Step time falls with the cache and is that of experts in memory once all fit; memory holds the cache only."""
    times = []
    for cache in ("100 GiB", "300 MiB", "1 MiB"):
        memory = {"expert_cache": cache, "tier_bandwidth": "50 GB/s"}
        result = study.simulate(make_scenario({**SCENARIO, "memory": memory}))
        times.append(result.step_time_s)
        assert any("slower tier" in sentence for sentence in result.assumptions)
    assert study.simulate(make_scenario(SCENARIO)).step_time_s == times[0]
    assert times[0] < times[1] < times[2]


def test_half_a_cache_and_training_are_refused() -> None:
    """A cache needs the rate of its tier; training keeps its weights."""
    with pytest.raises(InputError, match="go together"):
        make_scenario({**SCENARIO, "memory": {"expert_cache": "1 GiB"}})
    paged = {"expert_cache": "1 GiB", "tier_bandwidth": "50 GB/s"}
    with pytest.raises(InputError, match="decode and prefill"):
        study.simulate(make_scenario({**SCENARIO, "memory": {**paged, "check": "warn"}, "mode": {"kind": "train"}}))
