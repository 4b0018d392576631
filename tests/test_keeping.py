"""The plan kept of a comparison is the one its fastest strategy makes."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from moesim.cli import app
from moesim.errors import InputError
from moesim.plan_file import load_plan
from moesim.result import ComparedRun, Comparison, Headroom
from moesim.scenario import make_scenario
from moesim.study import compare, fastest_plan, plan
from tests.strategies.command import run_command
from tests.strategies.scenario import tiny_scenario, write_scenario


def test_the_kept_plan_is_that_of_the_strategy(tmp_path):
    """Placements, predicted time, bound and balancedness are those of planning alone on the same window."""
    scenario = make_scenario(tiny_scenario(tmp_path))
    comparison = compare(scenario, ["contiguous", "eplb_global"], plan_steps="0:1", steps="1:2")
    kept = fastest_plan(comparison, Path())
    alone = plan(scenario, comparison.fastest, plan_steps="0:1")
    assert alone.expert_of_slot == kept.expert_of_slot
    assert (alone.predicted_step_time_s, alone.lower_bound_s) == (kept.predicted_step_time_s, kept.lower_bound_s)
    assert alone.balancedness == kept.balancedness
    assert min(run.step_time_s for run in comparison.runs) == comparison.results[kept.strategy].step_time_s


def test_nothing_is_kept_where_all_declined():
    """A comparison without a time has no plan, and says what to do."""
    rows = (ComparedRun(strategy="exact", declined="too many experts"),)
    nothing = Comparison(runs=rows, headroom=Headroom(), results={}, scenario={}, assumptions=())
    assert nothing.fastest is None
    with pytest.raises(InputError, match="every strategy declined"):
        fastest_plan(nothing, Path())


def test_the_command_writes_a_plan_that_loads(tmp_path):
    """`compare --plan-out` writes a file that `placement: {plan: FILE}` and `moesim export` read."""
    import yaml

    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(tiny_scenario(tmp_path)), encoding="utf-8")
    out = tmp_path / "plan.json"
    done = CliRunner().invoke(
        app, ["compare", str(path), "--strategies", "contiguous,longest_first", "--plan-out", str(out)]
    )
    assert 0 == done.exit_code, done.output
    assert load_plan(out).strategy in {"contiguous", "longest_first"}


def test_a_comparison_is_shown_where_no_plan_can_be_kept(tmp_path, monkeypatch, capsys):
    """What declined and why is on stdout; the file that cannot be made is one sentence on stderr, and nothing is left."""
    scenario, out = write_scenario(tmp_path), tmp_path / "plan.json"
    words = ("compare", scenario, "--strategies", "exact", "--plan-out", out)
    status, shown, said = run_command(monkeypatch, capsys, *words)
    assert (2, True, True) == (status, "declined" in shown, "every strategy declined" in said)
    assert not out.exists()
