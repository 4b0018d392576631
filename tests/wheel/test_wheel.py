"""The built wheel, alone in a fresh virtual environment: data, templates and commands are all inside it."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from moesim.cli.demo import SCENARIO

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def command(wheel, tmp_path_factory):
    """`moesim` of a fresh environment that holds the wheel; its dependencies are looked up in ours.

    Only the folder of our packages is shared, by a .pth file: the editable moesim of this checkout is not found by it.
    """
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False)
    packages = next(folder.glob("lib/python*/site-packages"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", packages, wheel],
        check=True,
    )
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return [str(folder / "bin" / "python"), "-m", "moesim"]


def run(command, *arguments, cwd):
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def test_the_wheel_holds_every_fact_and_template(wheel):
    """topologies, models, traces, profiles, published measurements, report templates, the demo scenario and the licence."""
    names = set(zipfile.ZipFile(wheel).namelist())
    for drawer, pattern in (("topologies", "**/*.yaml"), ("models", "*.yaml"), ("traces", "*.parquet")):
        files = [path.relative_to(REPOSITORY) for path in (REPOSITORY / drawer).glob(pattern)]
        assert files
        assert {f"moesim/data/{path.as_posix()}" for path in files} <= names
    assert "moesim/data/calibrate/profiles/datasheet.json" in names
    published = [
        path.relative_to(REPOSITORY) for path in (REPOSITORY / "calibrate/published").rglob("*") if path.is_file()
    ]
    assert published
    assert {f"moesim/data/{path.as_posix()}" for path in published} <= names
    assert "calibrate/importers/nccl_tests.py" in names
    assert not any(name.startswith(("calibrate/published", "calibrate/profiles")) for name in names)
    assert {
        "moesim/report/templates/report.html",
        "moesim/report/templates/report.css",
        "moesim/cli/demo.yaml",
    } <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_demos_comparison_runs_from_the_wheel(command, tmp_path):
    """Model, topology, profile and trace are found by name; report, plan and timeline appear in the working folder."""
    (tmp_path / "demo.yaml").write_text(SCENARIO.read_text())  # fewer placements: kernels are compiled for this folder
    placements = ("--strategies", "contiguous,longest_first")
    done = run(command, "compare", "demo.yaml", *placements, "--out", "out", "--plan-out", "plan.json", cwd=tmp_path)
    assert 0 == done.returncode, done.stderr
    assert "contiguous" in done.stdout and "longest_first" in done.stdout and "h100-sxm" in done.stdout
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "timeline.pftrace", "result.json"} <= written
    exported = run(command, "export", "plan.json", "--to", "sglang", "--out", "location.json", cwd=tmp_path)
    assert 0 == exported.returncode, exported.stderr
    assert (tmp_path / "location.json").is_file()
