"""The studies of a million experts, regenerated in small."""

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from moesim.planner.strategies import topology
from moesim.study import posing
from moesim.study.memory_decides import CopiesPoint, gradient_exchange_s, tokens_to_pay

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def program(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An example as a module."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_the_small_study_gives_the_committed_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fan-out, step time and balance of layouts by load or keys are those of the CSV beside the program; a picture is drawn."""
    study = program("million_experts", monkeypatch)
    rows = study.study(study.SMALL, tmp_path / "rows.csv", study.SMALL_LAYOUTS)
    committed = list(csv.DictReader((EXAMPLES / "million_experts_small.csv").open()))
    assert [row["layout"] for row in committed] == [row["layout"] for row in rows]
    for expected, actual in zip(committed, rows, strict=True):
        for column in ("fanout_nodes", "step_time_s", "balancedness"):
            assert float(expected[column]) == pytest.approx(float(actual[column]), rel=0.02)
    study.draw(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_the_committed_study_has_every_layout_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are complete; product-key layouts touch fewer nodes than hashing at every size."""
    study = program("million_experts", monkeypatch)
    rows = list(csv.DictReader((EXAMPLES / "million_experts.csv").open()))
    for experts in {int(row["experts"]): None for row in rows}:
        nodes = {row["layout"]: float(row["fanout_nodes"]) for row in rows if int(row["experts"]) == experts}
        assert sorted(study.LAYOUTS) == sorted(nodes)
        assert max(nodes["key_grid"], nodes["topology"]) < nodes["hash"]


def test_more_copies_touch_fewer_nodes_until_one_holds_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fan-out falls to one node a token, memory grows with the copies, rows survive the CSV."""
    monkeypatch.setattr(topology, "MOST_CELLS", 100)
    monkeypatch.setattr(posing, "MOST_CELLS", 100)
    decides = program("memory_decides", monkeypatch)
    points = decides.sweep((1, 2, 4), 1_024, 32)
    nodes = [point.fanout_nodes for point in points]
    assert sorted(nodes, reverse=True) == nodes
    assert 1.0 == nodes[-1]
    assert [1, 2, 4] == [round(point.device_bytes / points[0].device_bytes) for point in points]
    decides.write(points, tmp_path / "points.csv")
    assert [point.copies for point in points] == [point.copies for point in decides.read(tmp_path / "points.csv")]
    decides.draw(points, tmp_path / "picture.png")
    assert "serving" in decides.sentences(points, 1_024, 32, 512)[0]


def test_copies_pay_in_training_once_what_they_save_exceeds_their_gradients() -> None:
    """At the crossing both ways take equally long; no saving, no crossing."""
    one, whole = (
        CopiesPoint(copies=c, device_bytes=1.0, fanout_nodes=1.0, fanout_devices=1.0, communication_s=s, step_s=s)
        for c, s in ((1, 3e-3), (4, 1e-3))
    )
    exchange_s = gradient_exchange_s(1000.0, 4096.0, 8, 4, 50e9)
    tokens = tokens_to_pay(one, whole, exchange_s, 1000)
    assert 2 * one.communication_s * tokens / 1000 == pytest.approx(
        2 * whole.communication_s * tokens / 1000 + exchange_s
    )
    assert float("inf") == tokens_to_pay(whole, one, exchange_s, 1000)
    assert 0.0 == gradient_exchange_s(1000.0, 4096.0, 8, 1, 50e9)
