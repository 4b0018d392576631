"""Importer of DeepEP's test logs."""

import pytest

from calibrate.wire_bytes import logical_dispatch_bytes
from tests.calibrate.importing import import_file, import_text

INTRANODE = """[config] num_tokens=4096, hidden=7168, num_topk=8
[layout] Kernel performance: 0.031 ms

[tuning] SMs 24, NVL chunk 8: 140.12 GB/s (NVL), 400.00 us
[tuning] Best dispatch (FP8): SMs 24, NVL chunk 12, 150.50 GB/s (NVL), t: 372.40 us
[tuning] Best dispatch (BF16): SMs 24, NVL chunk 12, 160.50 GB/s (NVL), t: 700.40 us
[tuning] Best combine: SMs 20, NVL chunk 6: 152.10 GB/s (NVL), t: 715.90 us
"""


def test_intranode_logs_give_the_best_configurations(tmp_path):
    """FP8 and BF16 dispatch and combine with their SMs; a tuning step is no result."""
    read = import_text(tmp_path, INTRANODE, hardware="h800-sxm")
    assert "deepep" == read.format
    told = [(m.operation, m.params["dtype"], m.params["sms"], m.time_s) for m in read.measurements]
    assert [
        ("dispatch", "fp8", 24, 372.4 / 1e6),
        ("dispatch", "bf16", 24, 700.4 / 1e6),
        ("combine", "bf16", 20, 715.9 / 1e6),
    ] == told
    shape = {"hardware": "h800-sxm", "ranks": 8, "nodes": 1, "tokens_per_rank": 4096, "hidden": 7168, "top_k": 8}
    assert all(shape.items() <= measurement.params.items() for measurement in read.measurements)
    assert 1 == read.counts["tuning steps not taken (only the best of each)"]


@pytest.mark.parametrize(
    "line",
    [
        "SMs 24, NVL chunk 20, RDMA chunk 28, NOTIFY + 1404.03 us, 43.00 GB/s (RDMA), 140.00 GB/s (NVL)",
        "SMs 24, NVL chunk 20, RDMA chunk 28, 33 + 1404.03 us, 43.00 GB/s (RDMA), 140.00 GB/s (NVL)",
        "SMs 24, NVL chunk 20, RDMA chunk 28, transmit: 1404.03 us, notify: 33.00 us, BW: 43.00 GB/s (RDMA), 140 GB/s (NVL)",
    ],
)
def test_internode_logs_keep_notify_apart(tmp_path, line):
    """The time excludes notify, which is kept beside it; two nodes are found from the RDMA bytes."""
    text = f"[config] num_tokens=4096, hidden=7168, num_topk=8\n[tuning] Best dispatch (FP8): {line}\n"
    (measurement,) = import_text(tmp_path, text).measurements
    assert 1404.03 / 1e6 == measurement.time_s
    assert {"nodes": 2, "ranks": 16, "topk_groups": 2}.items() <= measurement.params.items()
    if "33" in line:
        assert 33e-6 == measurement.params["notify_s"]


def test_a_bandwidth_without_a_time_needs_the_nodes(tmp_path):
    """Older tests printed no time: it is logical bytes / bandwidth once --nodes is given, else the row is left out."""
    text = (
        "[config] num_tokens=4096, hidden=7168, num_topk=8\n"
        "[tuning] Best dispatch (FP8): SMs 24, NVL chunk 8, RDMA chunk 16: 43.00 GB/s (RDMA), 140.00 GB/s (NVL)\n"
    )
    (measurement,) = import_text(tmp_path, text, nodes=2).measurements
    shape = {"tokens": 4096, "hidden": 7168, "top_k": 8, "experts": 256, "ranks": 16, "nodes": 2, "dtype": "fp8"}
    assert logical_dispatch_bytes("rdma", **shape) / 43e9 == pytest.approx(measurement.time_s)
    assert "logical bytes of rdma / 43 GB/s" in str(measurement.derived_from)
    read = import_text(tmp_path, text)
    assert [] == read.measurements
    assert any("give --nodes" in remark for remark in read.remarks)


LOW_LATENCY = (
    "[rank {rank}] Dispatch bandwidth: {rate:.2f} GB/s, avg_t={time} us"
    " | Combine bandwidth: 98.10 GB/s, avg_t=148.20 us\n"
)


def test_low_latency_ranks_become_their_median(tmp_path):
    """Four ranks' times give one measurement an operation: median, 10th and 90th percentile, four repeats."""
    rows = (
        LOW_LATENCY.format(rank=rank, rate=7495 / time, time=time)
        for rank, time in enumerate((70.0, 80.0, 90.0, 100.0))
    )
    dispatch, combine = import_text(tmp_path, "".join(rows)).measurements
    assert ("dispatch", 85e-6, 4) == (dispatch.operation, dispatch.time_s, dispatch.repeats)
    assert dispatch.quantiles["p10"] == pytest.approx(73e-6)
    assert ("combine", 148.2 / 1e6, "bf16") == (combine.operation, combine.time_s, combine.params["dtype"])
    assert {"ranks": 4, "tokens_per_rank": 128, "hidden": 7168}.items() <= dispatch.params.items()


def test_low_latency_with_other_bytes_wants_its_shape(tmp_path):
    """Bytes that are not those of the test's defaults are not given the defaults; the options say the shape."""
    text = LOW_LATENCY.format(rank=0, rate=47.0, time=78.9)
    read = import_text(tmp_path, text)
    assert [] == read.measurements
    assert any("give --tokens-per-rank" in remark for remark in read.remarks)
    dispatch, _ = import_text(tmp_path, text, tokens_per_rank=64, hidden=7168, top_k=8, experts=256).measurements
    assert {"tokens_per_rank": 64, "experts": 256}.items() <= dispatch.params.items()


def test_a_setting_in_the_row_separates_the_rows(tmp_path):
    """Tests that print their setting in every row give one measurement a setting."""
    rows = "".join(
        f"[rank 0] num_tokens={tokens}, hidden=7168, num_experts=256, num_topk=8, return_recv_hook=False "
        f"Dispatch bandwidth: 9.0 GB/s, avg_t={tokens + 50} us | Combine bandwidth: 9.0 GB/s, avg_t={tokens + 90} us\n"
        for tokens in (16, 128)
    )
    told = [(m.operation, m.params["tokens_per_rank"], m.time_s) for m in import_text(tmp_path, rows).measurements]
    assert [
        ("dispatch", 16, 66e-6),
        ("combine", 16, 106e-6),
        ("dispatch", 128, 178e-6),
        ("combine", 128, 218e-6),
    ] == told


ELASTIC = """Config:
 > Ranks: 2 x 8
 > Experts: 8/256
 > Tokens: 4095 (max: 4096), hidden: 7168
 > #SM: 24, #QPs: 12/24

Running all test cases:
 > Testing with expert_alignment=128, use_fp8_dispatch=1, num_bias=0 ...
   * EP:   0/16 | dispatch: 61 GB/s (SO), 90 GB/s (SU), 700.000 us, 100000 bytes | copy: 900 GB/s, 50.000 us
   * EP:   8/16 | dispatch: 61 GB/s (SO), 90 GB/s (SU), 710.000 us, 100000 bytes | copy: 900 GB/s, 50.000 us
   - EP:   0/16 | expanded dispatch: 61 GB/s (SO), 90 GB/s (SU), 720.000 us, 100000 bytes | copy: 900 GB/s, 50.000 us
   @ EP:   0/16 | combine: 61 GB/s (SO), 90 GB/s (SU), 1300.000 us, 100000 bytes | reduce: 900 GB/s, 60.000 us
   + EP:   0/16 | reduced combine: 61 GB/s (SO), 90 GB/s (SU), nan us, 100000 bytes
"""


def test_elastic_logs_say_their_setting(tmp_path):
    """V2: ranks, shape and SMs from the Config block, FP8 from the case, variants marked, NaN left out."""
    read = import_text(tmp_path, ELASTIC)
    told = [(m.operation, m.params["dtype"], m.params.get("variant"), m.time_s) for m in read.measurements]
    assert [
        ("dispatch", "fp8", None, 705e-6),
        ("dispatch", "fp8", "expanded", 720e-6),
        ("combine", "bf16", None, 1300e-6),
    ] == told
    setting = {
        "library": "deepep-v2",
        "nodes": 2,
        "ranks_per_node": 8,
        "ranks": 16,
        "sms": 24,
        "top_k": 8,
        "experts": 256,
    }
    assert all(setting.items() <= measurement.params.items() for measurement in read.measurements)
    assert 1 == read.counts["rows without a time (N/A, nan or 0) left out"]


@pytest.mark.parametrize("text", [INTRANODE, ELASTIC, LOW_LATENCY.format(rank=0, rate=95.0, time=78.9) * 3])
def test_a_log_cut_anywhere_never_raises(tmp_path, text):
    """Every prefix that is still recognised gives a prefix of the measurements' cases, or fewer."""
    whole = [(m.operation, m.params.get("variant")) for m in import_text(tmp_path, text).measurements]
    for length in range(60, len(text), 7):
        try:
            read = import_text(tmp_path, text[:length])
        except Exception as error:
            assert "name its format" in str(error)  # too little is left to recognise
            continue
        assert {(m.operation, m.params.get("variant")) for m in read.measurements} <= set(whole)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "times"), [("test_intranode.log", [372.4, 715.9]), ("test_low_latency.log", [78.9, 148.2])]
)
def test_sample_logs_are_read(shared_data, name, times):
    """Dispatch, then combine."""
    measurements = import_file(shared_data / "formats" / "deepep" / name).measurements
    assert ["dispatch", "combine"] == [measurement.operation for measurement in measurements]
    assert times == pytest.approx([measurement.time_s * 1e6 for measurement in measurements])
