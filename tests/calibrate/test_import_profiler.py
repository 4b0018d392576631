"""Importer of PyTorch profiler traces."""

import gzip
import json

import pytest

from moesim.errors import InputError
from tests.calibrate.importing import import_file, import_text

SEND_RECV = "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)"
ARGS = {
    "Collective name": "all_to_allv",
    "In msg nelems": 1000,
    "Out msg nelems": 1200,
    "Group size": 4,
    "dtype": "BFloat16",
    "In split size": "[1, 2, 3, 4]",
    "Out split size": "[1, 2, ...",
}


def kernel(name=SEND_RECV, dur=812.5, args=ARGS, cat="kernel"):
    return {"ph": "X", "cat": cat, "name": name, "ts": 1.0, "dur": dur, "args": args or {}}


def trace(*events, devices=("NVIDIA H100 80GB HBM3",)):
    return json.dumps(
        {
            "schemaVersion": 1,
            "deviceProperties": [{"id": 0, "name": name} for name in devices],
            "traceEvents": list(events),
        }
    )


def test_a_kernel_with_arguments_is_a_measurement(tmp_path):
    """Bytes = elements x size of the type; splits that were shortened are not kept; CPU operators are passed over."""
    read = import_text(tmp_path, trace(kernel(), kernel(name="record_param_comms", cat="cpu_op")), nodes=2)
    (measurement,) = read.measurements
    assert ("profiler", "all_to_all", 812.5 / 1e6) == (read.format, measurement.operation, measurement.time_s)
    expected = {"hardware": "h100-sxm", "ranks": 4, "nodes": 2, "bytes_per_rank": 2000, "received_bytes": 2400}
    assert expected.items() <= measurement.params.items()
    assert [1, 2, 3, 4] == measurement.params["in_splits"]
    assert "out_splits" not in measurement.params


def test_equal_calls_become_their_median(tmp_path):
    """Three calls with the same arguments: one measurement, median, three repeats; another size is another one."""
    calls = [kernel(dur=dur) for dur in (100.0, 300.0, 110.0)]
    read = import_text(tmp_path, trace(*calls, kernel(dur=9.0, args={**ARGS, "In msg nelems": 8})))
    assert [(110e-6, 3), (9e-6, 1)] == [(m.time_s, m.repeats) for m in read.measurements]


def test_kernels_without_arguments_are_refused(tmp_path):
    """SendRecv kernels without arguments cannot be attributed: the refusal names what to enable."""
    with pytest.raises(InputError, match=r"2 NCCL kernels without arguments .* record_param_comms"):
        import_text(tmp_path, trace(kernel(args=None), kernel(args=None)))
    mixed = import_text(tmp_path, trace(kernel(args=None), kernel()))
    assert (1, 1) == (len(mixed.measurements), mixed.counts["NCCL kernels without arguments left out"])


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        ({"dtype": "Complex"}, "calls of all_to_allv without size, group or known dtype left out"),
        ({"In msg nelems": None}, "calls of all_to_allv without size, group or known dtype left out"),
        ({"In msg nelems": 0, "Out msg nelems": 0}, "zero-size calls left out"),
        ({"Collective name": "broadcast"}, "calls of 'broadcast' left out: not modelled"),
    ],
)
def test_a_call_that_says_too_little_is_counted(tmp_path, change, remark):
    """Unknown dtype, no size, zero size, another collective."""
    read = import_text(tmp_path, trace(kernel(args={**ARGS, **change}), kernel()))
    assert (1, 1) == (len(read.measurements), read.counts[remark])


@pytest.mark.parametrize(
    ("name", "operation", "library"),
    [
        ("void deep_ep::internode::dispatch<true, 8>(int4*)", "dispatch", "deepep-normal"),
        ("void deep_ep::internode_ll::combine<9, 7168>(void*)", "combine", "deepep-ll"),
        ("dispatch_impl<true>(x)", "dispatch", "deepep-v2"),
        ("combine", "combine", "deepep-normal"),
    ],
)
def test_deepep_kernels_are_known_by_name(tmp_path, name, operation, library):
    """They carry no sizes: the options give them, and without them the importer asks."""
    (measurement,) = import_text(
        tmp_path, trace(kernel(name, args=None)), tokens_per_rank=128, hidden=7168
    ).measurements
    assert (operation, library, 128) == (
        measurement.operation,
        measurement.params["library"],
        measurement.params["tokens_per_rank"],
    )
    bare = import_text(tmp_path, trace(kernel(name, args=None), kernel("combine_epilogue_impl<2>()", args=None)))
    assert any("carry no sizes" in remark for remark in bare.remarks)
    assert 1 == len(bare.measurements)


def test_a_cut_trace_keeps_its_complete_events(tmp_path):
    """A trace that breaks off in its second event gives the first; compressed traces are read too."""
    text = trace(kernel(), kernel(dur=5.0, args={**ARGS, "dtype": "Half"}))
    read = import_text(tmp_path, text[: text.rindex("Half")])
    assert [812.5 / 1e6] == [measurement.time_s for measurement in read.measurements]
    assert "the trace is not terminated: 1 complete events kept" in read.remarks
    packed = import_text(tmp_path, gzip.compress(text.encode()), name="t.json.gz")
    assert 2 == len(packed.measurements)


def test_damaged_or_nested_files_are_refused_in_a_sentence(tmp_path):
    """A cut gzip file; brackets nested beyond reason are taken as the end of the trace."""
    with pytest.raises(InputError, match="damaged gzip"):
        import_text(tmp_path, gzip.compress(trace(kernel()).encode() * 50)[:-30], name="t.json.gz")
    nested = '{"schemaVersion": 1, "traceEvents": [' + json.dumps(kernel()) + "," + "[" * 100_000
    assert 1 == len(import_text(tmp_path, nested).measurements)


@pytest.mark.parametrize("dur", [0, -1, "nan", None, 1e40])
def test_a_duration_that_is_no_time_is_left_out(tmp_path, dur):
    """Zero, negative, not a number, absent, absurd."""
    read = import_text(tmp_path, trace(kernel(dur=dur), kernel()))
    assert (1, 1) == (len(read.measurements), read.counts["kernels without a duration left out"])


@pytest.mark.shared
def test_the_sample_trace_is_read(shared_data):
    """The uneven all-to-all of 29,360,128 BFloat16 elements in 812.5 us."""
    (measurement,) = import_file(shared_data / "formats" / "profiler" / "kineto_rank0.json").measurements
    assert (2 * 29360128, 812.5 / 1e6) == (measurement.params["bytes_per_rank"], measurement.time_s)
