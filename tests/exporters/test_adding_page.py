"""The page on adding an exporter: its example is an exporter."""

import re
from pathlib import Path

import pytest

from moesim.exporters import ExportRequest, TargetRefuses
from tests.strategies.plan import plan_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding" / "an-exporter.md"
IDENTITY = tuple(range(16))


def test_the_example_exports():
    """A line for every rank of every layer, checks that hold, and uneven slots refused."""
    scope = {}
    exec(re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1], scope)

    def asked(row):
        plan = plan_of((row, IDENTITY[::-1] + row[16:]), 4)
        return ExportRequest(plan=plan, target="rank-lists", out=Path("x.txt"), options={"title": "mine"})

    made = scope["export"](asked(IDENTITY))
    lines = made.files["x.txt"].decode().splitlines()
    assert ["# mine", "1 0 0 1 2 3"] == lines[:2] and "2 3 3 2 1 0" == lines[-1]
    assert all(check.ok for check in made.checks) and 5 == len(made.checks)
    with pytest.raises(TargetRefuses, match="slots=16"):
        scope["export"](asked((*IDENTITY, 0, 1)))
