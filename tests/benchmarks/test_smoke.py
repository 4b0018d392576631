"""Every benchmark runs in its smoke mode, so that none rots between the occasions it is timed."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BENCHMARKS = sorted((REPOSITORY / "benchmarks").glob("[a-z]*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_the_benchmark_runs_small(path):
    """--smoke ends well and prints something."""
    done = subprocess.run(
        [sys.executable, str(path), "--smoke"], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert 0 == done.returncode, done.stderr
    assert done.stdout.strip()
