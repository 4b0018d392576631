"""Plan files: what is written is read back; what is damaged is refused in one sentence."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.placement import ExpertPlacement
from moesim.plan_file import Plan, load_plan


def make_plan(placements, num_experts, num_devices):
    return Plan(
        model="tiny",
        topology="dgx-h100-superpod",
        strategy="hash",
        replica_policy="nearest",
        num_experts=num_experts,
        num_devices=num_devices,
        layers=tuple(range(len(placements))),
        expert_of_slot=tuple(tuple(int(e) for e in slots) for slots in placements),
        predicted_step_time_s=0.001,
        balancedness=0.5,
    )


@given(st.integers(1, 12), st.integers(1, 8), st.integers(0, 8), st.integers(1, 3), st.randoms())
def test_a_plan_read_back_is_the_plan(tmp_path_factory, experts, devices, extra, layers, random):
    """Writing and reading change nothing, and twice written is the same bytes."""
    slots = [*range(experts), *(random.randrange(experts) for _ in range(extra))]
    placements = [random.sample(slots, len(slots)) for _ in range(layers)]
    plan = make_plan(placements, experts, devices)
    folder = tmp_path_factory.mktemp("plan")
    path = plan.write(folder / "a.json")
    assert plan == load_plan(path)
    assert path.read_bytes() == plan.write(folder / "b.json").read_bytes()
    assert [ExpertPlacement(np.array(p), experts, devices) for p in placements] == list(plan.placements)


@pytest.fixture
def path(tmp_path):
    return make_plan([[0, 1, 2, 3]] * 2, 4, 2).write(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 2}, "format_version 2"),
        ({"surprise": 1}, "surprise"),
        ({"expert_of_slot": [[0, 1, 2, 9], [0, 1, 2, 3]]}, "expert 9"),
        ({"expert_of_slot": [[0, 1, 2, 2], [0, 1, 2, 3]]}, "no slot"),
        ({"expert_of_slot": [[0, 1, 2, 3]]}, "2 layers but places 1"),
        ({"expert_of_slot": [[0, 1, -2, 3]] * 2}, "expert_of_slot"),
        ({"num_experts": 0}, "num_experts"),
        ({"num_devices": 10**12}, "num_devices"),
        ({"replica_policy": "psychic"}, "nearest"),
        ({"predicted_step_time_s": -1}, "predicted_step_time_s"),
        ({"layers": []}, "layers"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(path, change, words):
    """The sentence names the key or what is wrong with it."""
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError) as error:
        load_plan(path)
    assert words in str(error.value) and "\n" not in str(error.value)


@given(st.data())
def test_mutated_plan_files_are_read_or_refused(tmp_path_factory, data):
    """Cut and changed bytes raise InputError or nothing."""
    raw = bytearray(make_plan([[0, 1, 2, 3]] * 2, 4, 2).model_dump_json().encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        if data.draw(st.booleans()):
            raw[at] = data.draw(st.integers(0, 255))
        else:
            del raw[at:]
            raw += b" "
    path = tmp_path_factory.mktemp("mutated") / "plan.json"
    path.write_bytes(bytes(raw))
    try:
        load_plan(path)
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "[" * 100_000, '{"format_version": 1e999}'])
def test_a_file_that_is_no_plan_is_refused(path, text):
    """Empty, wrong type, truncated, too deep, infinite."""
    path.write_text(text)
    with pytest.raises(InputError):
        load_plan(path)


def test_a_missing_plan_is_refused(tmp_path):
    """With its path."""
    with pytest.raises(InputError, match="nowhere"):
        load_plan(tmp_path / "nowhere.json")


def test_a_plan_cannot_be_written_into_nothing(tmp_path):
    """A missing folder is told, and nothing is left behind."""
    with pytest.raises(InputError, match="cannot write"):
        make_plan([[0]], 1, 1).write(tmp_path / "missing" / "plan.json")
    assert [] == list(tmp_path.iterdir())
