"""What every placement strategy of the registry keeps."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from moesim.errors import Declined, UnknownName
from moesim.planner import STRATEGIES, PlacementProblem, place, replica_policy
from moesim.replica import POLICIES
from tests.strategies.placement import problems


def names_a_value(problem: PlacementProblem, declined: Declined) -> bool:
    """Whether a refusal names the number it is about: slots, experts or devices as the problem has them."""
    numbers = {int(number) for number in re.findall(r"\d+", str(declined))}
    return bool(numbers & {problem.num_slots, problem.num_experts, problem.num_devices})


every_strategy = pytest.mark.parametrize("name", STRATEGIES.names())


def test_the_registry_holds_the_files_of_the_folder() -> None:
    """A strategy is a file: these seven at least."""
    known = {"contiguous", "eplb_global", "eplb_hierarchical", "hash", "longest_first", "random", "round_robin"}
    assert known <= set(STRATEGIES.names())
    with pytest.raises(UnknownName, match="did you mean 'round_robin'"):
        place("round_robbin", PlacementProblem(np.ones((1, 1)), 1, 1, 1))
    with pytest.raises(UnknownName, match="unknown strategy"):
        replica_policy("round_robbin")


@every_strategy
@given(problem=problems())
@settings(max_examples=25)
def test_every_layer_is_placed_on_the_slots_asked_or_the_answer_says_so(name: str, problem: PlacementProblem) -> None:
    """One placement a layer on the problem's devices; fewer slots than asked only with a note that names both numbers."""
    try:
        answer = place(name, problem)
    except Declined as declined:
        assert names_a_value(problem, declined)
        return
    assert problem.num_layers == len(answer.placements)
    for placement in answer.placements:
        assert (problem.num_experts, problem.num_devices) == (placement.num_experts, placement.num_devices)
        assert placement.num_slots <= problem.num_slots
        if placement.num_slots < problem.num_slots:
            assert any(f"{placement.num_slots} used of {problem.num_slots} asked" in note for note in answer.notes)


@every_strategy
@given(problem=problems(max_experts=8))
@settings(max_examples=15)
def test_the_same_problem_has_the_same_answer(name: str, problem: PlacementProblem) -> None:
    """Answers, notes and refusals repeat."""
    try:
        assert place(name, problem) == place(name, problem)
    except Declined as declined:
        with pytest.raises(Declined) as again:
            place(name, problem)
        assert str(declined) == str(again.value)


@every_strategy
def test_one_device_one_expert(name: str) -> None:
    """The smallest problem has one answer, but for a strategy that needs tokens and says so."""
    try:
        answer = place(name, PlacementProblem(np.zeros((1, 1)), 1, 1, 1))
    except Declined as declined:
        assert "slots=1" in str(declined)
        return
    assert [0] == answer.placements[0].expert_of_slot_P.tolist()


@every_strategy
def test_the_replica_policy_is_one_of_ours(name: str) -> None:
    """EPLB's plans are made for an even split, those that optimise the step carry their own; both kinds say so."""
    assert replica_policy(name) in POLICIES
    expected = "even" if name.startswith("eplb") else "split" if name in ("topology", "exact") else replica_policy(name)
    assert expected == replica_policy(name)


@every_strategy
def test_a_strategy_knows_no_other(name: str) -> None:
    """No strategy file names the strategies package."""
    folder = Path(__file__).resolve().parents[2] / "moesim" / "planner" / "strategies"
    assert "planner.strategies" not in (folder / f"{name}.py").read_text()
