"""moesim export: the documented keys, exit statuses, sentences."""

import json

import pytest

import moesim
from moesim.errors import InputError
from tests.exporters.test_checkpoints import tiny_folder
from tests.strategies.command import run_command
from tests.strategies.plan import plan_of
from tests.strategies.scenario import TINY_MODEL, tiny_scenario, write_scenario


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory):
    """A plan with replicas of a tiny scenario, and the folder of both."""
    folder = tmp_path_factory.mktemp("export")
    plan = moesim.plan(tiny_scenario(folder, placement={"slots": 32}), "longest_first")
    return plan.write(folder / "plan.json")


def run(monkeypatch, capsys, *arguments):
    """Exit status, stdout and stderr of `moesim export`."""
    return run_command(monkeypatch, capsys, "export", *arguments)


def test_the_answer_has_the_documented_keys(plan_file, tmp_path, monkeypatch, capsys):
    """files, launch_flags, checks of name and ok."""
    out = tmp_path / "location.json"
    status, text, _ = run(monkeypatch, capsys, plan_file, "--to", "sglang", "--out", out, "--json")
    answer = json.loads(text)
    assert 0 == status
    assert [str(out)] == answer["files"]
    assert "--ep-num-redundant-experts 16" in answer["launch_flags"]
    assert all({"name", "ok"} == set(check) and check["ok"] for check in answer["checks"])
    assert [3, 32] == [len(json.loads(out.read_text())["physical_to_logical_map"]), 32]


def test_a_person_gets_a_table_and_the_remarks_on_stderr(plan_file, tmp_path, monkeypatch, capsys):
    """Flags and checks on stdout."""
    status, out, err = run(
        monkeypatch, capsys, plan_file, "--to", "slurm", "--out", tmp_path / "h", "--option", "hosts=h[1-2]"
    )
    assert 0 == status
    assert "--distribution=arbitrary" in out and "every rank exactly once" in out
    assert "--nodes" in err
    assert ["h1"] * 8 + ["h2"] * 8 == (tmp_path / "h").read_text().split()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "sgland"], "did you mean 'sglang'"),
        (["--to", "vllm"], "slots=16"),
        (["--to", "megatron"], "slots=16"),
        (["--to", "sglang", "--option", "a2a"], "is not KEY=VALUE"),
        (["--to", "sglang", "--option", "a2a=x", "--option", "a2a=y"], "given twice"),
        (["--to", "sglang", "--checkpoint", "model"], "permutes no checkpoint"),
        (["--to", "sglang", "--scenario", "missing.yaml"], "missing.yaml"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(plan_file, tmp_path, monkeypatch, capsys, arguments, words):
    """No traceback, no file."""
    status, out, err = run(monkeypatch, capsys, plan_file, "--out", tmp_path / "x.json", *arguments)
    assert (2, "") == (status, out)
    assert words in err and 1 == err.count("\n")
    assert [] == list(tmp_path.iterdir())


def test_a_folder_as_out_is_refused(plan_file, tmp_path, monkeypatch, capsys):
    """The file to write must be named."""
    status, _, err = run(monkeypatch, capsys, plan_file, "--to", "sglang", "--out", tmp_path)
    assert 2 == status and "is a folder" in err


def test_a_scenario_for_another_number_of_devices_is_refused(plan_file, tmp_path, monkeypatch, capsys):
    """ep of the scenario given must be the plan's."""
    other = write_scenario(tmp_path, cluster={"nodes": 1})
    status, _, err = run(monkeypatch, capsys, plan_file, "--to", "slurm", "--out", tmp_path / "h", "--scenario", other)
    assert 2 == status and "16 devices" in err and "ep=8" in err


def test_make_fit_plans_the_nearest_even_slots(tmp_path, monkeypatch, capsys):
    """18 slots on 16 ranks: 16 are nearest, planned by the same strategy, and written beside the file."""
    plan = moesim.plan(tiny_scenario(tmp_path, placement={"slots": 18}), "longest_first", plan_steps="0:1")
    path = plan.write(tmp_path / "plan.json")
    out = tmp_path / "made" / "location.json"
    assert 2 == run(monkeypatch, capsys, path, "--to", "sglang", "--out", out)[0]
    status, text, _ = run(monkeypatch, capsys, path, "--to", "sglang", "--out", out, "--make-fit", "--json")
    assert 0 == status
    fitted = moesim.load_plan(json.loads(text)["files"][1])
    assert ("longest_first", 16) == (fitted.strategy, len(fitted.expert_of_slot[0]))
    assert "planned on steps 0:1" in fitted.notes[0]


def test_make_fit_keeps_routing_groups_whole_where_they_route(tmp_path):
    """A grouped router under strategy random mixes groups; the fitted plan does not, and is judged anew."""
    grouped = TINY_MODEL.replace(
        "router: {kind: top_k_softmax}", "router: {kind: top_k_softmax}\n  num_groups: 4\n  top_groups: 2"
    )
    scenario = tiny_scenario(tmp_path)
    (tmp_path / "tiny.yaml").write_text(grouped)
    plan = moesim.plan(scenario, "random")
    made = moesim.export(plan, "megatron", tmp_path / "p.json", make_fit=True)
    rows = [[expert // 4 for expert in row] for row in made.plan.expert_of_slot]
    assert all(len(set(row[first : first + 4])) == 1 for row in rows for first in range(0, 16, 4))
    assert made.plan.predicted_step_time_s > 0
    assert "routing groups stay whole; predicted step" in made.notes[0]
    assert {"--moe-router-num-groups 4", "--moe-router-group-topk 2"} <= set(made.launch_flags)


def test_a_plan_without_a_scenario_cannot_be_made_to_fit(tmp_path):
    """Nobody says what to plan for."""
    row = (*range(16), 0, 1)
    with pytest.raises(InputError, match="give --scenario"):
        moesim.export(plan_of((row, row), 4), "vllm", tmp_path / "x.json", make_fit=True)


def test_a_plan_that_its_scenario_no_longer_fits_says_why(plan_file, tmp_path, monkeypatch, capsys):
    """A layer less than the model has: the sentence names both, not a missing model."""
    data = json.loads(plan_file.read_text())
    short = tmp_path / "short.json"
    short.write_text(json.dumps({**data, "layers": data["layers"][:1], "expert_of_slot": data["expert_of_slot"][:1]}))
    status, _, err = run(monkeypatch, capsys, short, "--to", "sglang", "--out", tmp_path / "x.json")
    assert 2 == status and 1 == err.count("\n")
    assert "the plan places 16 experts in 1 layers; tiny has 16 in 2 MoE layers" in err


def test_a_checkpoint_is_permuted_by_the_command(tmp_path, monkeypatch, capsys):
    """--out is the new folder, the permutation lies beside it; a second run finds the folder there and refuses."""
    plan = moesim.plan(tiny_scenario(tmp_path), "random").write(tmp_path / "plan.json")
    source, out = tiny_folder(tmp_path / "old", "megatron"), tmp_path / "made" / "new"
    arguments = (plan, "--to", "megatron", "--checkpoint", source, "--out", out, "--json")
    status, text, _ = run(monkeypatch, capsys, *arguments)
    assert (0, [str(out), f"{out}.permutation.json"]) == (status, json.loads(text)["files"])
    assert {"config.json", "model.safetensors"} == {path.name for path in out.iterdir()}
    status, text, err = run(monkeypatch, capsys, *arguments)
    assert (2, "") == (status, text) and "is a folder" in err


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("layers", [1, 1], "ascending order, each once"),
        ("expert_of_slot", [[*range(15), 0, *range(15), 0], [*range(16), *range(16)]], "1 of 16 experts have no slot"),
        ("expert_of_slot", [[16, *range(15), *range(16)], [*range(16), *range(16)]], "slot 0 holds expert 16"),
    ],
)
def test_an_impossible_plan_is_refused_by_its_name(plan_file, tmp_path, monkeypatch, capsys, key, value, words):
    """A layer twice, an expert without a slot or out of range: the file and the fault."""
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({**json.loads(plan_file.read_text()), key: value}))
    status, _, err = run(monkeypatch, capsys, bad, "--to", "sglang", "--out", tmp_path / "x.json")
    assert 2 == status
    assert f"{bad}: " in err and words in err
