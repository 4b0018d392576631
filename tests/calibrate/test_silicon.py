"""Importer of aiconfigurator-core's silicon tables; skipped where the extra `silicon` is not installed."""

import csv
import importlib.util

import pytest

from calibrate import silicon_extract
from calibrate.import_logs import import_logs
from calibrate.import_report import ImportOptions, ImportReport
from calibrate.importers import aiconfigurator
from calibrate.link_limit import flag_of
from moesim.errors import InputError, UnknownName

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("aiconfigurator_core") is None, reason="the extra silicon is not installed"
)


def read(source):
    report = ImportReport()
    return list(aiconfigurator.read(source, ImportOptions(), report)), report


def test_nccl_sizes_are_bytes_not_elements():
    """256 half-precision elements are 512 bytes; times are seconds; none beats its links."""
    measurements, _ = read("aiconfigurator:h100_sxm/comm/nccl/2.29.2")
    smallest = min(m.params["bytes_per_rank"] for m in measurements if m.params["dtype"] == "fp16")
    assert 512 == smallest
    assert 5.04e-6 == pytest.approx(min(m.time_s for m in measurements), rel=0.1)
    assert [] == [m for m in measurements if flag_of(m.operation, m.params, m.time_s)]


def test_expert_rows_have_all_experts_on_the_device():
    """moe_perf rows with more than one rank are left out and counted; d_ff has tensor parallelism divided out."""
    measurements, report = read("aiconfigurator:a100_sxm/moe/vllm/0.14.0")
    assert 3060 == len(measurements)
    assert 3300 == sum(report.counts.values())
    assert all(m.params["groups"] == m.params["experts"] for m in measurements)
    mixtral = {m.params["d_ff"] for m in measurements if (m.params["d_model"], m.params["experts"]) == (4096, 8)}
    assert {14336 // tp for tp in (1, 2, 4, 8, 16, 32)} >= mixtral > {14336}


def test_the_extract_is_what_the_package_holds():
    """Rows of the committed extract are rows of the installed tables, to the digits written."""
    measurements, _ = read("aiconfigurator:gb200/comm/trtllm/1.3.0rc10")
    times = {
        (m.params["library"], m.operation, m.params["dtype"], m.params["ranks"], m.params["tokens_per_rank"]): m.time_s
        * 1e6
        for m in measurements
    }
    checked = 0
    with open(silicon_extract.FOLDER / "dispatch.csv", newline="") as file:
        for row in csv.DictReader(file):
            if not row["library"].startswith("trtllm"):
                continue
            case = (row["library"], row["operation"], row["dtype"], int(row["ranks"]), int(row["tokens_per_rank"]))
            assert float(row["time_us"]) == pytest.approx(times[case], rel=1e-5)
            checked += 1
    assert checked > 500


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("aiconfigurator:h20_sxm", UnknownName, "h200_sxm"),
        ("aiconfigurator:l40s", InputError, "give --hardware"),
        ("aiconfigurator:h100_sxm/nothing", InputError, "holds none of the tables"),
        ("aiconfigurator:h100_sxm/../..", InputError, "leaves the folder"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(tmp_path, source, error, said):
    """Unknown systems, systems without a catalogue name, folders that are not there or outside."""
    with pytest.raises(error, match=said):
        import_logs([source], tmp_path / "m.jsonl")
