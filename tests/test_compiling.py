"""Compiling beside: two processes the first time, none once kernels are kept, and they run what a strategy runs."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from moesim.study import compiling
from tests.strategies.scenario import write_scenario


@pytest.fixture
def started(tmp_path, monkeypatch) -> list[list[str]]:
    """Commands that would be started, with an empty folder of kept kernels."""
    commands: list[list[str]] = []
    monkeypatch.setattr(compiling, "improve", SimpleNamespace(stats=SimpleNamespace(cache_path=str(tmp_path))))
    monkeypatch.setattr(compiling.subprocess, "Popen", lambda command, **_: commands.append(command))
    return commands


def test_the_first_run_starts_a_process_for_each_part(started):
    """Each with its part, the scenario and the strategy."""
    compiling.compile_beside(Path("s.yaml"), "topology")
    assert [[part, "s.yaml", "topology"] for part in compiling.PARTS] == [command[3:] for command in started]


def test_later_runs_start_none(started, tmp_path):
    """A kept kernel of the search is enough to know."""
    (tmp_path / "local_search.improve-27.py311.nbi").touch()
    compiling.compile_beside(Path("s.yaml"), "topology")
    assert [] == started


@pytest.mark.parametrize("part", compiling.PARTS)
def test_every_part_runs_on_a_scenario(part, tmp_path, monkeypatch):
    """The strategy places one layer of a few tokens; the objective is asked for one placement."""
    asked: list[str] = []
    monkeypatch.setattr(compiling, "compile_strategy", lambda name, problem: asked.append(name))
    time_of = compiling.time_of
    monkeypatch.setattr(compiling, "time_of", lambda *known: asked.append(f"{time_of(*known) > 0}"))
    compiling.main(part, str(write_scenario(tmp_path)), "topology")
    assert ["topology" if part == "strategy" else "True"] == asked
