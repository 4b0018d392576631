"""The published tables: readable, named, cited, physical, and consistent with themselves."""

import csv
import functools
from pathlib import Path

import pytest

from calibrate.hardware_names import catalogue_name
from calibrate.import_report import ImportOptions, ImportReport
from calibrate.importers.table import read
from calibrate.link_limit import flag_of
from calibrate.wire_bytes import logical_dispatch_bytes
from moesim.provenance import data_folder

PUBLISHED = data_folder("calibrate/published")
TABLES = sorted(path for path in PUBLISHED.rglob("*.csv") if path.name != "sources.csv")
README = (PUBLISHED / "README.md").read_text()


@functools.cache
def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def imported(path):
    report = ImportReport()
    return list(read(str(path), ImportOptions(), report)), report


def named(path):
    return path.relative_to(PUBLISHED).as_posix()


@pytest.mark.parametrize("path", TABLES, ids=named)
def test_every_row_names_its_source_and_hardware(path):
    """A source that is written out (or a key of sources.csv) and a name of the catalogue."""
    keys = {row["key"] for row in rows_of(PUBLISHED / "silicon" / "sources.csv")}
    for row in rows_of(path):
        assert catalogue_name(row["hardware"]) == row["hardware"]
        assert row["source"] in keys if path.parent.name == "silicon" else len(row["source"]) > 8


@pytest.mark.parametrize("path", TABLES, ids=named)
def test_every_measurement_has_an_id_of_its_own_and_obeys_physics(path):
    """No two rows are the same case of the same source; none is faster than its links."""
    measurements, _ = imported(path)
    assert len(measurements) == len({measurement.id for measurement in measurements})
    assert [] == [m.params for m in measurements if flag_of(m.operation, m.params, m.time_s)]


def test_what_cannot_be_interpreted_is_known():
    """Only rows that publish a bandwidth alone, with a way to count that no source states, are left out."""
    left_out = {named(path): sum(imported(path)[1].counts.values()) for path in TABLES}
    assert {"alltoall.csv": 60, "point_to_point.csv": 12} == {name: n for name, n in left_out.items() if n}


def test_the_readme_counts_the_rows():
    """The table of files in the README states the rows that are there."""
    for path in [*TABLES, PUBLISHED / "silicon" / "sources.csv"]:
        assert f"| `{named(path)}` | {len(rows_of(path)):,} |" in README


def test_rows_that_publish_time_and_bandwidth_agree_with_the_conversion():
    """Logical bytes / published bandwidth = published time, within printing: normal kernels 2.5 %, low latency 3 %."""
    checked = 0
    for row in rows_of(PUBLISHED / "alltoall.csv"):
        low_latency = row["library"].startswith("DeepEP") and "low-latency" in row["library"]
        if not (row["time_us"] and row["algbw_gb_s"] and (low_latency or row["library"] == "UCCL-EP normal")):
            continue
        logical = logical_dispatch_bytes(
            "low_latency" if low_latency else row["fabric"],
            tokens=int(row["tokens_per_rank"]),
            hidden=int(row["hidden"]),
            top_k=int(row["topk"]),
            experts=int(row["num_experts"]),
            ranks=int(row["ep_size"]),
            nodes=int(row["nodes"]),
            dtype="fp8" if row["op"] == "dispatch" else "bf16",
        )
        if logical is not None:
            checked += 1
            predicted = logical / float(row["algbw_gb_s"]) / 1e3
            assert float(row["time_us"]) == pytest.approx(predicted, rel=0.03 if low_latency else 0.025)
    assert 30 <= checked


def test_anomalous_silicon_rows_are_flagged():
    """8 nodes, dispatch, 32 tokens and more of the older DeepEP table, and no others."""
    flagged = [row for row in rows_of(PUBLISHED / "silicon" / "dispatch.csv") if row["flag"]]
    assert {("8", "dispatch", "deepep-normal")} == {(r["nodes"], r["operation"], r["library"]) for r in flagged}
    assert 32 == min(int(row["tokens_per_rank"]) for row in flagged)


def test_the_silicon_extract_ships_its_licence():
    """Apache-2.0 asks for the licence text and a notice of changes beside the data."""
    silicon = PUBLISHED / "silicon"
    assert "Apache License" in (silicon / "LICENSE").read_text()[:200]
    notice = (silicon / "NOTICE").read_text()
    assert all(word in notice for word in ("NVIDIA CORPORATION", "Apache-2.0", "Changes"))


def test_the_tables_are_small():
    """What every wheel carries stays below 2 MB."""
    assert sum(path.stat().st_size for path in PUBLISHED.rglob("*") if path.is_file()) < 2_000_000


HEADER = "tier,source,library,hardware,nodes,gpus_per_node,ep_size,tokens_per_rank,hidden,topk,num_experts,"
HEADER += "dtype_dispatch,dtype_combine,op,bytes_per_rank,time_us,algbw_gb_s,busbw_gb_s,notes\n"
GOOD = "A,me,NCCL 2.30,8xH100 NVLink4,1.0,8.0,8.0,,,,,half,,alltoall,1048576.0,30.5,,,SMs=16\n"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (GOOD.replace("8xH100 NVLink4", "my cluster"), "rows of unknown hardware 'my cluster' left out"),
        (GOOD.replace("NCCL 2.30", "magic"), "rows left out: library 'magic'"),
        (GOOD.replace(",alltoall,", ",gather,"), "rows left out: operation 'gather'"),
        (GOOD.replace("30.5", "nan"), "rows without a positive, finite time left out"),
        (GOOD.replace("30.5", "-3"), "rows without a positive, finite time left out"),
        (GOOD.replace("30.5", ""), "rows left out: only a bandwidth, and how nccl counts its bytes is not known"),
        (GOOD.replace("1048576.0", "1e3x"), "rows left out: missing or bad value"),
        (GOOD.replace(",8.0,8.0,", ",8.0,,"), "rows left out: missing or bad value"),
    ],
)
def test_ones_own_table_may_hold_bad_rows(tmp_path, row, said):
    """Rows that cannot be interpreted are counted with the reason; the good one is read, its SMs from the notes."""
    path = tmp_path / "theirs.csv"
    path.write_text(HEADER + row + GOOD)
    report = ImportReport()
    (measurement,) = list(read(str(path), ImportOptions(), report))
    expected = {
        "hardware": "h100-sxm",
        "library": "nccl",
        "ranks": 8,
        "sms": 16,
        "bytes_per_rank": 1048576,
        "dtype": "fp16",
    }
    assert expected.items() <= measurement.params.items()
    assert [1] == [count for remark, count in report.counts.items() if remark.startswith(said)]


@pytest.mark.shared
def test_the_columns_of_the_reference_table_are_read(shared_data):
    """A file in the form of the reference table is interpreted but for named rows."""
    report = ImportReport()
    path = Path(shared_data / "measured" / "alltoall.csv")
    measurements = list(read(str(path), ImportOptions(), report))
    assert len(rows_of(path)) == len(measurements) + sum(report.counts.values())
    assert len(measurements) > 1000
