"""The text table of nccl-tests and rccl-tests: comment lines, then one row per size with an out-of-place and an in-place block.

One file may hold several runs of several collectives. Sizes are bytes per rank, times us (docs: nccl-tests PERFORMANCE.md).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibrate.hardware_names import catalogue_name
from calibrate.import_report import ImportOptions, ImportReport
from calibrate.log_file import finite, read_lines
from calibrate.measurement import Measurement

OPERATIONS = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "all_to_all": "all_to_all",
    "sendrecv": "point_to_point",
}
DTYPES = {"half": "fp16", "bfloat16": "bf16", "float": "fp32", "double": "fp64", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8"}
BLOCKS = ("out_of_place", "in_place")

_RANK = re.compile(r"#\s+Rank\s+(\d+)\s.*?\son\s+(\S+)\s+device\s+\S+\s+\[[^\]]*\]\s*(.*)")
_LONGEST_SIZE = 18  # digits
_LEADING = ("size", "count", "type", "redop", "root")


@dataclass(slots=True)
class Run:
    """What the comment lines say about one run: collective, version, and for every rank its host and device."""

    collective: str | None = None
    version: str | None = None
    hosts: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Timing:
    """One block of one row."""

    collective: str | None
    size: int
    dtype: str
    block: str
    time_us: float | None
    wrong: str | None


def is_table(head: bytes) -> bool:
    """Whether this is the text table of nccl-tests or rccl-tests."""
    text = head.decode("utf-8", "replace")
    return bool(re.search(r"^#.*\bsize\b.*\bbusbw\b", text, re.MULTILINE)) or "# Collective test starting:" in text


def read_table(path: Path, library: str, options: ImportOptions, report: ImportReport) -> Iterator[Measurement]:
    """Measurements of every run in the file, in its order."""
    run = Run()
    for line, ended in read_lines(path):
        if line.lstrip().startswith("#"):
            run = _comment(line, run)
            continue
        cells = line.split()
        if not cells or not cells[0].isdecimal():
            continue
        timings = _row(cells, run)
        if timings is None:
            report.add("cut or unreadable rows left out" if ended else "the last row is cut off, left out")
            continue
        for timing in timings:
            if options.take not in (timing.block, "both"):
                report.add(f"{timing.block} columns not taken (take = {options.take})")
                continue
            measurement = to_measurement(timing, run_params(run, options, report), path, library, options, report)
            if measurement is not None:
                yield measurement


def _comment(line: str, run: Run) -> Run:
    """The run as this comment line leaves it; a new parameter line starts a new run."""
    text = line.strip()
    if "nThread" in text:  # every run prints this once, before its ranks
        return Run(collective=run.collective, version=run.version)
    starting = re.match(r"#\s*Collective test starting:\s*(\S+)", text)
    if starting:
        run.collective = starting.group(1).rsplit("/", 1)[-1].removesuffix("_perf")
    elif re.match(r"#\s*Collective test concluded", text):
        return Run()
    elif re.match(r"#\s*n?r?ccl-tests", text, re.IGNORECASE):
        run.version = text.lstrip("# ")
    rank = _RANK.match(text)
    if rank:
        run.hosts.append(rank.group(2))
        run.devices.append(rank.group(3).strip())
    names = text.lstrip("#").split()
    if names[:2] == ["size", "count"]:
        run.columns = names
    return run


def _row(cells: list[str], run: Run) -> list[Timing] | None:
    """Both blocks of a row; None when cells are missing or the size is no size."""
    if len(cells[0]) > _LONGEST_SIZE:
        return None
    columns = run.columns or [*_LEADING, *("time", "algbw", "busbw", "#wrong") * 2]
    starts = [i for i, name in enumerate(columns) if name == "time"]
    if len(starts) != 2 or starts[0] != len(_LEADING):
        return None
    width = starts[1] - starts[0]
    values = cells[len(_LEADING) :]
    blocks = [values[:width], values[width : 2 * width]]
    if len(values) == width:  # a replayed trace has no out-of-place block
        blocks = [[], values]
    elif len(values) < 2 * width:
        return None
    wrong = columns.index("#wrong") - starts[0] if "#wrong" in columns else None
    return [
        Timing(
            run.collective,
            int(cells[0]),
            cells[2],
            name,
            finite(block[0]),
            block[wrong] if wrong is not None and wrong < width else None,
        )
        for name, block in zip(BLOCKS, blocks, strict=True)
        if block
    ]


def run_params(run: Run, options: ImportOptions, report: ImportReport) -> dict[str, Any]:
    """Hardware, ranks and nodes of a run; what neither the log nor the options say is left out, and told."""
    params: dict[str, Any] = hardware_params(run.devices, options, report)
    if run.version is not None:
        params["release"] = run.version
    ranks = options.ranks or len(run.hosts)
    if not ranks:
        report.once("ranks not stated in the log: give --ranks and --nodes")
        return params
    nodes = options.nodes or len(set(run.hosts)) or 1
    return params | {"ranks": ranks, "nodes": nodes, "ranks_per_node": -(-ranks // nodes)}


def hardware_params(devices: list[str], options: ImportOptions, report: ImportReport) -> dict[str, Any]:
    """The catalogue's name of the accelerator, else the device as printed."""
    if options.hardware is not None:
        return {"hardware": options.hardware}
    names = sorted(set(devices))
    known = {catalogue_name(name) for name in names}
    if len(known) == 1 and None not in known:
        return {"hardware": known.pop()}
    if not names:
        report.once("accelerator not stated in the log: give --hardware NAME before fitting")
        return {}
    report.once(f"device {', '.join(names)[:80]!r} has no name in the catalogue: give --hardware NAME before fitting")
    return {"device": ", ".join(names)[:200]}


def to_measurement(
    timing: Timing, run: dict[str, Any], path: Path, library: str, options: ImportOptions, report: ImportReport
) -> Measurement | None:
    """One block as a measurement; None, and told why, where it says nothing usable."""
    collective = (timing.collective or "").lower()
    if collective not in OPERATIONS:
        named = f"collective {collective!r} is not modelled" if collective else "the log does not name its collective"
        report.add(f"rows left out: {named}")
        return None
    if timing.size == 0:
        report.add("zero-size rows left out")
    elif not timing.time_us:
        report.add(f"rows without a time (N/A, nan or 0) left out, {timing.block}")
    elif timing.wrong not in (None, "", "0", "N/A"):
        report.add("rows with wrong results (#wrong > 0) left out")
    else:
        operation = OPERATIONS[collective]
        params = {**run, "library": options.library or library, "dtype": DTYPES.get(timing.dtype, timing.dtype)}
        if operation == "point_to_point":  # every rank sends to its neighbour: the slowest pair decides
            params |= {"bytes": timing.size, "pair_class": "cross_node" if run.get("nodes", 1) > 1 else "scale_up"}
        else:
            params["bytes_per_rank"] = timing.size
        if timing.block == "in_place":
            params["in_place"] = True
        return Measurement(
            probe=operation,
            operation=operation,
            params=params,
            time_s=timing.time_us / 1e6,
            environment=path.name,
            source=path.name,
        )
    return None
