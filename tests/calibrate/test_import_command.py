"""moesim calibrate import and python -m calibrate import: answers, files, refusals."""

import json
import subprocess
import sys

import pytest

from calibrate.__main__ import main as calibrate
from calibrate.import_logs import import_logs
from calibrate.import_report import ImportOptions
from calibrate.measurement import read_measurements
from moesim.errors import InputError, UnknownName
from tests.calibrate.test_import_collectives import ROW, table
from tests.cli.test_commands import answer, moesim


@pytest.fixture
def log(tmp_path):
    """A file of one run with two rows."""
    path = tmp_path / "a.log"
    path.write_text(table(ROW, ROW.replace("1048576", "2097152")))
    return path


def test_what_is_written_is_what_was_read(log, tmp_path):
    """The JSON Lines file gives back every measurement; importing twice gives the same bytes."""
    out, again = tmp_path / "m.jsonl", tmp_path / "n.jsonl"
    told = answer("calibrate", "import", log, "--out", out)
    import_logs([str(log)], again)
    assert (2, 0, [], None) == tuple(told[key] for key in ("measurements", "flagged", "curves", "profile"))
    assert [{"source": str(log), "format": "nccl_tests", "measurements": 2}] == [
        {key: each[key] for key in ("source", "format", "measurements")} for each in told["sources"]
    ]
    file = read_measurements(out)
    assert ([], 2, {"a.log"}) == (list(file.damaged), len(file.measurements), set(file.environments))
    assert [1048576, 2097152] == [measurement.params["bytes_per_rank"] for measurement in file.measurements]
    assert out.read_bytes() == again.read_bytes()


def test_both_commands_say_the_same(log, tmp_path, capsys):
    """python -m calibrate import answers as moesim calibrate import does, in JSON and in words."""
    out = tmp_path / "m.jsonl"
    for last in (["--json"], []):
        done = moesim("calibrate", "import", log, "--out", out, *last)
        assert 0 == calibrate(["import", str(log), "--out", str(out), *last])
        assert done.stdout == capsys.readouterr().out


def test_a_case_measured_twice_is_kept_twice(log, tmp_path):
    """The same case in two sources of one name gets a repeat number, so that no measurement replaces another."""
    other = tmp_path / "again"
    other.mkdir()
    (other / "a.log").write_bytes(log.read_bytes())
    import_logs([str(log), str(other / "a.log")], tmp_path / "m.jsonl")
    measurements = read_measurements(tmp_path / "m.jsonl").measurements
    assert [None, None, 2, 2] == [measurement.params.get("repeat") for measurement in measurements]


def test_rows_faster_than_the_link_are_flagged_and_kept(tmp_path):
    """512 MiB among 4 H100 of 2 nodes cannot take 20 us: the row stays, with the reason."""
    path = tmp_path / "fast.log"
    path.write_text(table(ROW.replace("1048576", "536870912"), ROW.replace("1048576", "1024")))
    told = import_logs([str(path)], tmp_path / "m.jsonl")
    assert (2, 1) == (told["measurements"], told["flagged"])
    flags = [m.params.get("flag") for m in read_measurements(tmp_path / "m.jsonl").measurements]
    assert flags[0].startswith("faster than its links: 20 us")
    assert None is flags[1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file"),
        ("", "is empty"),
        ("hello\n", "is none of aiconfigurator, deepep, nccl_tests, profiler, rccl_tests, table"),
        (table("0 0 float none -1 0.1 0 0 0 0.1 0 0 N/A"), "holds no usable measurement: zero-size rows left out"),
        (b"\x80\x04\x95\x10\x00", "is none of"),  # a pickle is not opened
    ],
)
def test_a_file_without_measurements_is_refused(tmp_path, content, said):
    """One sentence, exit status 2, and no file left behind."""
    path, out = tmp_path / "x.log", tmp_path / "m.jsonl"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = moesim("calibrate", "import", path, "--out", out)
    assert (2, "") == (done.returncode, done.stdout)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert [] == [each.name for each in tmp_path.iterdir() if each.name.startswith("m.jsonl")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hardware": "h99"}, "'h99' is not in the catalogue"),
        ({"ranks": 0}, "ranks 0 is outside"),
        ({"ranks": 8, "nodes": 3}, "ranks 8 is not a multiple of nodes 3"),
        ({"take": "all"}, "take 'all' is not one of"),
    ],
)
def test_options_that_mean_nothing_are_refused(log, tmp_path, options, said):
    """Names and numbers are checked before anything is read."""
    with pytest.raises(InputError, match=said):
        import_logs([str(log)], tmp_path / "m.jsonl", options=ImportOptions(**options))


def test_the_output_is_no_source_and_needs_its_folder(log, tmp_path):
    """A log is never overwritten; a folder is not made up; an unknown format is named."""
    with pytest.raises(InputError, match="is a source of this import"):
        import_logs([str(log)], log)
    with pytest.raises(InputError, match="does not exist"):
        import_logs([str(log)], tmp_path / "no" / "m.jsonl")
    with pytest.raises(UnknownName, match="nccl_tests"):
        import_logs([str(log)], tmp_path / "m.jsonl", format="nccl_test")


def test_python_m_calibrate_lists_its_commands(tmp_path):
    """Without a command it says which there are, on stderr and with status 2; heavy imports wait for the command."""
    command = [sys.executable, "-m", "calibrate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 2 == done.returncode
    assert all(name in done.stderr for name in ("run", "import", "fit"))
    probe = "import calibrate.__main__, sys; print(sorted({'torch', 'numpy', 'moesim'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()


@pytest.mark.shared
def test_every_sample_is_imported_together(shared_data, tmp_path):
    """All sample logs and two real ones in one call: nothing is damaged, every id is another."""
    formats = shared_data / "formats"
    sources = [
        formats / "nccl_tests" / "alltoall_perf.json",
        formats / "nccl_tests" / "alltoall_perf.txt",
        formats / "rccl_tests" / "alltoall.csv",
        formats / "rccl_tests" / "alltoall.json",
        formats / "deepep" / "test_intranode.log",
        formats / "deepep" / "test_low_latency.log",
        formats / "profiler" / "kineto_rank0.json",
        *sorted((shared_data / "measured" / "nccl_tests").glob("*.log")),
    ]
    told = answer("calibrate", "import", *sources, "--out", tmp_path / "m.jsonl")
    file = read_measurements(tmp_path / "m.jsonl")
    assert ((), told["measurements"], 0) == (file.damaged, len(file.measurements), told["flagged"])
    assert all(json.dumps(dict(measurement.params)) for measurement in file.measurements)
