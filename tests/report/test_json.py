"""result.json is what read_result reads, and depends on nothing but the run."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given

from moesim.report.formats.json import document, render
from moesim.result import SimulationResult, read_result
from tests.strategies.result import make_comparison, make_result, results

SMALL: dict[str, Any] = {"nodes": 2, "local": 2, "layers": 2, "steps": 1}


@given(results())
def test_a_result_round_trips(result: SimulationResult) -> None:
    """What is written reads back as the summary without wall-clock times."""
    assert result.summary(wall_clock=False) == json.loads(render(result)["result.json"])


def test_wall_clock_changes_nothing() -> None:
    """Two runs that differ only in how long they took give the same bytes."""
    result = make_result(**SMALL)
    slower = result.model_copy(update={"wall_s": 99.0})
    assert render(result) == render(slower)


def test_a_comparison_holds_runs_results_and_scenario(tmp_path: Path) -> None:
    """The file of a comparison has its runs, each run's summary, and the scenario to rerun it; planning time is out."""
    comparison = make_comparison(("contiguous", "random"), **SMALL)
    path = tmp_path / "result.json"
    path.write_bytes(render(comparison)["result.json"])
    data = read_result(path)
    assert json.loads(json.dumps(document(comparison))) == data
    assert [run["strategy"] for run in data["runs"]] == ["contiguous", "random", "key_grid"]
    assert comparison.results["random"].step_time_s == data["results"]["random"]["step_time_s"]
    assert comparison.scenario == data["scenario"]
    assert not any("plan_s" in run for run in data["runs"])
