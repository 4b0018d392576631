"""ExpertPlacement: what slots hold, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.placement import ExpertPlacement, device_of_slot, slots_per_device
from tests.strategies.placement import placements


@given(st.integers(1, 60), st.integers(1, 20))
def test_devices_hold_equal_slots_up_to_one_more_on_the_first(num_slots: int, num_devices: int) -> None:
    """Slots are contiguous by device, and exactly the first P mod D devices hold one more."""
    slots_D = slots_per_device(num_slots, num_devices)
    expected = [num_slots // num_devices + (device < num_slots % num_devices) for device in range(num_devices)]
    assert expected == slots_D.tolist()
    device_P = device_of_slot(num_slots, num_devices)
    assert sorted(device_P.tolist()) == device_P.tolist()
    assert expected == np.bincount(device_P, minlength=num_devices).tolist()


@given(placements())
def test_slots_of_an_expert_are_where_the_expert_is(placement: ExpertPlacement) -> None:
    """The CSR view and the slot list say the same, and copies add up to the slots."""
    for expert in range(placement.num_experts):
        expected = [slot for slot, held in enumerate(placement.expert_of_slot_P.tolist()) if held == expert]
        assert expected == placement.slots_of_expert(expert).tolist()
        assert len(expected) == placement.replicas_E[expert]
    assert placement.num_slots == placement.replicas_E.sum()


@given(placements())
def test_slots_of_devices_are_those_counted_one_by_one(placement: ExpertPlacement) -> None:
    """By the rule, and as given; a dead device has its slots still."""
    slots_D = np.bincount(placement.device_of_slot_P, minlength=placement.num_devices)[::-1]
    given_so = ExpertPlacement(
        placement.expert_of_slot_P, placement.num_experts, placement.num_devices, (0,), slots_D=tuple(slots_D.tolist())
    )
    assert slots_D[::-1].tolist() == placement.slots_of_devices.tolist()
    assert slots_D.tolist() == given_so.slots_of_devices.tolist()


@given(placements())
def test_same_device_duplicates_are_the_slots_beyond_distinct_experts(placement: ExpertPlacement) -> None:
    """Slots minus distinct (device, expert) pairs."""
    pairs = set(zip(placement.device_of_slot_P.tolist(), placement.expert_of_slot_P.tolist(), strict=True))
    assert placement.num_slots - len(pairs) == placement.same_device_duplicates


def test_uneven_slots_by_hand() -> None:
    """Seven slots on three devices are 3, 2, 2; expert 1 has three copies, two of them on device 0."""
    placement = ExpertPlacement(np.array([0, 1, 1, 2, 3, 1, 4]), num_experts=5, num_devices=3)
    assert [0, 0, 0, 1, 1, 2, 2] == placement.device_of_slot_P.tolist()
    assert [1, 3, 1, 1, 1] == placement.replicas_E.tolist()
    assert [1, 2, 5] == placement.slots_of_expert(1).tolist()
    assert 1 == placement.same_device_duplicates


def test_a_placement_keeps_its_own_read_only_slots() -> None:
    """Changing the array it was made from changes nothing, and its own cannot be written."""
    slots = np.array([0, 1], dtype=np.int32)
    placement = ExpertPlacement(slots, 2, 1)
    slots[0] = 1
    assert [0, 1] == placement.expert_of_slot_P.tolist()
    with pytest.raises(ValueError, match="read-only"):
        placement.expert_of_slot_P[0] = 1


def test_placements_compare_by_what_they_hold() -> None:
    """Equal slots, experts and devices are equal and hash alike; any difference is a difference."""
    one = ExpertPlacement(np.array([0, 1]), 2, 1)
    assert one == ExpertPlacement(np.array([0, 1], dtype=np.int64), 2, 1)
    assert hash(one) == hash(ExpertPlacement(np.array([0, 1]), 2, 1))
    assert one != ExpertPlacement(np.array([1, 0]), 2, 1)
    assert one != ExpertPlacement(np.array([0, 1]), 2, 2)
    assert one != "placement"


@pytest.mark.parametrize(
    ("slots", "experts", "devices", "message"),
    [
        (np.arange(24), 32, 4, r"slots=24 is fewer than experts=32; ask for at least 32"),
        (np.array([0, 2]), 2, 1, r"slot 1 holds expert 2, outside 0\.\.1"),
        (np.array([-1, 0]), 2, 1, r"slot 0 holds expert -1, outside 0\.\.1"),
        (np.array([0, 0, 2]), 3, 1, r"1 of 3 experts have no slot, the first is expert 1"),
        (np.array([2**32, 1]), 2, 1, r"slot 0 holds expert 4294967296"),
        (np.array([0.0]), 1, 1, r"a row of integers; got shape \(1,\) of float64"),
        (np.array([[0]]), 1, 1, r"a row of integers; got shape \(1, 1\)"),
        (np.array([0]), 1, 0, r"devices=0 is outside"),
        (np.array([0]), 1, 10**12, r"devices=1000000000000 is outside"),
        (np.array([0]), 0, 1, r"experts=0 is outside"),
        (np.array([], dtype=np.int32), 1, 1, r"slots=0 is outside"),
    ],
)
def test_what_is_not_a_placement_is_refused(slots: np.ndarray, experts: int, devices: int, message: str) -> None:
    """One sentence names the value and its bound."""
    with pytest.raises(InputError, match=message):
        ExpertPlacement(slots, experts, devices)
