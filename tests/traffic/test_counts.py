"""Laws of counted token copies, and the input that is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError, UnknownName
from moesim.placement import ExpertPlacement
from moesim.traffic import TrafficCounts, TrafficMatrix, copy_bytes, count_placed, count_traffic
from tests.strategies.placement import placements, routed

POLICY = st.sampled_from(["nearest", "even"])


@given(st.data(), placements(), POLICY, st.integers(1, 4))
def test_copies_are_conserved(data: st.DataObject, placement: ExpertPlacement, policy: str, per_node: int) -> None:
    """Copies per expert are the valid pairs; de-duplication only ever removes; every level sums to its fan-out."""
    experts_TK, source_T = data.draw(routed(placement.num_experts, placement.num_devices))
    traffic = count_placed(experts_TK, source_T, placement, policy, per_node, seed=1)
    counts = traffic.counts
    pairs = np.count_nonzero(experts_TK >= 0)
    assert pairs == counts.per_expert_DD.sum() == counts.load_D.sum() == traffic.load_P.sum()
    assert (counts.per_device_DD <= counts.per_expert_DD).all()
    assert counts.per_node_DN.sum() <= counts.per_device_DD.sum()
    tokens = source_T.size
    assert tokens == counts.num_tokens == counts.fanout_nodes_count.sum()
    assert counts.per_device_DD.sum() == pytest.approx(counts.fanout_devices * tokens)
    assert counts.per_node_DN.sum() == pytest.approx(counts.fanout_nodes * tokens)
    assert counts.per_node_DN.sum() == counts.fanout_nodes_count @ np.arange(counts.fanout_nodes_count.size)
    load_D = np.bincount(placement.device_of_slot_P, traffic.load_P, minlength=placement.num_devices)
    assert load_D.tolist() == counts.load_D.tolist()


@given(st.data(), st.integers(1, 8), st.integers(1, 6))
def test_relabelling_nodes_relabels_the_counts(data: st.DataObject, experts: int, nodes: int) -> None:
    """Permuting whole nodes of 2 devices permutes the rows and columns, and leaves the fan-outs alone."""
    devices = 2 * nodes
    ids_TK, source_T = data.draw(routed(experts, devices))
    device_E = np.array(data.draw(st.lists(st.integers(0, devices - 1), min_size=experts, max_size=experts)), np.int32)
    new_node_N = np.array(data.draw(st.permutations(range(nodes))))
    new_D = (new_node_N[:, None] * 2 + np.arange(2)).ravel().astype(np.int32)
    counts = count_traffic(ids_TK, source_T, device_E, devices, 2)
    moved = count_traffic(ids_TK, new_D[source_T], new_D[device_E], devices, 2)
    assert counts.per_device_DD.tolist() == moved.per_device_DD[np.ix_(new_D, new_D)].tolist()
    assert counts.per_node_DN.tolist() == moved.per_node_DN[np.ix_(new_D, new_node_N)].tolist()
    assert (counts.fanout_devices, counts.fanout_nodes) == (moved.fanout_devices, moved.fanout_nodes)


@given(st.data(), placements(), POLICY)
def test_a_step_counted_in_pieces_is_the_step(data: st.DataObject, placement: ExpertPlacement, policy: str) -> None:
    """With token offsets, two pieces add up to the whole, copy for copy."""
    experts_TK, source_T = data.draw(routed(placement.num_experts, placement.num_devices))
    cut = data.draw(st.integers(0, source_T.size))
    whole = count_placed(experts_TK, source_T, placement, policy, 2, seed=3)
    head = count_placed(experts_TK[:cut], source_T[:cut], placement, policy, 2, seed=3)
    tail = count_placed(experts_TK[cut:], source_T[cut:], placement, policy, 2, seed=3, token_offset=cut)
    assert whole.load_P.tolist() == (head.load_P + tail.load_P).tolist()
    assert whole.counts.per_device_DD.tolist() == (head.counts.per_device_DD + tail.counts.per_device_DD).tolist()


def test_one_token_by_hand() -> None:
    """Experts on devices 1, 1, 2 and 5 of nodes of 2: four copies, three devices, three nodes, none for -1."""
    counts = count_traffic(
        np.array([[0, 1, -1, 2, 3]], np.int32), np.array([1], np.int32), np.array([1, 1, 2, 5], np.int32), 6, 2
    )
    assert [0, 2, 1, 0, 0, 1] == counts.per_expert_DD[1].tolist() == counts.load_D.tolist()
    assert [0, 1, 1, 0, 0, 1] == counts.per_device_DD[1].tolist()
    assert [1, 1, 1] == counts.per_node_DN[1].tolist()
    assert (3.0, 3.0) == (counts.fanout_devices, counts.fanout_nodes)
    assert [0, 0, 0, 1] == counts.fanout_nodes_count.tolist()


def test_tokens_without_experts_count_in_the_means() -> None:
    """One token on two devices and one without any: a mean fan-out of one."""
    ids_TK = np.array([[0, 1], [-1, -1]], np.int32)
    counts = count_traffic(ids_TK, np.zeros(2, np.int32), np.array([0, 1], np.int32), 2, 1)
    assert 1.0 == counts.fanout_devices
    assert [1, 0, 1] == counts.fanout_nodes_count.tolist()


def counted(**changed: object) -> TrafficCounts:
    arguments: dict[str, object] = {
        "expert_ids": np.zeros((2, 1), np.int32),
        "source_device": np.zeros(2, np.int32),
        "device_of_expert": np.zeros(3, np.int32),
        "num_devices": 2,
        "devices_per_node": 2,
    }
    return count_traffic(**{**arguments, **changed})  # type: ignore[arg-type]  # wrong types are the point


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"expert_ids": np.array([[0], [3]], np.int32)}, r"expert_ids\[1, 0\]=3 is outside 0\.\.2; -1 stands for no"),
        ({"expert_ids": np.array([[-2], [0]], np.int32)}, r"expert_ids\[0, 0\]=-2 is outside"),
        ({"expert_ids": np.array([[2**32], [0]])}, r"expert_ids\[0, 0\]=4294967296 is outside"),
        ({"expert_ids": np.zeros((2, 1))}, r"expert_ids must be integers \[tokens, K\]; got shape \(2, 1\) of float64"),
        ({"expert_ids": np.zeros(2, np.int32)}, r"expert_ids must be integers \[tokens, K\]; got shape \(2,\)"),
        ({"expert_ids": np.zeros((3, 1), np.int32)}, r"has 3 tokens, source_device has 2"),
        ({"source_device": np.array([0, 2])}, r"source_device\[1\]=2 is outside 0\.\.1"),
        ({"source_device": np.array([-1, 0])}, r"source_device\[0\]=-1 is outside 0\.\.1"),
        ({"source_device": np.zeros(2)}, r"source_device must be a row of integers"),
        ({"device_of_expert": np.array([0, 1, 2])}, r"device_of_expert\[2\]=2 is outside 0\.\.1"),
        ({"num_devices": 0}, r"num_devices=0 is outside 1\.\."),
        ({"num_devices": 10**9}, r"num_devices=1000000000 is outside 1\.\."),
        ({"num_devices": 2.0}, r"num_devices=2\.0 is outside"),
        ({"devices_per_node": 0}, r"devices_per_node=0 is outside"),
    ],
)
def test_wrong_input_is_refused(changed: dict[str, object], message: str) -> None:
    """One sentence names the place, the value and the bound."""
    assert 2 == counted().num_tokens
    with pytest.raises(InputError, match=message):
        counted(**changed)


def test_copy_bytes_of_the_published_message() -> None:
    """A low-latency FP8 copy at 7168 channels is 7168 + 224 + 16 bytes; other types by their own scales."""
    assert 7168 + 224 + 16 == copy_bytes(7168, "fp8")
    assert 2 * 7168 + 16 == copy_bytes(7168, "bf16")
    assert 100 + 4 + 16 == copy_bytes(100, "fp8")
    assert 32 + 4 + 16 == copy_bytes(64, "nvfp4")
    with pytest.raises(UnknownName, match="did you mean 'fp8'"):
        copy_bytes(7168, "fp88")
    with pytest.raises(InputError, match="width=0"):
        copy_bytes(0, "fp8")


def test_a_traffic_matrix_is_copies_times_bytes_and_its_combine_the_transpose() -> None:
    """Three copies of 10 bytes one way are 30 bytes there, and back in the transpose."""
    matrix = TrafficMatrix.from_copies(np.array([[0, 3], [1, 0]]), 10)
    assert [[0.0, 30.0], [10.0, 0.0]] == matrix.bytes_DD.tolist()
    assert [[0.0, 10.0], [30.0, 0.0]] == matrix.transpose().bytes_DD.tolist()


@pytest.mark.parametrize("wrong", [np.zeros((2, 3)), np.zeros(4), np.array([[-1.0]]), np.array([[np.nan]])])
def test_what_is_not_a_traffic_matrix_is_refused(wrong: np.ndarray) -> None:
    """Not square, negative, or not a number."""
    with pytest.raises(InputError, match="a traffic matrix"):
        TrafficMatrix(wrong)
