"""Which copy a token is sent to: nearest and even."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim import replica
from moesim.errors import InputError, UnknownName
from moesim.hashing import splitmix64
from moesim.placement import ExpertPlacement
from moesim.replica import choose_replicas, nearest_table
from tests.strategies.placement import placements, routed


@given(st.data(), placements(), st.sampled_from(["nearest", "even"]), st.integers(1, 4), st.integers(0, 2**70))
def test_a_chosen_slot_holds_the_expert(
    data: st.DataObject, placement: ExpertPlacement, policy: str, per_node: int, seed: int
) -> None:
    """Pair for pair the slot's expert is the token's, -1 stays -1, and a second call chooses the same."""
    experts_TK, source_T = data.draw(routed(placement.num_experts, placement.num_devices))
    slots_TK = choose_replicas(experts_TK, source_T, placement, policy, per_node, seed)
    held_TK = np.where(slots_TK >= 0, placement.expert_of_slot_P[slots_TK], -1) if slots_TK.size else experts_TK
    assert experts_TK.tolist() == held_TK.tolist()
    again_TK = choose_replicas(experts_TK, source_T, placement, policy, per_node, seed)
    assert slots_TK.tolist() == again_TK.tolist()


def shares(slots: list[int], used: list[int]) -> list[int]:
    return [used.count(slot) for slot in slots]


@given(placements(max_extra=20, max_devices=9), st.integers(1, 4), st.integers(0, 5))
def test_nearest_is_never_farther_than_needed_and_splits_evenly(
    placement: ExpertPlacement, per_node: int, seed: int
) -> None:
    """Own device before own node before anywhere; within each class the copies' shares differ by one at most."""
    experts = np.arange(placement.num_experts)
    table_RD = nearest_table(placement, experts, per_node, seed)
    for expert in experts.tolist():
        slots = placement.slots_of_expert(expert).tolist()
        device = {slot: int(placement.device_of_slot_P[slot]) for slot in slots}
        used = table_RD[expert].tolist()
        homes = set(device.values())
        nodes = {home // per_node for home in homes}
        elsewhere = []
        for source in range(placement.num_devices):
            if source in homes:
                assert device[used[source]] == source
            elif source // per_node in nodes:
                assert device[used[source]] // per_node == source // per_node
            else:
                elsewhere.append(used[source])
        assert max(shares(slots, elsewhere)) - min(shares(slots, elsewhere)) <= 1
        for node in sorted(nodes):
            near = [slot for slot in slots if device[slot] // per_node == node]
            members = range(node * per_node, min(placement.num_devices, (node + 1) * per_node))
            guests = [used[source] for source in members if source not in homes]
            assert max(shares(near, guests)) - min(shares(near, guests)) <= 1


def test_nearest_shuffles_by_seed() -> None:
    """Eighteen far devices on two copies are nine each; another seed, or another expert, splits them otherwise."""
    placement = ExpertPlacement(np.array([0, 0, 1, 1, *range(2, 18)]), num_experts=18, num_devices=20)
    tables = [nearest_table(placement, np.array([0, 1]), 2, seed).tolist() for seed in (0, 0, 1)]
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]
    assert [9, 9] == shares([0, 1], tables[0][0][2:])
    assert [9, 9] == shares([2, 3], tables[0][1][:2] + tables[0][1][4:])
    assert [slot - 2 for slot in tables[0][1][4:]] != tables[0][0][4:]


def test_even_gives_every_copy_its_share() -> None:
    """Of 30,000 tokens each of three copies gets a third within five standard deviations, two on one device included."""
    placement = ExpertPlacement(np.array([0, 0, 1, 0]), num_experts=2, num_devices=2)
    experts_TK = np.zeros((30_000, 1), np.int32)
    slots_TK = choose_replicas(experts_TK, np.zeros(30_000, np.int32), placement, "even", 1, seed=7)
    load_P = np.bincount(slots_TK[:, 0], minlength=4)
    assert 0 == load_P[2]
    assert np.abs(load_P[[0, 1, 3]] - 10_000).max() < 5 * np.sqrt(30_000 * (1 / 3) * (2 / 3))


def test_even_depends_on_seed_token_and_expert_but_not_on_the_place_in_the_row() -> None:
    """The hash is of (seed, token index, expert): moving an expert along its row keeps its copy."""
    placement = ExpertPlacement(np.repeat(np.arange(64), 2), num_experts=64, num_devices=4)
    source_T = np.zeros(50, np.int32)
    rows_TK = np.tile(np.arange(64, dtype=np.int32), (50, 1))
    slots_TK = choose_replicas(rows_TK, source_T, placement, "even", 1, seed=0)
    mirrored_TK = choose_replicas(np.ascontiguousarray(rows_TK[:, ::-1]), source_T, placement, "even", 1, seed=0)
    assert slots_TK.tolist() == mirrored_TK[:, ::-1].tolist()
    other_TK = choose_replicas(rows_TK, source_T, placement, "even", 1, seed=1)
    assert 0.4 < np.mean(slots_TK != other_TK) < 0.6
    second_T, second_E = slots_TK % 2, slots_TK.T % 2
    assert not (second_T[0] == second_T[1]).all()
    assert not (second_E[0] == second_E[1]).all()


def test_many_replicated_experts_are_chosen_in_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables too large for one pass give the slots that one table gives."""
    rng = np.random.default_rng(0)
    placement = ExpertPlacement(np.tile(np.arange(40), 3), num_experts=40, num_devices=11)
    experts_TK, source_T = rng.integers(-1, 40, (500, 4)).astype(np.int32), rng.integers(0, 11, 500).astype(np.int32)
    whole_TK = choose_replicas(experts_TK, source_T, placement, "nearest", 4, seed=2)
    monkeypatch.setattr(replica, "_TABLE_ENTRIES", 80)
    assert whole_TK.tolist() == choose_replicas(experts_TK, source_T, placement, "nearest", 4, seed=2).tolist()


def test_splitmix64_gives_the_published_sequence() -> None:
    """Seed 1234567: the first outputs of the reference generator, whose state steps by the golden gamma."""
    gamma = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + i * gamma) % 2**64 for i in range(3)], dtype=np.uint64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert expected == splitmix64(states).tolist()


@pytest.mark.parametrize(
    ("experts", "sources", "policy", "seed", "error", "message"),
    [
        ([[0]], [0], "neerest", 0, UnknownName, "did you mean 'nearest'"),
        ([[2]], [0], "even", 0, InputError, r"expert ids 2\.\.2 leave -1\.\.1 of the placement"),
        ([[-2]], [0], "even", 0, InputError, r"expert ids -2\.\.-2 leave"),
        ([[0]], [2], "even", 0, InputError, r"source devices 2\.\.2 leave 0\.\.1 of the placement"),
        ([[0]], [0, 1], "even", 0, InputError, r"do not match sources"),
        ([[0]], [0], "even", -1, InputError, r"seed=-1 is negative"),
    ],
)
def test_wrong_input_is_refused(
    experts: list[list[int]], sources: list[int], policy: str, seed: int, error: type[Exception], message: str
) -> None:
    """A policy, id, device or seed that cannot be is named with its bound."""
    placement = ExpertPlacement(np.array([0, 1, 0]), num_experts=2, num_devices=2)
    with pytest.raises(error, match=message):
        choose_replicas(np.array(experts, np.int32), np.array(sources, np.int32), placement, policy, 1, seed)
