"""Importer of the silicon tables of an installed aiconfigurator-core (PyPI, Apache-2.0): aiconfigurator:SYSTEM[/FOLDER].

Their meaning, which the file names do not tell (read from their collectors):
- moe_perf: one rank's expert MLP; `latency` ms. Rows with moe_ep_size 1 are clean. With more ranks the rank sees all
  `num_tokens` and sorts them all, so those rows are left out. `inter_size` is divided by moe_tp_size.
- wideep_*_moe_perf: the experts of one of `moe_ep_size` ranks; `num_tokens` of all ranks; power law: the fullest rank.
- nccl_perf: nccl-tests out of place; `message_size` counts elements; `latency` ms.
- wideep_deepep_*: DeepEP's own tests, us; the time of normal kernels excludes `notify`.
- trtllm_alltoall_perf: ms; moe_ep_size ranks of NVLink-joined nodes of 4.
"""

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calibrate.hardware_names import catalogue_name
from calibrate.import_report import ImportOptions, ImportReport
from calibrate.measurement import Measurement
from moesim.errors import InputError, unknown_name

PACKAGE = "aiconfigurator-core"
_PREFIX = "aiconfigurator:"
_DTYPES = {"bfloat16": "bf16", "half": "fp16", "w4a16_mxfp4": "mxfp4", "int4_wo": "int4"}
_ELEMENT_BYTES = {"half": 2, "int8": 1}
_OPERATIONS = {"alltoall": "all_to_all"}
# Nemotron experts have two matrices (squared ReLU); only TensorRT-LLM's table says so itself: (d_model, inter_size).
_TWO_MATRICES = {(2688, 1856), (1024, 2688), (4096, 2688), (2048, 5120), (8192, 5120)}
_WIDEEP_KERNELS = {"moe_context": "sglang_deepep_contiguous", "moe_generation": "sglang_deepep_masked"}
# DeepEP normal dispatch at 8 nodes in this version does not change from 4 to 16 SMs.
_ANOMALOUS = ("0.5.6.post2", 8, 32)
Row = dict[str, Any]


def recognises(source: str, head: bytes) -> bool:
    """Whether `source` names the package, such as aiconfigurator:h200_sxm."""
    return source.startswith(_PREFIX)


def read(source: str, options: ImportOptions, report: ImportReport) -> Iterator[Measurement]:
    """Every usable row of one system's tables, or of the folder below it that is named after a slash.

    Raises InputError when the package is not installed, UnknownName for a system it does not have.
    """
    system, _, below = source.removeprefix(_PREFIX).partition("/")
    if system not in list_systems():
        raise unknown_name("system of aiconfigurator-core", system, list_systems())
    folder = _data_folder() / system
    if not (folder / below).resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{source} leaves the folder of {system}")
    hardware = options.hardware or catalogue_name(system)
    if hardware is None:
        raise InputError(f"{source}: the catalogue has no accelerator for {system!r}; give --hardware NAME")
    tables = sorted(path for path in (folder / below).rglob("*.parquet") if path.stem in _TABLES)
    if not tables:
        raise InputError(f"{source} holds none of the tables {', '.join(sorted(_TABLES))}")
    for path in tables:
        yield from _read_table(path, folder.parent, hardware, report)


def _data_folder() -> Path:
    spec = importlib.util.find_spec("aiconfigurator_core")  # found, not imported: its import loads its whole modelling
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{PACKAGE} is not installed; install it with: pip install 'moesim[silicon]'")
    return Path(next(iter(spec.submodule_search_locations))) / "systems" / "data"


def list_systems() -> list[str]:
    """Systems whose tables the installed package holds."""
    return sorted(path.name for path in _data_folder().iterdir() if path.is_dir())


def _read_table(path: Path, root: Path, hardware: str, report: ImportReport) -> Iterator[Measurement]:
    import pyarrow.parquet as pq  # here alone: logs are read without it

    table = path.relative_to(root).with_suffix("").as_posix()
    version = importlib.metadata.version(PACKAGE)
    for batch in pq.ParquetFile(path).iter_batches(8192):
        for row in batch.to_pylist():
            for operation, time_s, params in _TABLES[path.stem](row, table, report):
                if not 0.0 < time_s < 1e6:
                    report.add(f"{table}: rows without a positive time left out")
                    continue
                yield Measurement(
                    probe=operation,
                    operation=operation,
                    params={"hardware": hardware, **params},
                    time_s=time_s,
                    environment=f"{PACKAGE}-{version}:{table}",
                    source=f"{PACKAGE} {version}: {table}",
                )


Parsed = Iterator[tuple[str, float, Row]]


def _moe(row: Row, table: str, report: ImportReport) -> Parsed:
    if row["moe_ep_size"] > 1:
        report.add(f"{table}: rows with moe_ep_size > 1 left out (the timed rank sorts the tokens of all ranks)")
        return
    kernel = str(row["kernel_source"])
    framework = str(row["framework"]).lower()
    shape = (row["hidden_size"], row["inter_size"])
    yield (
        "expert_mlp",
        row["latency"] / 1e3,
        {
            "kernel": kernel if kernel.startswith(framework) else f"{framework}_{kernel}",
            "groups": row["num_experts"],
            **_routed(row),
            "d_model": row["hidden_size"],
            "d_ff": row["inter_size"] // row["moe_tp_size"],
            "tp": row["moe_tp_size"],
            "gated": not (kernel.endswith("nongated") or shape in _TWO_MATRICES),
        },
    )


def _wideep_moe(row: Row, table: str, report: ImportReport) -> Parsed:
    yield (
        "expert_mlp",
        row["latency"] / 1e3,
        {
            "kernel": _WIDEEP_KERNELS[row["op_name"]],
            "groups": row["num_experts"] // row["moe_ep_size"],
            **_routed(row),
            "d_model": row["hidden_size"],
            "d_ff": row["inter_size"],
            "gated": True,
        },
    )


def _routed(row: Row) -> Row:
    """How many tokens go where: num_tokens of all ranks, top_k of experts, and the distribution."""
    name = str(row["distribution"])
    named = "balanced" if name in ("balanced", "uniform") else name.replace("power_law_", "power_law:")
    routed = {"num_tokens": row["num_tokens"], "top_k": row["topk"], "experts": row["num_experts"]}
    pairs = row["num_tokens"] * row["topk"]
    if named == "balanced" and pairs % row["num_experts"] == 0:
        routed["tokens_per_group"] = pairs // row["num_experts"]
    return {**routed, "dtype": _dtype(row["moe_dtype"]), "distribution": named}


def _nccl(row: Row, table: str, report: ImportReport) -> Parsed:
    size = row["message_size"] * _ELEMENT_BYTES[row["nccl_dtype"]]
    params = {"library": "nccl", "ranks": row["num_gpus"], "nodes": 1, "ranks_per_node": row["num_gpus"]}
    operation = str(_OPERATIONS.get(row["op_name"], row["op_name"]))
    yield operation, row["latency"] / 1e3, {**params, "bytes_per_rank": size, "dtype": _dtype(row["nccl_dtype"])}


def _deepep_normal(row: Row, table: str, report: ImportReport) -> Parsed:
    if _is_gb(table, report):
        return
    nodes, version = row["node_num"], table.split("/")[3]
    for operation, dtype in (("dispatch", "fp8"), ("combine", "bf16")):
        params = {"library": "deepep-normal", **_ranks(row, 8), "dtype": dtype, "sms": row[f"{operation}_sms"]}
        params["topk_groups"] = min(nodes, 4)
        params["notify_s"] = row[f"{operation}_notify_us"] / 1e6
        if operation == "dispatch" and (version, nodes) == _ANOMALOUS[:2] and row["num_token"] >= _ANOMALOUS[2]:
            params["flag"] = "anomalous: does not change from 4 to 16 SMs"
            report.add(f"{table}: rows flagged anomalous (8 nodes, from 32 tokens up)")
        yield operation, row[f"{operation}_transmit_us"] / 1e6, params


def _deepep_ll(row: Row, table: str, report: ImportReport) -> Parsed:
    if _is_gb(table, report):
        return
    for operation, dtype in (("dispatch", "fp8"), ("combine", "bf16")):
        params = {"library": "deepep-ll", **_ranks(row, 8), "dtype": dtype}
        yield operation, row[f"{operation}_avg_t_us"] / 1e6, params


def _moe_a2a(row: Row, table: str, report: ImportReport) -> Parsed:
    if row["comm_dtype"] == "default":
        report.add(f"{table}: rows whose dtype is only 'default' left out")
        return
    library = "deepep-ll" if str(row["comm_backend"]).endswith("_ll") else "deepep-normal"
    per_node = row["ep_size"] // row["node_num"]
    params = {"library": library, "build": "trtllm", **_ranks(row, per_node), "dtype": _dtype(row["comm_dtype"])}
    if row["sms"] > 0:
        params["sms"] = row["sms"]
    yield row["phase"], row["transmit_us"] / 1e6, params


def _trtllm(row: Row, table: str, report: ImportReport) -> Parsed:
    operation = str(row["op_name"]).removeprefix("alltoall_")
    if operation == "prepare":
        report.add(f"{table}: rows of the prepare step left out")
        return
    sides = "two-sided" if row["kernel_source"] == "NVLinkTwoSided" else "one-sided"
    ranks = row["moe_ep_size"]
    params = {
        "library": f"trtllm-{sides}",
        "ranks": ranks,
        "nodes": -(-ranks // 4),
        "ranks_per_node": min(ranks, 4),
        "tokens_per_rank": row["num_tokens"],
        "hidden": row["hidden_size"],
        "top_k": row["topk"],
        "experts": row["num_experts"],
        "dtype": _dtype(row["moe_dtype"]),
    }
    if operation == "combine_low_precision":
        params["library"] += "-low-precision"
    yield operation.split("_")[0], row["latency"] / 1e3, params


def _is_gb(table: str, report: ImportReport) -> bool:
    ambiguous = table.startswith(("gb200", "gb300"))
    if ambiguous:
        report.add(f"{table}: rows left out (one node may mean 4 or 8 ranks there)")
    return ambiguous


def _ranks(row: Row, per_node: int) -> Row:
    return {
        "ranks": row["node_num"] * per_node,
        "nodes": row["node_num"],
        "ranks_per_node": per_node,
        "tokens_per_rank": row.get("num_token", row.get("num_tokens")),
        "hidden": row["hidden_size"],
        "top_k": row.get("num_topk", row.get("topk")),
        "experts": row["num_experts"],
    }


def _dtype(name: str) -> str:
    return _DTYPES.get(name, name)


_TABLES = {
    "moe_perf": _moe,
    "wideep_context_moe_perf": _wideep_moe,
    "wideep_generation_moe_perf": _wideep_moe,
    "nccl_perf": _nccl,
    "wideep_deepep_normal_perf": _deepep_normal,
    "wideep_deepep_ll_perf": _deepep_ll,
    "moe_a2a_perf": _moe_a2a,
    "trtllm_alltoall_perf": _trtllm,
}
