"""Probes on a CPU: they measure, refuse what they cannot run, resume, and need nothing of moesim."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from calibrate.__main__ import main as command  # noqa: E402
from calibrate.blocks import check_received, mark, poisoned  # noqa: E402
from calibrate.measurement import read_measurements  # noqa: E402
from calibrate.probes import expert_gemm, list_probes, load_probe  # noqa: E402
from calibrate.probes.all_to_all import skewed_matrix  # noqa: E402
from calibrate.timing import Operation, ProbeFailed, buffer_sets, time_operation, wrong  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bare_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a copy of `calibrate/` and a module `moesim` that cannot be imported."""
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(REPOSITORY / "calibrate", folder / "calibrate", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "moesim.py").write_text("raise ImportError('moesim is not on this machine')\n")
    return folder


def run(folder: Path, *arguments: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    """`python -m calibrate run` in `folder`, under torchrun for several ranks."""
    start = [sys.executable, "-m"]
    if ranks > 1:
        start += ["torch.distributed.run", "--nproc-per-node", str(ranks), "-m"]
    return subprocess.run(
        [*start, "calibrate", "run", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_two_ranks_measure_every_collective(bare_copy: Path) -> None:
    """In a bare copy, two gloo ranks measure all-to-all, equal and uneven, and the other collectives; times are sane."""
    names = "point_to_point,all_to_all,all_gather,reduce_scatter,all_reduce,overlap"
    done = run(bare_copy, "--out", "two.jsonl", "--effort", "quick", "--budget", "0.001", "--probes", names, ranks=2)
    assert done.returncode == 0, done.stderr
    file = read_measurements(bare_copy / "two.jsonl")
    assert not file.damaged and not file.skipped and len(file.environments) == 1
    assert {"point_to_point", "all_to_all", "all_gather", "reduce_scatter", "all_reduce", "overlap"} == {
        row.operation for row in file.measurements
    }
    for row in file.measurements:
        assert row.params["ranks"] == 2 and row.params["library"] == "gloo"
        assert row.quantiles is not None and 0 < row.quantiles["p10"] <= row.time_s <= row.quantiles["p90"]
    uneven = [row for row in file.measurements if str(row.params.get("distribution")).startswith("power_law")]
    assert uneven and all(np.shape(row.params["send_bytes"]) == (2, 2) for row in uneven)


def test_a_killed_run_is_resumed(bare_copy: Path) -> None:
    """A run whose file lost its last lines measures only those again, and ends the line that was cut off."""
    options = ("--effort", "quick", "--budget", "0.001", "--probes", "launch,copy")
    path = bare_copy / "one.jsonl"
    assert run(bare_copy, "--out", "one.jsonl", *options).returncode == 0
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]) + lines[-2][:40])
    again = run(bare_copy, "--out", "one.jsonl", *options)
    assert again.returncode == 0
    assert "2 measurements written" in again.stderr
    file = read_measurements(path)
    assert len(file.measurements) == len(lines) - 1
    assert len(file.damaged) == 1


def test_one_rank_says_why_it_cannot_time_a_collective(bare_copy: Path) -> None:
    """A probe that needs more ranks is skipped with the command that would run it; the others go on."""
    out = "alone.jsonl"
    done = run(bare_copy, "--out", out, "--effort", "quick", "--budget", "0.001", "--probes", "all_to_all,launch")
    assert done.returncode == 0
    rows = [json.loads(line) for line in (bare_copy / out).read_text().splitlines()]
    assert ["environment" in rows[0], "torchrun" in rows[1]["skipped"]["reason"], rows[2]["probe"]] == [
        True,
        True,
        "launch",
    ]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--out", "x.jsonl", "--probes", "warp"), "no probe is called 'warp'"),
        (("--out", "x.jsonl", "--probes", ","), "--probes names none"),
        (("--out", "missing/x.jsonl"), "does not exist"),
        (("--out", "x.jsonl", "--budget", "nan"), "--budget must be above 0"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    """Exit 2 and one line that names the option and what it may be."""
    monkeypatch.chdir(tmp_path)
    assert command(["run", *arguments]) == 2
    said = capsys.readouterr().err
    assert part in said and said.count("\n") == 1


@pytest.fixture(scope="module")
def machine():
    """This process alone on its CPU."""
    from calibrate.machine import open_machine

    return open_machine("cpu-of-the-test")


@pytest.mark.parametrize("name", list_probes())
def test_cases_are_unique_and_can_be_written(name: str, machine) -> None:
    """No two cases of a probe have the same parameters, and parameters survive JSON: the id names one case."""
    probe = load_probe(name)
    four = replace(machine, ranks=4, ranks_per_node=2, backend="gloo")
    cases = [json.dumps(params, sort_keys=True) for _, params in probe.cases(four, "full")]
    assert len(cases) == len(set(cases)) > 0
    assert probe.__doc__


@pytest.mark.parametrize("kernel", ["torch-loop", "torch-batched", "torch-grouped"])
def test_expert_kernels_agree_with_double_precision(machine, kernel: str) -> None:
    """Every kernel passes the check against the MLP in double precision, and the check fails on a wrong output."""
    params = {
        "kernel": kernel, "groups": 3, "tokens_per_group": 5, "d_model": 64, "d_ff": 32, "dtype": "bf16",
        "distribution": "balanced",
    }  # fmt: skip
    operation = expert_gemm.prepare(machine, params)
    operation.run(0)
    assert wrong(operation) == ""


def test_a_wrong_output_is_noticed(machine) -> None:
    """Blocks that were sent pass; a poisoned buffer, or two senders' blocks exchanged, do not."""
    four = replace(machine, ranks=4, rank=2)
    received = torch.cat([torch.full((3,), mark(source, 2), dtype=torch.uint8) for source in range(4)])
    check_received(four, received, [3] * 4, "all-to-all")
    with pytest.raises(ProbeFailed, match="rank 2 did not receive what rank 0 sent"):
        check_received(four, poisoned(four, 12), [3] * 4, "all-to-all")
    with pytest.raises(ProbeFailed, match="rank 0"):
        check_received(four, received.flip(0), [3] * 4, "all-to-all")


def test_times_are_ordered_and_within_the_repeats(machine) -> None:
    """An operation of known length is timed at no less than that length; quantiles are in order."""
    import time

    times = time_operation(machine, Operation(lambda _: time.sleep(0.002), lambda: None), budget_s=0.02)
    assert 0.002 <= times.p10_s <= times.median_s <= times.p90_s
    assert 7 <= times.repeats <= 200


def test_rotated_buffers_exceed_the_cache(machine) -> None:
    """Buffer sets together are larger than twice the cache unless 64 sets or the memory end them earlier."""
    count = buffer_sets(machine, machine.cache_bytes // 8)
    assert count * (machine.cache_bytes // 8) > 2 * machine.cache_bytes
    assert buffer_sets(machine, 1) == 64


@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.2])
def test_power_law_sizes_sum_to_the_tokens(exponent: float) -> None:
    """Group sizes never lose a token, never grow with rank, and are equal at exponent 0."""
    sizes = expert_gemm.power_law(16, 37, exponent)
    assert sum(sizes) == 16 * 37
    assert sizes == sorted(sizes, reverse=True)
    assert exponent or set(sizes) == {37}


def test_the_skewed_matrix_is_what_its_seed_says() -> None:
    """Rows sum to at most the mean bytes and fall short by less than a byte a block; the same seed, the same matrix."""
    matrix = skewed_matrix(8, 100_000, 1.0, 0)
    assert np.array_equal(matrix, skewed_matrix(8, 100_000, 1.0, 0))
    rows = matrix.sum(axis=1)
    assert (rows <= 100_000).all() and (rows > 100_000 - 8).all()
    shares = matrix.sum(axis=0) / matrix.sum()
    assert shares.max() > 2 / 8 and math.isclose(shares.sum(), 1.0)
