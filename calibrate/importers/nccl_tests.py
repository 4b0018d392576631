"""Importer of nccl-tests: the text table and the JSON of `-J` (version 3), complete or cut off."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calibrate.collective_table import BLOCKS, Run, Timing, is_table, read_table, run_params, to_measurement
from calibrate.import_report import ImportOptions, ImportReport
from calibrate.log_file import array_items, finite, read_text, value_after
from calibrate.measurement import Measurement

LIBRARY = "nccl"


def recognises(source: str, head: bytes) -> bool:
    """Whether this is a table without a word of RCCL, or the JSON of `-J`."""
    if b"rccl" in head.lower() or b"Instinct" in head:
        return False
    return is_table(head) or is_json(head)


def read(source: str, options: ImportOptions, report: ImportReport) -> Iterator[Measurement]:
    """All runs of a text file, or the results of one JSON file up to where it breaks off."""
    path = Path(source)
    with open(path, "rb") as file:
        first = file.read(4096).lstrip()[:1]
    if first != b"{":
        yield from read_table(path, LIBRARY, options, report)
        return
    yield from read_json(path, LIBRARY, options, report)


def is_json(head: bytes) -> bool:
    """Whether this looks like the JSON of `-J`."""
    return head.lstrip()[:1] == b"{" and b'"nccl_version"' in head and b'"config"' in head


def read_json(path: Path, library: str, options: ImportOptions, report: ImportReport) -> Iterator[Measurement]:
    """Measurements of one `-J` file; what a killed run left unterminated is read up to the last whole result."""
    text = read_text(path)
    config = value_after(text, "config")
    devices = config.get("devices", []) if isinstance(config, dict) else []
    devices = [device for device in devices if isinstance(device, dict)]
    nccl_version = finite(value_after(text, "nccl_version"))
    run = Run(
        version=None if nccl_version is None else f"{library}-library={nccl_version:.0f}",
        hosts=[str(device.get("hostname", "")) for device in devices],
        devices=[str(device.get("device_info", "")) for device in devices],
    )
    at = text.find('"results"')
    results, closed = array_items(text, at) if at >= 0 else ([], False)
    if not closed:
        report.add(f"the file is not terminated: {len(results)} complete rows kept")
    arguments = value_after(text, "args")
    program = str(arguments[0]) if isinstance(arguments, list) and arguments else ""
    params = run_params(run, options, report)
    for result in results:
        for timing in _timings(result, program, report):
            if options.take not in (timing.block, "both"):
                report.add(f"{timing.block} columns not taken (take = {options.take})")
                continue
            measurement = to_measurement(timing, params, path, library, options, report)
            if measurement is not None:
                yield measurement


def _timings(result: Any, program: str, report: ImportReport) -> Iterator[Timing]:
    size = finite(result.get("size")) if isinstance(result, dict) else None
    if size is None:
        report.add("results without a size left out")
        return
    name = str(result.get("experiment_name") or program).rsplit("/", 1)[-1].removesuffix("_perf")
    for block in BLOCKS:
        values = result.get(block)
        if not isinstance(values, dict):
            continue
        if "time" not in values and "cpu_time" in values:
            report.add("rows with CPU times only (-C 1) left out")
            continue
        wrong = values.get("nwrong")
        yield Timing(
            name,
            int(size),
            str(result.get("type", "")),
            block,
            finite(values.get("time")),
            None if wrong is None else str(wrong),
        )
