"""Importer of PyTorch profiler traces (Kineto, also .gz): NCCL kernels with their arguments, DeepEP kernels by name.

A SendRecv kernel is an all-to-all only if its arguments say so: a trace without them is refused. A kernel's duration
includes waiting for the slowest rank. Calls with the same arguments become one measurement: their median.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from calibrate.collective_table import hardware_params
from calibrate.import_report import ImportOptions, ImportReport
from calibrate.log_file import array_items, finite, read_text, value_after
from calibrate.measurement import Measurement
from moesim.errors import InputError

Params = dict[str, Any]
_OPERATIONS = {
    "all_to_all": "all_to_all",
    "all_to_allv": "all_to_all",
    "allreduce": "all_reduce",
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "_allgather_base": "all_gather",
    "allgather_into_tensor_coalesced": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "_reduce_scatter_base": "reduce_scatter",
}
_DTYPES = {  # PyTorch ScalarType: name here, bytes
    "BFloat16": ("bf16", 2),
    "Half": ("fp16", 2),
    "Float": ("fp32", 4),
    "Double": ("fp64", 8),
    "Float8_e4m3fn": ("fp8", 1),
    "Float8_e5m2": ("fp8", 1),
    "Float8_e4m3fnuz": ("fp8", 1),
    "Byte": ("uint8", 1),
    "Char": ("int8", 1),
    "Short": ("int16", 2),
    "Int": ("int32", 4),
    "Long": ("int64", 8),
    "Bool": ("bool", 1),
}
_DEEPEP = re.compile(
    r"(?:void )?(?:deep_ep::)?(?:(?P<space>intranode|internode|internode_ll|elastic|legacy)::)?"
    r"(?P<name>dispatch|combine|dispatch_impl|combine_impl|notify_dispatch|cached_notify_\w+|\w+_epilogue_impl)(?=[<(]|$)"
)
_ENABLE = (
    "record again with a PyTorch that writes collective arguments (2.3 or newer, NCCL backend, activities CPU and CUDA, "
    "so that record_param_comms is in the trace)"
)


def recognises(source: str, head: bytes) -> bool:
    """Whether this is a Chrome trace in JSON."""
    return head.lstrip()[:1] == b"{" and (b'"traceEvents"' in head or b'"schemaVersion"' in head)


def read(source: str, options: ImportOptions, report: ImportReport) -> Iterator[Measurement]:
    """Measurements of one rank's trace. Raises InputError when it holds nothing but NCCL kernels without arguments."""
    path = Path(source)
    text = read_text(path)
    at = text.find('"traceEvents"')
    events, closed = array_items(text, at) if at >= 0 else ([], False)
    if not closed:
        report.add(f"the trace is not terminated: {len(events)} complete events kept")
    calls: dict[str, tuple[str, Params, list[float]]] = {}
    nameless = 0
    for event in events:
        if not isinstance(event, dict) or event.get("ph") != "X" or event.get("cat") != "kernel":
            continue
        name = str(event.get("name", ""))
        parsed = None
        if name.startswith("nccl"):
            arguments = event.get("args")
            if not isinstance(arguments, dict) or "Collective name" not in arguments:
                nameless += 1
                continue
            parsed = _collective(arguments, options, report)
        elif found := _DEEPEP.match(name):
            parsed = _deepep(found, options, report)
        if parsed is not None:
            _add(calls, parsed, finite(event.get("dur")), report)
    if nameless:
        if not calls:
            raise InputError(
                f"{path}: {nameless} NCCL kernels without arguments say neither collective nor bytes; {_ENABLE}"
            )
        report.add("NCCL kernels without arguments left out", nameless)
    hardware = _hardware(text, options, report)
    for operation, params, times in calls.values():
        yield _measurement(operation, {**hardware, **params}, times, path.name)


def _collective(
    arguments: Mapping[str, Any], options: ImportOptions, report: ImportReport
) -> tuple[str, Params] | None:
    name = str(arguments["Collective name"])
    if name not in _OPERATIONS:
        report.add(f"calls of {name[:40]!r} left out: not modelled")
        return None
    dtype = str(arguments.get("dtype", ""))
    sent, received = finite(arguments.get("In msg nelems")), finite(arguments.get("Out msg nelems"))
    ranks = finite(arguments.get("Group size"))
    if dtype not in _DTYPES or sent is None or received is None or not ranks:
        report.add(f"calls of {name} without size, group or known dtype left out")
        return None
    if max(sent, received) == 0:
        report.add("zero-size calls left out")
        return None
    operation = _OPERATIONS[name]
    short, element = _DTYPES[dtype]
    # nccl-tests' size: the send buffer of an all-to-all, the larger buffer of the others.
    elements = sent if operation == "all_to_all" else max(sent, received)
    params: Params = {
        "library": options.library or "nccl",
        "ranks": int(ranks),
        "bytes_per_rank": int(elements) * element,
        "dtype": short,
    }
    if options.nodes is not None:
        params |= {"nodes": options.nodes, "ranks_per_node": -(-int(ranks) // options.nodes)}
    else:
        report.once("nodes not stated in the trace: give --nodes")
    if name == "all_to_allv":
        params |= {"uneven": True, "received_bytes": int(received) * element}
        for key, label in (("in_splits", "In split size"), ("out_splits", "Out split size")):
            splits = _splits(arguments.get(label))
            if splits is not None:
                params[key] = splits
    if arguments.get("Process Group Description"):
        params["group"] = str(arguments["Process Group Description"])[:80]
    return operation, params


def _splits(text: Any) -> list[int] | None:
    """Split sizes printed as a text list (in rows of dimension 0); None where it is empty or was shortened."""
    if not isinstance(text, str) or not re.fullmatch(r"\[\s*\d{1,15}(\s*,\s*\d{1,15})*\s*\]", text):
        return None
    return [int(number) for number in re.findall(r"\d+", text)]


def _deepep(found: re.Match[str], options: ImportOptions, report: ImportReport) -> tuple[str, Params] | None:
    name, space = found.group("name"), found.group("space")
    if name not in ("dispatch", "combine", "dispatch_impl", "combine_impl"):
        report.add(f"DeepEP kernels {name!r} left out: part of the call beside them")
        return None
    operation = name.removesuffix("_impl")
    library = "deepep-v2" if name.endswith("_impl") else "deepep-ll" if space == "internode_ll" else "deepep-normal"
    params: Params = {"library": options.library or library}
    for key in ("ranks", "nodes", "tokens_per_rank", "hidden", "top_k", "experts", "dtype"):
        value = getattr(options, key)
        if value is not None:
            params[key] = value
    if options.tokens_per_rank is None or options.hidden is None:
        report.once(
            "DeepEP kernels carry no sizes: give --tokens-per-rank, --hidden, --top-k, --experts, --ranks, --nodes"
        )
    return operation, params


def _add(
    calls: dict[str, tuple[str, Params, list[float]]],
    parsed: tuple[str, Params],
    time_us: float | None,
    report: ImportReport,
) -> None:
    if not time_us:
        report.add("kernels without a duration left out")
        return
    calls.setdefault(repr(parsed), (*parsed, []))[2].append(time_us)


def _hardware(text: str, options: ImportOptions, report: ImportReport) -> Params:
    """The catalogue's name, from the options or the trace's deviceProperties."""
    properties = value_after(text, "deviceProperties")
    names = (
        [str(each["name"]) for each in properties if isinstance(each, dict) and "name" in each]
        if isinstance(properties, list)
        else []
    )
    return hardware_params(names, options, report)


def _measurement(operation: str, params: Params, times: list[float], name: str) -> Measurement:
    tenths = quantiles(times, n=10, method="inclusive") if len(times) > 1 else []
    return Measurement(
        probe=operation,
        operation=operation,
        params=params,
        time_s=median(times) / 1e6,
        quantiles={"p10": tenths[0] / 1e6, "p90": tenths[-1] / 1e6} if tenths else None,
        repeats=len(times),
        environment=name,
        source=name,
    )
