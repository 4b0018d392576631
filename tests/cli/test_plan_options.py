"""moesim plan beyond one window: old plans, several traces, failures, drop budgets, explanations, re-planning."""

import json

import pytest

import moesim
from moesim.errors import InputError, NoFeasiblePlan
from moesim.plan_file import load_plan
from moesim.scenario import make_scenario
from tests.strategies.command import run_command
from tests.strategies.scenario import tiny_scenario, write_scenario

SKEWED = {"router": "zipf", "tokens_per_rank": 96, "steps": "0:3", "seed": 1}
WIDE = {"slots": 20}


def run(monkeypatch, capsys, *arguments):
    """Exit status, stdout and stderr of `moesim plan`."""
    return run_command(monkeypatch, capsys, "plan", *arguments)


def test_a_plan_near_an_old_one_moves_no_more_than_its_budget(tmp_path, monkeypatch, capsys):
    """What travels is listed in rounds, adds up to moved_bytes, stays in the budget; nothing for a budget of nothing."""
    old = moesim.plan(tiny_scenario(tmp_path, trace=SKEWED, placement=WIDE), "contiguous").write(tmp_path / "old.json")
    file = write_scenario(tmp_path, trace={**SKEWED, "seed": 9}, placement=WIDE, plan={"payback_steps": 10**9})
    each = 3 * 256 * 128 * 2
    moved = {}
    for budget in (0, 4 * each, "1GiB"):
        out = tmp_path / "new.json"
        arguments = ("--strategy", "balanced", "--from", old, "--move-budget", budget, "--out", out, "--json")
        status, text, _ = run(monkeypatch, capsys, file, *arguments)
        assert 0 == status
        answer, made = json.loads(text), load_plan(out)
        assert answer["moved_bytes"] == each * sum(len(one.moves) for one in made.moves)
        moved[budget] = made
    before = load_plan(old)
    assert before.expert_of_slot == moved[0].expert_of_slot and 0 == moved[0].moved_bytes
    assert 0 < moved[4 * each].moved_bytes <= 4 * each < moved["1GiB"].moved_bytes
    assert moved["1GiB"].predicted_step_time_s <= moved[0].predicted_step_time_s


def test_an_old_plan_that_does_not_fit_is_the_users_error(tmp_path, monkeypatch, capsys):
    """Another model, a budget without an old plan, what is no size, window or time: exit 2, one sentence."""
    file = write_scenario(tmp_path)
    plan = moesim.plan(tiny_scenario(tmp_path), "balanced")
    wrong = plan.model_copy(update={"num_experts": 32, "expert_of_slot": (tuple(range(32)),) * 2})
    cases = (
        (("--from", wrong.write(tmp_path / "wrong.json")), "the plan is for tiny (32 experts"),
        (("--move-budget", "1GiB"), "needs the plan to start from"),
        (("--from", plan.write(tmp_path / "old.json"), "--move-budget", "some"), "as bytes"),
        (("--every", "0"), "every=0"),
        (("--every", "2"), "leaves nothing to re-plan for"),
        (("--plan-steps", "5:2"), "window 5:2 is empty"),
        (("--time-limit", "inf"), "outside 0..86400 s"),
    )
    for arguments, words in cases:
        status, _, err = run(
            monkeypatch, capsys, file, "--strategy", "balanced", *arguments, "--out", tmp_path / "p.json"
        )
        assert 2 == status and words in err and 1 == err.strip().count("\n") + 1


@pytest.mark.parametrize("strategy", ["balanced", "topology"])
def test_every_expert_survives_a_node(tmp_path, strategy):
    """survive: 1 puts every expert on both nodes."""
    scenario = tiny_scenario(tmp_path, placement={"slots": 36}, plan={"survive": 1})
    for placement in moesim.plan(scenario, strategy, time_limit_s=1.0).placements:
        nodes = {
            (int(e), int(d) // 8) for e, d in zip(placement.expert_of_slot_P, placement.device_of_slot_P, strict=True)
        }
        assert 32 == len(nodes)


def test_a_dead_device_is_planned_around(tmp_path):
    """It gets no slot and sends nothing, so nothing is lost; too few live domains are named with the fault, exit 3."""
    faults = [{"kind": "device_down", "device": 3}]
    scenario = tiny_scenario(tmp_path, placement=WIDE)
    plan = moesim.plan({**scenario, "faults": faults}, "balanced")
    assert plan.slots_per_device is not None and 0 == plan.slots_per_device[3]
    path = str(plan.write(tmp_path / "plan.json"))
    kept = moesim.simulate({**scenario, "faults": faults, "placement": {"plan": path}})
    assert 2 * 2 * 2 * 16 == kept.lost_pairs  # what the dead device's own 16 tokens asked for, 2 steps x 2 layers
    old = moesim.plan(scenario, "balanced")
    near = moesim.plan({**scenario, "faults": faults}, "balanced", old=old, move_budget="1GiB")
    moves = [move for one in near.moves for move in one.moves]
    assert moves and all(3 not in (sender, receiver) for _, sender, receiver in moves)
    none = moesim.plan({**scenario, "faults": faults}, "balanced", old=old, move_budget=0)
    assert old.expert_of_slot == none.expert_of_slot and any("dead devices" in note for note in none.notes)
    half = [{"kind": "device_down", "device": device} for device in range(8)]
    with pytest.raises(NoFeasiblePlan, match=r"survive=1.* and 8 dead of 16 devices cannot hold together") as error:
        moesim.plan({**scenario, "placement": {"slots": 64}, "faults": half, "plan": {"survive": 1}}, "balanced")
    assert "slots=" not in str(error.value)


def test_several_traces_are_one_scenario_that_its_record_rebuilds(tmp_path):
    """A list of traces with weights; a key changed is changed in all; objectives are checked."""
    both = {**tiny_scenario(tmp_path), "trace": [SKEWED, {**SKEWED, "router": "uniform", "weight": 2.0}]}
    scenario = make_scenario(both)
    assert scenario == make_scenario(scenario.record())
    assert [1.0, 2.0] == [alone.trace.weight for alone in scenario.of_traces()]
    assert [(1, 2)] * 2 == [trace.steps for trace in scenario.changed(trace={"steps": "1:2"}).traces]
    for objective in ("median", "cvar:1", "cvar:x", "cvar"):
        with pytest.raises(InputError, match="none of mean, worst and cvar"):
            make_scenario({**both, "plan": {"objective": objective}})
    with pytest.raises(InputError, match="which plan and compare take"):
        moesim.simulate(scenario)


@pytest.mark.parametrize(
    ("objective", "strategy"), [("mean", "balanced"), ("worst", "topology"), ("cvar:0.5", "balanced")]
)
def test_a_plan_for_two_traces_is_judged_by_the_objective(tmp_path, objective, strategy):
    """Predicted = the objective over the traces' step times >= the bound; little work is told; compare judges traces too."""
    both = {**tiny_scenario(tmp_path, placement=WIDE, plan={"objective": objective})}
    few = {**SKEWED, "tokens_per_rank": 16, "steps": "0:1"}
    both["trace"] = [few, {**few, "seed": 7, "steps": "0:2"}]
    plan = moesim.plan(both, strategy, time_limit_s=0.1)
    assert plan.status.startswith("out of time (best found" if strategy == "topology" else "feasible")
    times = [case.step_time_s for case in plan.cases]
    expected = {"mean": sum(times) / 2, "worst": max(times), "cvar:0.5": max(times)}[objective]
    assert expected == pytest.approx(plan.predicted_step_time_s)
    assert plan.lower_bound_s <= plan.predicted_step_time_s
    [row] = moesim.compare({**both, "network": {"fidelity": "bound"}}, ["eplb_global"], slots=32)
    assert set(row.case_times_s) == {"zipf", "zipf (2)"}
    assert min(row.case_times_s.values()) <= row.step_time_s <= max(row.case_times_s.values())


@pytest.mark.parametrize("policy", ["drop_by_position", "pad"])
def test_factors_keep_the_drop_budget_and_are_replayed(tmp_path, policy):
    """More budget is never slower; the replay on the planning window drops no more than the budget, with these factors."""
    scenario = tiny_scenario(tmp_path, trace=SKEWED, capacity={"policy": policy, "factor": 9.0})
    predicted = []
    for budget in (0.0, 0.02, 0.2):
        plan = moesim.plan({**scenario, "plan": {"drop_budget": budget}}, "contiguous")
        assert 2 == len(plan.capacity_factors)
        path = str(plan.write(tmp_path / "plan.json"))
        result = moesim.simulate({**scenario, "placement": {"plan": path}})
        assert result.drop_rate <= budget and (budget == 0.0) == (result.drop_rate == 0.0)
        assert any("are the plan's" in words for words in result.assumptions)
        predicted.append(plan.predicted_step_time_s)
    assert predicted == sorted(predicted, reverse=True) and predicted[2] < predicted[0]
    with pytest.raises(InputError, match="needs a policy that drops or pads"):
        moesim.plan(tiny_scenario(tmp_path, plan={"drop_budget": 0.1}), "contiguous")


def test_the_explanation_adds_up_and_says_whether_it_is_worth_it(tmp_path, monkeypatch, capsys):
    """Terms sum to the step; 3 % decides; one slot more has a time; the sentences are on the page."""
    file = write_scenario(tmp_path, trace=SKEWED, placement={"slots": 32})
    out = tmp_path / "plan.json"
    status, text, _ = run(monkeypatch, capsys, file, "--strategy", "balanced", "--explain", "--out", out, "--json")
    assert 0 == status
    explanation = json.loads(text)["explanation"]
    terms = explanation["terms"]
    assert explanation["step_time_s"] == pytest.approx(sum(terms.values()) - 2 * terms["hidden_s"])
    worth = explanation["worth"]
    assert worth["gain"] == pytest.approx(worth["eplb_s"] / explanation["step_time_s"] - 1.0)
    assert worth["worth_it"] == (worth["gain"] >= 0.03)
    assert explanation["one_more_slot"]["step_time_s"] > 0.0
    assert all(row["copies"] > 1 for layer in explanation["replicated"] for row in layer["experts"])
    _, page, _ = run(monkeypatch, capsys, file, "--strategy", "balanced", "--explain", "--out", out)
    assert "re-planning is" in page and "a step takes" in page


def test_replanning_charges_its_moves(tmp_path):
    """step = re-planned + moves / steps, less where they yield to the step; break-even = move / gain."""
    scenario = tiny_scenario(tmp_path, trace={**SKEWED, "steps": "0:6"}, placement=WIDE)
    old = moesim.plan(tiny_scenario(tmp_path, trace={**SKEWED, "seed": 5}, placement=WIDE), "contiguous")
    plan = moesim.plan(scenario, "balanced", old=old, move_budget="1GiB", every=2)
    assert [(2, 4), (4, 6)] == [(row.first, row.stop) for row in plan.replans]
    for row in plan.replans:
        assert row.step_s == pytest.approx(row.replanned_s + row.move_s / 2)
        assert row.beside_s is not None and row.replanned_s <= row.beside_s <= row.step_s
        if row.break_even_steps is not None:
            assert row.break_even_steps == pytest.approx(row.move_s / (row.kept_s - row.replanned_s))
    assert any("re-planned every 2 steps" in note for note in plan.notes)


def test_replanning_follows_from_one_trace_to_the_next(tmp_path):
    """The first stretch of the second trace is judged under a plan for the first, the next one under its own."""
    scenario = tiny_scenario(tmp_path, placement=WIDE, plan={"payback_steps": 10**9})
    scenario["trace"] = [{**SKEWED, "steps": "0:1"}, {**SKEWED, "seed": 7, "steps": "0:2"}]
    plan = moesim.plan(scenario, "balanced", every=1)
    assert [("zipf (2)", 0, 1), ("zipf (2)", 1, 2)] == [(row.trace, row.first, row.stop) for row in plan.replans]
    assert 0.0 == plan.replans[0].moved_bytes < plan.replans[1].moved_bytes
    assert plan.replans[0].kept_s == plan.replans[0].replanned_s
