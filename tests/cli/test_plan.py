"""moesim plan: the answer's keys, the file, what it is replayed as, refusals."""

import json

import pytest

import moesim
from moesim.errors import InputError, NoFeasiblePlan
from moesim.plan_file import load_plan
from tests.strategies.command import run_command
from tests.strategies.scenario import tiny_scenario, write_scenario

KEYS = (
    "plan status predicted_step_time_s lower_bound_s gap balancedness fanout_nodes moved_bytes capacity_factors seconds"
)


def run(monkeypatch, capsys, *arguments):
    """Exit status, stdout and stderr of `moesim plan`."""
    return run_command(monkeypatch, capsys, "plan", *arguments)


def test_plan_answers_with_every_documented_key_and_writes_the_same_file_twice(tmp_path, monkeypatch, capsys):
    """Bound <= predicted, gap between the two; the file reads back and holds the slots asked for."""
    scenario = write_scenario(tmp_path)
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        status, out, _ = run(
            monkeypatch, capsys, scenario, "--strategy", "balanced", "--slots", 19, "--out", file, "--json"
        )
        assert 0 == status
    answer = json.loads(out)
    assert set(KEYS.split()) <= set(answer)
    assert 0 < answer["lower_bound_s"] <= answer["predicted_step_time_s"]
    assert answer["gap"] == pytest.approx(answer["predicted_step_time_s"] / answer["lower_bound_s"] - 1)
    assert answer["status"].startswith("feasible (gap")
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [19, 19] == [len(slots) for slots in load_plan(files[0]).expert_of_slot]


@pytest.mark.parametrize("strategy", ["contiguous", "eplb_global", "balanced"])
@pytest.mark.parametrize("overlap", ["none", "shared_expert", "two_batch"])
def test_the_bound_is_below_every_plan_and_its_replay(tmp_path, strategy, overlap):
    """lower_bound_s <= predicted_step_time_s, and <= the replay under fluid, where ranks need not wait for each other."""
    scenario = tiny_scenario(tmp_path, placement={"slots": 32}, mode={"overlap": overlap})
    plan = moesim.plan(scenario, strategy)
    assert plan.lower_bound_s <= plan.predicted_step_time_s
    path = plan.write(tmp_path / "plan.json")
    replay = moesim.simulate({**scenario, "placement": {"plan": str(path)}})
    assert plan.lower_bound_s <= replay.step_time_s


def test_a_plan_with_splits_is_replayed_with_them(tmp_path):
    """A file with policy split and shares: the replay's assumptions name the policy."""
    plan = moesim.plan(tiny_scenario(tmp_path), "balanced", slots=18)
    copied = sorted(slot for slot, e in enumerate(plan.expert_of_slot[0]) if plan.expert_of_slot[0].count(e) > 1)
    split = {"rows": 1, "share_of_slot": dict.fromkeys(copied, (0.5,))}
    layers = [split, {"rows": 1, "share_of_slot": {}}]
    changed = type(plan).model_validate({**plan.model_dump(), "replica_policy": "split", "splits": layers})
    path = changed.write(tmp_path / "plan.json")
    result = moesim.simulate({**tiny_scenario(tmp_path), "placement": {"plan": str(path)}})
    assert "replica policy: split" in result.assumptions


def test_fewer_slots_than_experts_is_the_users_error(tmp_path, monkeypatch, capsys):
    """Exit 2, one sentence with both numbers, no file."""
    status, _, err = run(
        monkeypatch, capsys, write_scenario(tmp_path), "--slots", 15, "--strategy", "balanced", "--out", tmp_path / "p"
    )
    assert 2 == status
    assert "slots=15 is fewer than experts=16" in err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("sections", "strategy", "words"),
    [
        ({"cluster": {"devices": [{"match": "*", "memory": "2 MiB"}]}}, "balanced", "memory holds 0 of them"),
        ({"placement": {"slots": 20}, "plan": {"survive": 1}}, "balanced", "survive=1, which needs 2 copies"),
        (
            {"cluster": {"nodes": 3}, "placement": {"slots": 20}},
            "eplb_global",
            "eplb_global has no plan: EPLB needs slots divisible",
        ),
    ],
)
def test_a_valid_problem_without_a_plan_is_told_in_one_sentence(tmp_path, sections, strategy, words):
    """Too little memory, failures that slots cannot cover, a strategy that declines: exit status 3."""
    with pytest.raises(NoFeasiblePlan) as error:
        moesim.plan(tiny_scenario(tmp_path, **sections), strategy)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert 3 == error.value.exit_status


def test_a_device_with_less_memory_gets_fewer_slots(tmp_path):
    """One device of sixteen with room for one slot a layer: the others hold what it cannot."""
    devices = [{"match": "node0.dev0", "memory": "4 MiB"}]
    plan = moesim.plan(tiny_scenario(tmp_path, placement={"slots": 48}, cluster={"devices": devices}), "balanced")
    assert plan.slots_per_device is not None
    assert plan.slots_per_device[0] < 3
    assert 48 == sum(plan.slots_per_device)
    assert plan == load_plan(plan.write(tmp_path / "plan.json"))


def test_an_unknown_strategy_is_named_with_the_nearest(tmp_path):
    """balance -> balanced."""
    with pytest.raises(InputError, match="did you mean 'balanced'"):
        moesim.plan(tiny_scenario(tmp_path), "balance")
