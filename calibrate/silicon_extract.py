"""Regenerate calibrate/published/silicon/*.csv, a thinned extract of aiconfigurator-core: python -m calibrate.silicon_extract.

Needs the extra `silicon` at the version below. What is kept: five systems; expert MLPs of the newest sglang and TensorRT-LLM
tables with all experts on one rank (fewer token counts with tensor parallelism and power-law routing) and the
experts-of-one-rank tables; NCCL in half precision; DeepEP on 1 to 8 nodes; TensorRT-LLM's NVLink all-to-all.
"""

import csv
import importlib.metadata
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from calibrate.import_report import ImportOptions, ImportReport
from calibrate.importers.aiconfigurator import PACKAGE, read
from calibrate.measurement import Measurement
from moesim.errors import InputError

VERSION = "0.12.0"
FOLDER = Path(__file__).resolve().parent / "published" / "silicon"
_SYSTEMS = ("a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm", "gb200")
_FOLDERS = (
    "moe/sglang/0.5.10",  # the newest of the A100; its wideep tables for the others
    "moe/sglang/0.5.14",
    "moe/trtllm/1.3.0rc20",
    "comm/nccl/2.27.3",  # the newest of the A100
    "comm/nccl/2.29.2",
    "comm/sglang/0.5.6.post2",
    "comm/sglang/0.5.12",
    "comm/trtllm/1.3.0rc10",
    "comm/trtllm/1.3.0rc11",
)
_OLD_FOR_A100 = ("moe/sglang/0.5.10/moe_perf", "comm/nccl/2.27.3")
_DTYPES = ("bf16", "fp8", "fp8_block", "nvfp4", "mxfp4")
_OTHER_KERNELS = (
    "min_latency",
    "situ_as_silu",
)  # a second kernel of the same shapes; an epilogue that is not the model's
_EVERY_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_FEW_TOKENS = (16, 1024)
_SKEWED_TOKENS = (32, 512, 8192)
_DEEPEP_OTHER_SHAPES = (8, 128, 1024, 4096)

_MLP = ["kernel", "dtype", "gated", "num_tokens", "top_k", "experts", "groups", "d_model", "d_ff", "distribution"]
_DISPATCH = ["library", "operation", "dtype", "nodes", "ranks", "tokens_per_rank", "hidden", "top_k", "experts"]
_DISPATCH += ["sms", "notify_us", "topk_groups", "flag"]
_NCCL = ["library", "operation", "dtype", "ranks", "bytes_per_rank"]
COLUMNS = {
    name: ["source", "hardware", *columns, "time_us"]
    for name, columns in {"expert_mlp": _MLP, "dispatch": _DISPATCH, "nccl": _NCCL}.items()
}


def main() -> int:
    """Write the three tables; 2 when another version of the package is installed."""
    found = importlib.metadata.version(PACKAGE)
    if found != VERSION:
        print(f"{PACKAGE} {found} is installed; this extract is of {VERSION}", file=sys.stderr)
        return 2
    kept = {measurement.id: measurement for measurement in _kept()}  # of a row measured twice, the later one
    tables = sorted({_path_in_package(measurement) for measurement in kept.values()})
    key_of = {table: f"s{number:02d}" for number, table in enumerate(tables, start=1)}
    FOLDER.mkdir(parents=True, exist_ok=True)
    _write("sources", ["key", "source"], [{"key": key_of[table], "source": _citation(table)} for table in tables])
    for name, columns in COLUMNS.items():
        rows = [
            {**_row(measurement, columns), "source": key_of[_path_in_package(measurement)]}
            for measurement in kept.values()
            if _table_of(measurement) == name
        ]
        _write(name, columns, rows)
        print(f"{name}: {len(rows)} rows")
    return 0


def _write(name: str, columns: list[str], rows: list[dict[str, Any]]) -> None:
    with open(FOLDER / f"{name}.csv", "w", newline="", encoding="ascii") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _citation(table: str) -> str:
    return f"{PACKAGE} {VERSION} (PyPI, Apache-2.0, NVIDIA): aiconfigurator_core/systems/data/{table}.parquet"


def _path_in_package(measurement: Measurement) -> str:
    return measurement.source.rsplit(": ", 1)[1]


def _kept() -> Iterator[Measurement]:
    for system in _SYSTEMS:
        for folder in _FOLDERS:
            try:
                measurements = list(read(f"aiconfigurator:{system}/{folder}", ImportOptions(), ImportReport()))
            except InputError:  # this system has no such folder
                continue
            for measurement in measurements:
                if _is_wanted(measurement, system, _path_in_package(measurement).split("/", 1)[1]):
                    yield measurement


def _is_wanted(measurement: Measurement, system: str, table: str) -> bool:
    if table.startswith(_OLD_FOR_A100) and system != "a100_sxm":
        return False
    wanted: Callable[[Any, str, str], bool] = {
        "expert_mlp": _is_wanted_mlp,
        "dispatch": _is_wanted_dispatch,
        "nccl": lambda params, _system, _table: params["dtype"] == "fp16",
    }[_table_of(measurement)]
    return wanted(measurement.params, system, table)


def _is_wanted_mlp(params: Any, system: str, table: str) -> bool:
    if "wideep" in table:  # small tables, in whole but for three of the five exponents
        return params["distribution"] in ("balanced", "power_law:0.8", "power_law:1.2")
    if params["dtype"] not in _DTYPES or not params["gated"] or params["kernel"].endswith(_OTHER_KERNELS):
        return False
    if params["distribution"] != "balanced":
        return params["tp"] == 1 and params["num_tokens"] in _SKEWED_TOKENS
    return params["num_tokens"] in (_EVERY_TOKENS if params["tp"] == 1 else _FEW_TOKENS) and params["tp"] <= 8


def _is_wanted_dispatch(params: Any, system: str, table: str) -> bool:
    if "0.5.6.post2" in table:
        return system != "h200_sxm"  # identical to the H100's table
    if table.startswith("comm/trtllm/1.3.0rc11"):
        return system == "gb200" and params["hidden"] == 7168
    if params["library"] == "deepep-normal" and (params["hidden"], params["top_k"], params["experts"]) != (
        7168,
        8,
        256,
    ):
        return params["sms"] in (8, 24) and params["tokens_per_rank"] in _DEEPEP_OTHER_SHAPES
    if params["library"].startswith("trtllm"):
        return params["tokens_per_rank"] in _EVERY_TOKENS
    return True


def _table_of(measurement: Measurement) -> str:
    if measurement.operation == "expert_mlp":
        return "expert_mlp"
    return "dispatch" if measurement.operation in ("dispatch", "combine") else "nccl"


def _row(measurement: Measurement, columns: Iterable[str]) -> dict[str, Any]:
    values = {**measurement.params, "operation": measurement.operation}
    values["time_us"] = f"{measurement.time_s * 1e6:.6g}"
    if "notify_s" in values:
        values["notify_us"] = f"{values['notify_s'] * 1e6:.5g}"
    values["gated"] = int(values.get("gated", 0))
    return {column: values.get(column, "") for column in columns}


if __name__ == "__main__":
    raise SystemExit(main())
