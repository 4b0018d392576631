"""The command line as a user meets it: answers, exit statuses, one JSON object, files, refusals without a trace."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from moesim.cli import main
from tests.strategies.scenario import write_scenario


def moesim(*arguments, cwd=None):
    """Run the command in this process, as its entry point does; stdout, stderr and exit status come back."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["moesim", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
    return SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue(), returncode=status)


def answer(*arguments, cwd=None):
    """The one JSON object a command prints with --json."""
    done = moesim(*arguments, "--json", cwd=cwd)
    assert (0, "") == (done.returncode, done.stderr), done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    return write_scenario(tmp_path_factory.mktemp("scenario"))


def test_simulate_answers_with_every_documented_key(scenario):
    """The JSON of `simulate` has the keys of the interface."""
    result = answer("simulate", scenario)
    keys = "step_time_s tokens_per_s_per_device steps layers other_s bottleneck links memory drop_rate network events"
    assert {*keys.split(), "wall_s", "provenance"} <= set(result)
    layer = "layer attention_s dispatch_s experts_s combine_s balancedness fanout_nodes fanout_devices"
    assert {*layer.split(), "drop_rate", "lost_rate", "padding_rate"} == set(result["layers"][0])
    assert {"step", "time_s", "fill"} == set(result["steps"][0])
    assert {"kind", "name", "share"} == set(result["bottleneck"])
    assert {"name", "bytes", "utilization"} == set(result["links"][0])
    assert {"max_device_bytes", "capacity_bytes", "breakdown"} == set(result["memory"])
    assert result["memory"]["max_device_bytes"] == pytest.approx(sum(result["memory"]["breakdown"].values()))
    assert {"fidelity", "tolerance", "error_bound"} == set(result["network"])
    assert [1, 2] == [layer["layer"] for layer in result["layers"]]  # model layer indices: layer 0 is dense


def test_compare_answers_with_every_documented_key(scenario):
    """Runs in the order asked, speedup over contiguous, headroom beside them."""
    result = answer("compare", scenario, "--strategies", "hash,contiguous,longest_first", "--slots", "32")
    assert ["hash", "contiguous", "longest_first"] == [run["strategy"] for run in result["runs"]]
    assert {"strategy", "step_time_s", "balancedness", "fanout_nodes", "plan_s", "speedup"} == set(result["runs"][0])
    assert 1.0 == result["runs"][1]["speedup"]
    assert {"perfect_balance_s", "oracle_s"} == set(result["headroom"])


def test_compare_plans_on_one_window_and_judges_on_another(scenario):
    """--plan-steps and --steps: the judged steps are those simulated."""
    same = answer("compare", scenario, "--strategies", "longest_first", "--plan-steps", "1:2", "--steps", "1:2")
    other = answer("compare", scenario, "--strategies", "longest_first", "--plan-steps", "0:1", "--steps", "1:2")
    assert other["runs"][0]["balancedness"] <= same["runs"][0]["balancedness"]


def test_out_writes_the_report_and_says_where(scenario, tmp_path):
    """report.html, timeline.pftrace and result.json, the folder named on stderr, the answer on stdout."""
    done = moesim("simulate", scenario, "--out", tmp_path / "report")
    assert 0 == done.returncode
    assert {"report.html", "timeline.pftrace", "result.json"} <= {file.name for file in (tmp_path / "report").iterdir()}
    assert str(tmp_path / "report") in done.stderr and "step time" in done.stdout


def test_files_hold_no_wall_clock(scenario, tmp_path):
    """Two runs write the same bytes in every file."""
    for folder in ("one", "two"):
        assert (
            0 == moesim("compare", scenario, "--strategies", "contiguous,hash", "--out", tmp_path / folder).returncode
        )
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_lists_name_what_shows_show():
    """Every listed topology and model can be shown."""
    topologies, models = answer("topology", "list")["topologies"], answer("model", "list")["models"]
    assert "dgx-h100-superpod" in topologies and "deepseek-v3" in models
    shown = answer("topology", "show", "dgx-h100-superpod", "--nodes", "4")
    assert (32, 4) == (shown["devices"], shown["nodes"])
    assert {"links", "bisection_bytes_per_s", "diameter_hops", "sources"} <= set(shown)
    assert 64 == answer("model", "show", "deepseek-v2-lite")["experts"]


@pytest.mark.parametrize(
    ("asked", "devices", "links"),
    [
        (["tpu-v4-pod", "--shape", "4x4x8"], 128, 768),
        (["tpu-v4-pod", "--shape", "4x4x8_twisted"], 128, 768),
        (["v4-256"], 128, 768),
        (["v5p:8x8x16"], 1024, 6144),
        (["v5litepod-16"], 16, 48),
    ],
)
def test_a_torus_is_shown_by_shape_or_by_slice_name(asked, devices, links):
    """`--shape` and TPU slice names give the grid: 6 links a chip in a wrapped cube, 4x4 chips of v5e are a mesh."""
    shown = answer("topology", "show", *asked)
    assert (devices, links) == (shown["devices"], shown["links"])
    assert shown["bisection_bytes_per_s"] > 0 < shown["diameter_hops"]


def test_a_topology_can_be_drawn(tmp_path):
    """--png writes a PNG."""
    assert 0 == moesim("topology", "show", "dgx-h100-superpod", "--nodes", "2", "--png", tmp_path / "c.png").returncode
    assert b"\x89PNG" == (tmp_path / "c.png").read_bytes()[:4]


def test_help_names_every_command():
    """--help is the table of contents."""
    text = moesim("--help").stdout
    for command in ("demo", "simulate", "compare", "trace", "topology", "model"):
        assert command in text


def test_importing_the_package_imports_nothing_heavy():
    """`import moesim` and `moesim --help` stay quick: no numba, pyarrow, pint, matplotlib, simpy."""
    heavy = "numba pyarrow pint matplotlib simpy scipy pydantic jinja2 networkx"
    code = f"import sys, moesim.cli; print([n for n in {heavy.split()!r} if n in sys.modules])"
    assert (
        "[]" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    )


WRONG = {
    "no such scenario": ["simulate", "nowhere.yaml"],
    "scenario is a folder": ["simulate", "."],
    "no such strategy": ["compare", "scenario.yaml", "--strategies", "eplb_globl"],
    "fewer slots than experts": ["compare", "scenario.yaml", "--strategies", "hash", "--slots", "3"],
    "no strategies": ["compare", "scenario.yaml"],
    "window upside down": ["compare", "scenario.yaml", "--strategies", "hash", "--steps", "4:2"],
    "no such model": ["model", "show", "mixtral-9x7b"],
    "no such topology": ["topology", "show", "dgx-h100-superpodd"],
    "a shape given twice": ["topology", "show", "v5p:8x8x16", "--shape", "4x4x8"],
    "a twisted cube": ["topology", "show", "tpu-v4-pod", "--shape", "4x4x4_twisted"],
    "an axis of length 0": ["topology", "show", "tpu-v4-pod", "--shape", "4x0x4"],
    "no nodes": ["topology", "show", "dgx-h100-superpod", "--nodes", "0"],
    "absurdly many nodes": ["topology", "show", "dgx-h100-superpod", "--nodes", "1000000000"],
    "no such trace": ["trace", "inspect", "nowhere.parquet"],
    "not a trace": ["trace", "inspect", "scenario.yaml"],
    "nothing to convert": ["trace", "convert", "nowhere.npz", "out.parquet"],
    "unknown format": ["trace", "convert", "scenario.yaml", "out.parquet", "--format", "tea_leaves"],
    "layers are no list": ["trace", "convert", "scenario.yaml", "out.parquet", "--layers", "one,two"],
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_one_sentence_and_exit_2(tmp_path, arguments):
    """No traceback, nothing on stdout, nothing written."""
    write_scenario(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    done = moesim(*arguments, cwd=tmp_path)
    assert 2 == done.returncode, done.stderr
    assert "Traceback" not in done.stderr and 1 == done.stderr.strip().count("\n") + 1, done.stderr
    assert "" == done.stdout
    assert before == sorted(path.name for path in tmp_path.iterdir())


def test_the_process_ends_with_the_status_of_the_error(tmp_path):
    """`python -m moesim` and the installed command share one entry point."""
    done = subprocess.run(
        [sys.executable, "-m", "moesim", "simulate", "nowhere.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (2, "") == (done.returncode, done.stdout)
    assert "Traceback" not in done.stderr and "nowhere.yaml" in done.stderr


def test_a_misspelt_name_is_answered_with_the_nearest(tmp_path):
    """The next step is in the sentence."""
    write_scenario(tmp_path)
    done = moesim("compare", "scenario.yaml", "--strategies", "eplb_globl", cwd=tmp_path)
    assert "did you mean 'eplb_global'" in done.stderr


def test_a_reader_that_leaves_is_no_error(scenario):
    """`moesim ... | head -1` ends quietly."""
    command = f"{sys.executable} -m moesim model show deepseek-v3 | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "" == done.stderr
