"""README tells the truth: its numbers are the demo's, its commands and code exist and run."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from moesim.cli.app import app
from moesim.cli.demo import SCENARIO
from moesim.scenario import load_scenario, make_scenario
from moesim.study import compare
from tests.strategies.scenario import write_scenario

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def demo():
    """The comparison `make demo` shows."""
    return compare(load_scenario(SCENARIO))


def test_the_table_is_what_the_demo_prints(demo):
    """Every row of the README's table, to its last digit."""
    rows = {run.strategy: run for run in demo.runs}
    shown = re.findall(r"^\| (\w+)[^|]*\| ([\d.]+) ms \| ([\d.]+)x \| ([\d.]+) \| ([\d.]+) \|$", README, re.MULTILINE)
    assert len(shown) >= 6
    for strategy, time_ms, speedup, balancedness, nodes in shown:
        run = rows[strategy]
        assert (time_ms, speedup, balancedness, nodes) == (
            f"{run.step_time_s * 1e3:.2f}",
            f"{run.speedup:.2f}",
            f"{run.balancedness:.3f}",
            f"{run.fanout_nodes:.2f}",
        )


def test_the_demo_is_planned_on_other_steps_than_it_is_judged_on(demo):
    """The page's claim rests on unseen steps, nearly full ones."""
    scenario = demo.scenario
    assert scenario["compare"]["plan_steps"] != scenario["trace"]["steps"]
    assert all(step.fill > 0.95 for result in demo.results.values() for step in result.steps)


def test_every_command_shown_exists():
    """Each `moesim ...` line names a command, and options it has."""
    root = typer.main.get_command(app)
    blocks = "".join(re.findall(r"```\n(.*?)```", README, re.DOTALL))
    lines = [part for line in re.findall(r"^moesim .*$", blocks, re.MULTILINE) for part in line.split(";")]
    assert len(lines) >= 8
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        command = root.commands[words[0]]
        if hasattr(command, "commands"):
            command = command.commands[words[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_the_scenario_shown_is_one():
    """The YAML block is read without complaint."""
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL).group(1)
    assert "gpt-oss-20b" == make_scenario(yaml.safe_load(block)).model


def test_the_python_shown_runs(tmp_path, monkeypatch, capsys):
    """The Python block, beside a tiny scenario.yaml."""
    write_scenario(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1), {})
    assert "contiguous" in capsys.readouterr().out
    assert (tmp_path / "plan.json").is_file()
    assert (tmp_path / "location.json").is_file()


def test_make_targets_shown_exist():
    """README's two commands are targets of the Makefile, and the check script calls the test command."""
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
    assert "make test" in (REPOSITORY / ".ci" / "run").read_text()


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page):
    """Relative links of every page, and of README, exist."""
    for source, text in ((REPOSITORY / "README.md", README), (page, page.read_text(encoding="utf-8"))):
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in link:
                assert (source.parent / link).exists(), f"{source.name} -> {link}"
