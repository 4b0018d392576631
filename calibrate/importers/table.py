"""Importer of tables (CSV): the columns of calibrate/published/*.csv, which its README explains, or one's own in their form.

A row that cannot be interpreted is counted with its reason, not guessed. `hardware` may be free text that the table of
names knows. Where only a bandwidth is given, the time is computed by calibrate/wire_bytes.py and `derived_from` says so.
"""

import csv
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from calibrate.hardware_names import catalogue_name
from calibrate.import_report import ImportOptions, ImportReport
from calibrate.measurement import Measurement
from calibrate.wire_bytes import logical_dispatch_bytes
from moesim.errors import InputError

Row = dict[str, str]
Params = dict[str, Any]
_LARGEST_FILE_BYTES = 256 * 2**20
_LONGEST_FIELD = 2**16

# First match names the library; the text itself goes into `release`, since kernels of two releases are not the same.
_LIBRARIES = (
    ("deepep.*(low-latency|ll)", "deepep-ll"),
    ("deepep.*v2", "deepep-v2"),
    ("deepep.*", "deepep-normal"),
    ("hybridep.*", "hybrid-ep"),
    ("uccl.*", "uccl"),
    ("pplx.*", "pplx"),
    ("mori.*", "mori"),
    (r"trt-llm.*twosided", "trtllm-two-sided"),
    (r"trt-llm.*onesided", "trtllm-one-sided"),
    ("rccl.*", "rccl"),
    ("nccl.*", "nccl"),
)
_DTYPES = {
    "half": "fp16",
    "bfloat16": "bf16",
    "float": "fp32",
    "double": "fp64",
    "fp8_e4m3": "fp8",
    "fp8_e4m3_fnuz": "fp8",
}
_IN_NOTES = (
    ("sms", r"SMs=(\d+)"),
    ("fabric", r"fabric=(\w+)"),
    ("timing", r"timing=([\w ]+)"),
    ("quant", r"quant=(\w+)"),
)
_TEXT_COLUMNS = {"source", "hardware", "library", "operation", "dtype", "kernel", "distribution", "flag"}


def recognises(source: str, head: bytes) -> bool:
    """Whether the first line names the columns of one of the published tables."""
    return _kind_of(head.split(b"\n", 1)[0].decode("utf-8", "replace").strip().split(",")) is not None


def read(source: str, options: ImportOptions, report: ImportReport) -> Iterator[Measurement]:
    """One measurement for every row that can be interpreted. Raises InputError for a file without a known header."""
    path = Path(source)
    if path.stat().st_size > _LARGEST_FILE_BYTES:
        raise InputError(f"{path} has {path.stat().st_size} bytes; tables up to {_LARGEST_FILE_BYTES} are read")
    sources = _sources_beside(path)
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        csv.field_size_limit(_LONGEST_FIELD)
        rows = csv.DictReader(file)
        kind = _kind_of(list(rows.fieldnames or ()))
        if kind is None:
            raise InputError(
                f"{path} has none of the headers of the published tables; see calibrate/published/README.md"
            )
        try:
            for row in rows:
                cells = {str(name): value for name, value in row.items() if isinstance(value, str) and value.strip()}
                yield from _measurement(cells, kind, path, sources, options, report)
        except csv.Error as error:
            report.add(f"reading stopped at line {rows.line_num}: {error}")


def _measurement(
    row: Row, kind: str, path: Path, sources: dict[str, str], options: ImportOptions, report: ImportReport
) -> Iterator[Measurement]:
    hardware = options.hardware or catalogue_name(row.get("hardware", ""))
    if hardware is None:
        report.add(f"rows of unknown hardware {row.get('hardware', '')[:60]!r} left out")
        return
    try:
        operation, time_s, params, derived_from = _ROWS[kind](row)
    except _Unusable as reason:
        report.add(f"rows left out: {reason}")
        return
    except (KeyError, ValueError, OverflowError, ZeroDivisionError) as error:
        report.add(f"rows left out: missing or bad value ({type(error).__name__} {str(error)[:60]})")
        return
    if not 0.0 < time_s < math.inf:
        report.add("rows without a positive, finite time left out")
        return
    cited = sources.get(row["source"], row["source"]) if "source" in row else path.name
    yield Measurement(
        probe=operation,
        operation=operation,
        params={"hardware": hardware, **params},
        time_s=time_s,
        environment=cited,
        source=cited,
        derived_from=derived_from,
    )


class _Unusable(Exception):
    """A row that says too little; the text says what."""


Parsed = tuple[str, float, Params, str | None]


def _alltoall(row: Row) -> Parsed:
    operation = {"alltoall": "all_to_all"}.get(row["op"], row["op"])
    if operation not in ("dispatch", "combine", "all_to_all"):
        raise _Unusable(f"operation {row['op'][:40]!r}")
    library = _library(row["library"])
    dtype = row.get("dtype_combine") if operation == "combine" else row.get("dtype_dispatch")
    dtype = dtype or row.get("dtype_dispatch") or row.get("dtype_combine", "")
    notes = row.get("notes", "")
    params: Params = {"library": library, "release": row["library"], "ranks": _whole(row["ep_size"])}
    if "nodes" in row:
        params["nodes"] = _whole(row["nodes"])
    if "gpus_per_node" in row:
        params["ranks_per_node"] = _whole(row["gpus_per_node"])
    renamed = {"topk": "top_k", "num_experts": "experts"}
    for column in ("tokens_per_rank", "hidden", "topk", "num_experts", "bytes_per_rank"):
        if column in row:
            params[renamed.get(column, column)] = _whole(row[column])
    params["dtype"] = _DTYPES.get(dtype, dtype)
    params |= _from_notes(row, notes)
    if "time_us" in row:
        return operation, float(row["time_us"]) / 1e6, params, None
    return operation, *_time_from_bandwidth(row, params)


def _from_notes(row: Row, notes: str) -> Params:
    """SMs, notify, fabric, network and timer boundary: from their columns, else from the notes."""
    found: Params = {}
    for name, pattern in _IN_NOTES:
        match = re.search(pattern, notes)
        text = row.get(name) or (match.group(1) if match else None)
        if text:
            found[name] = _whole(text) if name == "sms" else text.lower()
    notify = re.search(r"notify_us=([\d.]+)", notes)
    if notify:
        found["notify_s"] = float(notify.group(1)) / 1e6
    if "nic" in row:
        found["nic"] = row["nic"]
    return found


def _time_from_bandwidth(row: Row, params: Params) -> tuple[float, Params, str]:
    """Time of a row that publishes only a bandwidth: logical bytes / bandwidth, if the library's way to count is known."""
    library, fabric, nodes = params["library"], params.get("fabric"), params.get("nodes")
    if nodes is None and fabric in ("nvlink", "xgmi"):
        nodes = 1  # one NVLink domain, however many hosts
    if fabric is None or nodes is None or library not in ("deepep-normal", "uccl", "mori", "hybrid-ep"):
        raise _Unusable(f"only a bandwidth, and how {library} counts its bytes is not known")
    logical = logical_dispatch_bytes(
        fabric,
        tokens=params["tokens_per_rank"],
        hidden=params["hidden"],
        top_k=params["top_k"],
        experts=params["experts"],
        ranks=params["ranks"],
        nodes=nodes,
        dtype=params["dtype"],
    )
    if logical is None:
        raise _Unusable(f"only a bandwidth of {fabric} on {nodes} nodes")
    rate = float(row["algbw_gb_s"])
    return logical / (rate * 1e9), params, f"{logical:.0f} logical bytes of {fabric} / {rate:g} GB/s"


def _library(text: str) -> str:
    for pattern, name in _LIBRARIES:
        if re.match(pattern, text.lower()):
            return name
    raise _Unusable(f"library {text[:40]!r}")


def _grouped_gemm(row: Row) -> Parsed:
    params = {
        "kernel": f"{row['library']} {row['kind']}",
        "groups": _whole(row["groups"]),
        "tokens_per_group": _whole(row["m_per_group"]),
        "n": _whole(row["n"]),
        "k": _whole(row["k"]),
        "dtype": row["dtype"],
    }
    return "grouped_gemm", float(row["time_us"]) / 1e6, params, None


def _point_to_point(row: Row) -> Parsed:
    if "bytes" not in row:
        raise _Unusable("a bandwidth without a size")
    size = _whole(row["bytes"])
    params = {"pair_class": row["pair_class"], "bytes": size, "method": row["method"], "notes": row.get("notes", "")}
    if "nic" in row:
        params["nic"] = row["nic"]
    if "latency_us" in row:
        return "point_to_point", float(row["latency_us"]) / 1e6, params, row.get("derived_from")
    rate = float(row["bandwidth_gb_s"])
    return "point_to_point", size / (rate * 1e9), params, f"{size} bytes / {rate:g} GB/s"


def _silicon(operation: str | None) -> Callable[[Row], Parsed]:
    def parse(row: Row) -> Parsed:
        params: Params = {}
        for column, text in row.items():
            if column in ("source", "hardware", "operation", "time_us"):
                continue
            if column == "notify_us":
                params["notify_s"] = float(text) / 1e6
            elif column == "gated":
                params["gated"] = text == "1"
            else:
                params[column] = text if column in _TEXT_COLUMNS else _whole(text)
        if "ranks" in params:
            params["ranks_per_node"] = -(-params["ranks"] // params.setdefault("nodes", 1))
        if params.get("distribution") == "balanced":
            tokens, rest = divmod(params["num_tokens"] * params["top_k"], params["experts"])
            if rest == 0:
                params["tokens_per_group"] = tokens
        return operation or row["operation"], float(row["time_us"]) / 1e6, params, None

    return parse


_ROWS: dict[str, Callable[[Row], Parsed]] = {
    "alltoall": _alltoall,
    "grouped_gemm": _grouped_gemm,
    "point_to_point": _point_to_point,
    "expert_mlp": _silicon("expert_mlp"),
    "communication": _silicon(None),
}
# Columns that together tell a table's kind.
_HEADERS = {
    "alltoall": {"library", "hardware", "ep_size", "op", "time_us", "algbw_gb_s"},
    "grouped_gemm": {"library", "hardware", "groups", "m_per_group", "n", "k", "dtype", "time_us"},
    "point_to_point": {"hardware", "pair_class", "bytes", "latency_us", "bandwidth_gb_s"},
    "expert_mlp": {"hardware", "kernel", "num_tokens", "top_k", "experts", "groups", "d_model", "d_ff", "time_us"},
    "communication": {"hardware", "library", "operation", "ranks", "dtype", "time_us"},
}


def _kind_of(columns: list[str]) -> str | None:
    return next((kind for kind, needed in _HEADERS.items() if needed <= set(columns)), None)


def _sources_beside(path: Path) -> dict[str, str]:
    """What the keys of column `source` stand for, where a file sources.csv lies beside the table."""
    beside = path.parent / "sources.csv"
    if not beside.is_file() or beside.stat().st_size > 2**20:
        return {}
    with open(beside, newline="", encoding="utf-8", errors="replace") as file:
        return {row["key"]: row["source"] for row in csv.DictReader(file) if row.get("key") and row.get("source")}


def _whole(text: str) -> int:
    number = float(text)
    if number != int(number) or number < 0:
        raise ValueError(f"{text!r} is not a whole number")
    return int(number)
