"""count_traffic against plain Python sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from moesim import traffic
from moesim.errors import InputError
from moesim.traffic import TrafficCounts, count_traffic
from tests.strategies.placement import routed


def brute_force(
    ids_TK: NDArray[np.int32], source_T: NDArray[np.int32], device_E: NDArray[np.int32], devices: int, per_node: int
) -> dict[str, object]:
    """The counts by their definition, one token at a time."""
    nodes = -(-devices // per_node)
    per_expert, per_device = np.zeros((devices, devices), int), np.zeros((devices, devices), int)
    per_node_DN, histogram = np.zeros((devices, nodes), int), np.zeros(nodes + 1, int)
    fanouts = []
    for row, source in zip(ids_TK.tolist(), source_T.tolist(), strict=True):
        hit = [int(device_E[expert]) for expert in row if expert != -1]
        for device in hit:
            per_expert[source, device] += 1
        for device in sorted(set(hit)):
            per_device[source, device] += 1
        hit_nodes = {device // per_node for device in hit}
        for node in sorted(hit_nodes):
            per_node_DN[source, node] += 1
        histogram[len(hit_nodes)] += 1
        fanouts.append((len(set(hit)), len(hit_nodes)))
    mean = np.mean(fanouts, axis=0) if fanouts else np.zeros(2)
    return {
        "per_expert_DD": per_expert,
        "per_device_DD": per_device,
        "per_node_DN": per_node_DN,
        "load_D": per_expert.sum(axis=0),
        "fanout_nodes_count": histogram,
        "fanout_devices": mean[0],
        "fanout_nodes": mean[1],
    }


def assert_equal(expected: dict[str, object], counts: TrafficCounts) -> None:
    for name, value in expected.items():
        np.testing.assert_array_equal(getattr(counts, name), value, err_msg=name)


@given(st.data(), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_small_cases_agree_with_sets(data: st.DataObject, experts: int, devices: int, per_node: int) -> None:
    """Every matrix, fan-out and histogram, for uneven nodes, empty rows, no tokens and no ids."""
    ids_TK, source_T = data.draw(routed(experts, devices))
    device_E = np.array(data.draw(st.lists(st.integers(0, devices - 1), min_size=experts, max_size=experts)), np.int32)
    counts = count_traffic(ids_TK, source_T, device_E, devices, per_node)
    assert_equal(brute_force(ids_TK, source_T, device_E, devices, per_node), counts)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.int16, np.uint32])
def test_several_threads_agree_with_sets(dtype: type[np.integer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks merge to what one pass counts, whatever the integer type of the ids."""
    monkeypatch.setattr(traffic, "_PAIRS_PER_CHUNK", 1024)
    rng = np.random.default_rng(5)
    ids_TK = rng.integers(0 if dtype is np.uint32 else -1, 300, (5003, 7)).astype(dtype)
    source_T, device_E = rng.integers(0, 20, 5003, dtype=np.int32), rng.integers(0, 20, 300, dtype=np.int32)
    counts = count_traffic(ids_TK, source_T, device_E, 20, 8)
    assert_equal(brute_force(ids_TK, source_T, device_E, 20, 8), counts)


def test_several_threads_refuse_a_wrong_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id out of range in the last chunk is named as in the first."""
    monkeypatch.setattr(traffic, "_PAIRS_PER_CHUNK", 1024)
    ids_TK, source_T = np.zeros((4096, 2), np.int32), np.zeros(4096, np.int32)
    ids_TK[4095, 1] = 7
    with pytest.raises(InputError, match=r"expert_ids\[4095, 1\]=7 is outside 0\.\.2"):
        count_traffic(ids_TK, source_T, np.zeros(3, np.int32), 2, 1)
