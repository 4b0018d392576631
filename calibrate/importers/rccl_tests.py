"""Importer of rccl-tests: its text table, the nccl-tests style JSON of `-J`, the CSV and JSON of its reporter (`-X -Z`)."""

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from calibrate.collective_table import Timing, hardware_params, is_table, read_table, to_measurement
from calibrate.import_report import ImportOptions, ImportReport
from calibrate.importers.nccl_tests import is_json, read_json
from calibrate.log_file import array_items, finite, read_lines, read_text
from calibrate.measurement import Measurement

LIBRARY = "rccl"
_JSON_NAMES = {"name": "collective", "inPlace": "inplace", "wrong": "#wrong"}


def recognises(source: str, head: bytes) -> bool:
    """Whether this is a table or JSON that speaks of RCCL, or a file of its reporter."""
    if _is_reporter_json(head) or head.startswith(b"numCycle,"):
        return True
    return (b"rccl" in head.lower() or b"Instinct" in head) and (is_table(head) or is_json(head))


def read(source: str, options: ImportOptions, report: ImportReport) -> Iterator[Measurement]:
    """All rows of the file, in its order."""
    path = Path(source)
    with open(path, "rb") as file:
        head = file.read(4096)
    if head.startswith(b"numCycle,"):
        yield from _reported(_csv_rows(path, report), path, options, report)
    elif _is_reporter_json(head):
        rows, closed = array_items(read_text(path), 0)
        if not closed:
            report.add(f"the file is not terminated: {len(rows)} complete rows kept")
        yield from _reported((_renamed(row) for row in rows if isinstance(row, dict)), path, options, report)
    elif head.lstrip()[:1] == b"{":
        yield from read_json(path, LIBRARY, options, report)
    else:
        yield from read_table(path, LIBRARY, options, report)


def _is_reporter_json(head: bytes) -> bool:
    return head.lstrip()[:1] == b"[" and b'"numCycle"' in head and b'"busBw"' in head


def _renamed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {_JSON_NAMES.get(name, name): value for name, value in row.items()}


def _csv_rows(path: Path, report: ImportReport) -> Iterator[dict[str, Any]]:
    lines = read_lines(path)
    columns = next(csv.reader([next(lines)[0]]))
    for line, _ended in lines:
        cells = next(csv.reader([line]), [])
        if len(cells) == len(columns):
            yield dict(zip(columns, cells, strict=True))
        elif cells:
            report.add("cut or unreadable rows left out")


def _reported(
    rows: Iterator[dict[str, Any]], path: Path, options: ImportOptions, report: ImportReport
) -> Iterator[Measurement]:
    for row in rows:
        in_place = str(row.get("inplace", "0")).strip('"').lower() in ("1", "true")
        block = "in_place" if in_place else "out_of_place"
        if options.take not in (block, "both"):
            report.add(f"{block} columns not taken (take = {options.take})")
            continue
        size = finite(row.get("size"))
        if size is None:
            report.add("cut or unreadable rows left out")
            continue
        collective = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(row.get("collective", ""))).lower()  # AllToAll
        timing = Timing(
            {"send_recv": "sendrecv"}.get(collective, collective),
            int(size),
            str(row.get("type", "")),
            block,
            finite(row.get("time")),
            str(row.get("#wrong", "0")),
        )
        run = hardware_params([], options, report) | _group(row, options)
        measurement = to_measurement(timing, run, path, LIBRARY, options, report)
        if measurement is not None:
            yield measurement


def _group(row: Mapping[str, Any], options: ImportOptions) -> dict[str, int]:
    """Ranks and nodes: a build without MPI prints `gpus` alone, one with MPI its processes and the GPUs of each."""
    per_process = int(finite(row.get("gpusPerRank")) or 1)
    ranks = options.ranks or int(finite(row.get("gpus")) or 0) or int(finite(row.get("ranks")) or 0) * per_process
    nodes = options.nodes or int(finite(row.get("nodes")) or 1)
    return {"ranks": ranks, "nodes": nodes, "ranks_per_node": -(-ranks // nodes)} if ranks else {}
