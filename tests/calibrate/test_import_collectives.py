"""Importers of nccl-tests and rccl-tests: tables, JSON, CSV, and the ways such files arrive broken."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.collective_table import is_table
from tests.calibrate.importing import import_file, import_text

RANKS = "".join(
    f"#  Rank {rank:2} Group  0 Pid {4000 + rank} on node{rank // 2} device {rank % 2} [0000:1b:00] {{device}}\n"
    for rank in range(4)
)
HEADER = (
    "#                                                              out-of-place                       in-place\n"
    "#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong\n"
    "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)\n"
)


def table(*rows, collective="alltoall", device="NVIDIA H100 80GB HBM3", header=HEADER):
    """One run: comment lines and rows."""
    return (
        "# nccl-tests version 2.18.0 nccl-headers=22907 nccl-library=22907\n"
        f"# Collective test starting: {collective}_perf\n"
        "# nThread 1 nGpus 1 minBytes 0 maxBytes 4 step: 2(factor) warmup iters: 5 iters: 20\n#\n# Using devices\n"
        + RANKS.format(device=device)
        + header
        + "".join(f"{row}\n" for row in rows)
        + f"# Out of bounds values : 0 OK\n#\n# Collective test concluded: {collective}_perf\n"
    )


ROW = "1048576 131072 float none -1 20.00 52.43 39.32 0 20.50 51.15 38.36 N/A"


def test_a_row_holds_what_the_comments_say(tmp_path):
    """Ranks, nodes and accelerator come from the rank lines, bytes per rank from `size`, the time from out of place."""
    read = import_text(tmp_path, table(ROW))
    (measurement,) = read.measurements
    assert "nccl_tests" == read.format
    assert ("all_to_all", 20e-6) == (measurement.operation, measurement.time_s)
    expected = {
        "hardware": "h100-sxm",
        "library": "nccl",
        "release": "nccl-tests version 2.18.0 nccl-headers=22907 nccl-library=22907",
        "ranks": 4,
        "nodes": 2,
        "ranks_per_node": 2,
        "bytes_per_rank": 1048576,
        "dtype": "fp32",
    }
    assert expected == dict(measurement.params)
    assert {"in_place columns not taken (take = out_of_place)": 1} == read.counts


@pytest.mark.parametrize(
    ("take", "times"), [("out_of_place", [20e-6]), ("in_place", [20.5e-6]), ("both", [20e-6, 20.5e-6])]
)
def test_take_chooses_the_columns(tmp_path, take, times):
    """Out-of-place, in-place or both; in-place measurements say so."""
    measurements = import_text(tmp_path, table(ROW), take=take).measurements
    assert times == [measurement.time_s for measurement in measurements]
    in_place = [measurement.params.get("in_place", False) for measurement in measurements]
    assert [time == 20.5e-6 for time in times] == in_place


def test_each_run_of_a_file_keeps_its_collective(tmp_path):
    """Several collectives in one file; what is not modelled is counted by name; sendrecv is point to point across nodes."""
    runs = [table(ROW, collective=name) for name in ("all_reduce", "broadcast", "sendrecv", "reduce_scatter")]
    read = import_text(tmp_path, "\n".join(runs))
    assert ["all_reduce", "point_to_point", "reduce_scatter"] == [each.operation for each in read.measurements]
    assert ("cross_node", 1048576) == tuple(read.measurements[1].params[name] for name in ("pair_class", "bytes"))
    assert 1 == read.counts["rows left out: collective 'broadcast' is not modelled"]


@pytest.mark.parametrize(
    ("row", "remark"),
    [
        ("0 0 float none -1 0.10 0.00 0.00 0 0.10 0.00 0.00 N/A", "zero-size rows left out"),
        (ROW.replace("20.00", "nan"), "rows without a time (N/A, nan or 0) left out, out_of_place"),
        (ROW.replace("20.00", "N/A"), "rows without a time (N/A, nan or 0) left out, out_of_place"),
        (ROW.replace("39.32 0", "39.32 7"), "rows with wrong results (#wrong > 0) left out"),
        ("1048576 131072 float none", "cut or unreadable rows left out"),
        (ROW.replace("1048576", "9" * 5000), "cut or unreadable rows left out"),
    ],
)
def test_a_row_that_says_nothing_usable_is_counted(tmp_path, row, remark):
    """Zero sizes, times that are no numbers, wrong results, missing cells: left out and told; the good row stays."""
    read = import_text(tmp_path, table(row, ROW))
    assert [20e-6] == [measurement.time_s for measurement in read.measurements]
    assert 1 == read.counts[remark]


@given(st.data())
def test_a_cut_file_keeps_its_complete_rows(tmp_path_factory, data):
    """Wherever a file breaks off, the rows before the break are read as they were, and nothing raises."""
    text = table(*(ROW.replace("1048576", str(2**power)) for power in range(20, 25)))
    cut = text[: data.draw(st.integers(0, len(text)))]
    path = tmp_path_factory.mktemp("cut") / "cut.log"
    path.write_text(cut)
    if not is_table(cut.encode()):
        return
    sizes = [measurement.params["bytes_per_rank"] for measurement in import_file(path).measurements]
    assert [2**power for power in range(20, 25)][: len(sizes)] == sizes
    complete = [line for line in cut.split("\n")[:-1] if line[:1].isdigit()]
    assert len(sizes) in (len(complete), len(complete) + 1)


def test_extra_columns_shift_no_block(tmp_path):
    """Per-iteration columns (-I 1) after each block and a timestamp at the end are passed over."""
    header = (
        "# size count type redop root time algbw busbw #wrong min max p99 cv% time algbw busbw #wrong min max p99 cv%\n"
    )
    row = "1048576 131072 float none -1 20.0 52.4 39.3 0 1 2 3 4 20.5 51.1 38.3 N/A 5 6 7 8 2026-11-22T01:00:00"
    measurements = import_text(tmp_path, table(row, header=header), take="both").measurements
    assert [20e-6, 20.5e-6] == [measurement.time_s for measurement in measurements]


def test_a_blank_out_of_place_block_leaves_the_in_place_time(tmp_path):
    """Trace replay prints the in-place block alone."""
    row = "1048576 131072 float none -1                             20.50 51.15 38.36 N/A"
    assert [20.5e-6] == [each.time_s for each in import_text(tmp_path, table(row), take="in_place").measurements]
    assert [] == import_text(tmp_path, table(row)).measurements


def test_an_unknown_device_is_named_not_guessed(tmp_path):
    """A device without a name in the catalogue stays in `device`; --hardware decides."""
    read = import_text(tmp_path, table(ROW, device="NVIDIA L40S"))
    assert "hardware" not in read.measurements[0].params
    assert "NVIDIA L40S" == read.measurements[0].params["device"]
    assert any("'NVIDIA L40S' has no name in the catalogue" in remark for remark in read.remarks)
    given_name = import_text(tmp_path, table(ROW, device="NVIDIA L40S"), hardware="h100-sxm")
    assert "h100-sxm" == given_name.measurements[0].params["hardware"]


def test_an_amd_device_makes_it_rccl(tmp_path):
    """The same table with Instinct devices is RCCL's."""
    read = import_text(tmp_path, table(ROW, device="AMD Instinct MI300X"))
    assert ("rccl_tests", "rccl", "mi300x") == (
        read.format,
        read.measurements[0].params["library"],
        read.measurements[0].params["hardware"],
    )


def results_json(results, tail="]}"):
    """The JSON of `-J`, its end as given."""
    head = {
        "version": 3,
        "args": ["./alltoall_perf", "-J", "o.json"],
        "nccl_version": 22907,
        "config": {"devices": [{"rank": r, "hostname": "n1", "device_info": "NVIDIA H200"} for r in range(8)]},
    }
    return json.dumps(head)[:-1] + ', "results": [' + ",".join(json.dumps(result) for result in results) + tail


RESULT = {
    "size": 1048576,
    "type": "half",
    "root": "    -1",
    "out_of_place": {"time": 20.0, "nwrong": 0},
    "in_place": None,
    "experiment_name": "alltoall_perf",
}


def test_terminated_json_is_read_whole(tmp_path):
    """Hosts, devices and results of a complete file; a null block is passed over."""
    (measurement,) = import_text(tmp_path, results_json([RESULT])).measurements
    assert {"hardware": "h200-sxm", "ranks": 8, "nodes": 1, "dtype": "fp16"}.items() <= measurement.params.items()
    assert "nccl-library=22907" == measurement.params["release"]


@pytest.mark.parametrize(
    "tail", ["", ',{"size": 2097152, "type"', ",", ',{"size": 2097152, "out_of_place": {"time": 3']
)
def test_unterminated_json_keeps_its_complete_rows(tmp_path, tail):
    """A crashed run's file is read up to its last whole result, and says how many there were."""
    read = import_text(tmp_path, results_json([RESULT, RESULT], tail=tail))
    assert [20e-6, 20e-6] == [measurement.time_s for measurement in read.measurements]
    assert "the file is not terminated: 2 complete rows kept" in read.remarks


def test_json_nan_and_cpu_times_are_left_out(tmp_path):
    """NaN is the text "nan" there; a CPU time is no device time."""
    no_number = {**RESULT, "out_of_place": {"time": "nan", "nwrong": 0}}
    on_cpu = {**RESULT, "out_of_place": {"cpu_time": 20.0, "nwrong": 0}}
    read = import_text(tmp_path, results_json([no_number, on_cpu, RESULT]))
    assert 1 == len(read.measurements)
    assert 1 == read.counts["rows with CPU times only (-C 1) left out"]


CSV = (
    "numCycle,collective,nodes,ranks,ranksPerNode,gpusPerRank,size,type,redop,inplace,time,algbw,busbw,#wrong\n"
    '1,"AllToAll",2,16,8,1,0,"float","none",0,0.1,0.0,0.0,"0"\n'
    '1,"AllToAll",2,16,8,1,1048576,"float","none",0,21.5,48.77,45.72,"0"\n'
    '1,"AllToAll",2,16,8,1,1048576,"float","none",1,21.9,47.88,44.89,"N/A"\n'
    '1,"ReduceScatter",2,16,8,1,1048576,"bfloat16","sum",0,30.0,1.0,1.0,"0"\n'
    '1,"AllToAll",2,16,8,1,10'
)


def test_rccl_csv_is_read_up_to_its_cut(tmp_path):
    """CSV of the reporter: quoted cells, zero-size rows, in-place rows, a last row without its end."""
    read = import_text(tmp_path, CSV, name="x.csv", hardware="mi300x")
    assert ["all_to_all", "reduce_scatter"] == [measurement.operation for measurement in read.measurements]
    assert {"hardware": "mi300x", "ranks": 16, "nodes": 2, "library": "rccl"}.items() <= read.measurements[
        0
    ].params.items()
    assert 1 == read.counts["zero-size rows left out"]
    assert 1 == read.counts["cut or unreadable rows left out"]


def test_rccl_csv_without_mpi_has_gpus_alone(tmp_path):
    """A build without MPI prints `gpus` in the place of nodes and ranks."""
    columns = "numCycle,collective,gpus,size,type,redop,inplace,time,algbw,busbw,#wrong"
    text = columns + '\n1,"AllReduce",8,64,"float","sum",0,9.5,1,1,"0"\n'
    (measurement,) = import_text(tmp_path, text).measurements
    assert {"ranks": 8, "nodes": 1, "ranks_per_node": 8}.items() <= measurement.params.items()


def test_rccl_json_is_read_up_to_its_cut(tmp_path):
    """An array of flat objects, broken off in the third."""
    row = {"numCycle": 1, "name": "AllToAll", "nodes": 1, "ranks": 8, "ranksPerNode": 8, "gpusPerRank": 1, "size": 64}
    row |= {"type": "float", "inPlace": 0, "time": 21.5, "busBw": 1.0, "wrong": "0"}
    read = import_text(tmp_path, "[\n" + ",\n".join([json.dumps(row)] * 2) + ',\n{"numCycle": 1, "na')
    assert ("rccl_tests", [21.5e-6] * 2) == (read.format, [measurement.time_s for measurement in read.measurements])
    assert "the file is not terminated: 2 complete rows kept" in read.remarks


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("formats/nccl_tests/alltoall_perf.txt", 3),
        ("formats/nccl_tests/alltoall_perf.json", 2),
        ("formats/rccl_tests/alltoall.csv", 1),
        ("formats/rccl_tests/alltoall.json", 1),
    ],
)
def test_sample_files_are_read(shared_data, name, rows):
    """One measurement a row, out of place."""
    assert rows == len(import_file(shared_data / name).measurements)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "ranks", "nodes"), [("h100_1node_8gpu.log", 8, 1), ("h100_2node_16gpu.log", 16, 2)])
def test_complete_logs_of_several_collectives_are_read(shared_data, name, ranks, nodes):
    """Every number row of a real log becomes a measurement whose bus bandwidth is the printed one."""
    path = shared_data / "measured" / "nccl_tests" / name
    rows = [line.split() for line in path.read_text().splitlines() if line.split() and line.split()[0].isdecimal()]
    measurements = import_file(path).measurements
    assert len(rows) == len(measurements)
    for row, measurement in zip(rows, measurements, strict=True):
        assert {"hardware": "h100-sxm", "ranks": ranks, "nodes": nodes}.items() <= measurement.params.items()
        assert float(row[5]) == pytest.approx(measurement.time_s * 1e6)
        if measurement.operation == "all_to_all":
            algbw = measurement.params["bytes_per_rank"] / measurement.time_s / 1e9
            assert float(row[7]) == pytest.approx(algbw * (ranks - 1) / ranks, rel=2e-3)
