"""The benchmark of the network runs, and its table has a line for every target."""

import runpy
import sys

import pytest

from tests.conftest import REPOSITORY


def test_the_network_benchmark_runs_small(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`--smoke` prints the same lines as the full table, with ratios against the plain loop of the same run."""
    monkeypatch.setattr(sys, "argv", ["network.py", "--smoke"])
    runpy.run_path(str(REPOSITORY / "benchmarks" / "network.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line[:44].strip() for line in lines] == [
        "16 skewed hosts, plain loop",
        "16 skewed hosts, exact",
        "16 skewed hosts, tolerance 0.01",
        "32 equal hosts, exact",
        "48 skewed hosts, tolerance 0.01",
        "64 ranks x 1 layers, bound",
        "64 ranks x 1 layers, fluid, tolerance 0.02",
        "64 ranks x 1 layers, fluid, exact",
    ]
    assert "of the plain loop" in lines[1]
