"""`moesim calibrate import`, `python -m calibrate import`: logs and tables of others to one JSON Lines file of measurements.

The format is recognised by content. What was left out, flagged or assumed is told per source.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibrate.hardware_names import catalogue_name
from calibrate.import_report import TAKE, ImportOptions, ImportReport
from calibrate.link_limit import flag_of
from calibrate.log_file import read_head
from calibrate.measurement import Measurement, environment_line, measurement_line
from moesim.errors import InputError, MoesimError
from moesim.registry import Registry

IMPORTERS = Registry("calibrate.importers", kind="measurement format", attribute="read")
_RECOGNISERS = Registry("calibrate.importers", kind="measurement format", attribute="recognises")
_FLAGGED = "rows flagged: faster than their links (kept, not for fitting)"


def import_logs(
    sources: Sequence[str], out: str | Path, *, format: str = "auto", options: ImportOptions | None = None
) -> dict[str, Any]:
    """Write the measurements of `sources` to the new file `out`, in their order.

    `sources` are paths or names of installed packages (aiconfigurator:h200_sxm); `format` is an importer's name or auto.
    Answers {out, measurements, flagged, sources[{source, format, measurements, remarks}], curves, profile}.
    Raises InputError, and then leaves no file, when a source is not known or holds no usable measurement.
    """
    options = _checked(options or ImportOptions())
    target = Path(out)
    if not target.parent.is_dir():
        raise InputError(f"the folder of {target} does not exist; create it first")
    if any(Path(source).exists() and target.exists() and target.samefile(source) for source in sources):
        raise InputError(f"{target} is a source of this import; name another file with --out")
    seen: dict[str, int] = {}
    told: list[dict[str, Any]] = []
    total = flagged = 0
    partial = target.with_name(target.name + ".partial")
    try:
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            for source in sources:
                name = recognised_format(source) if format == "auto" else format
                report = ImportReport()
                environments: dict[str, str] = {}
                count = 0
                for measurement in _measurements(name, source, options, report, seen):
                    if measurement.environment not in environments:
                        environments[measurement.environment] = measurement.source
                        file.write(environment_line({"id": measurement.environment, "imported_by": name}))
                    file.write(measurement_line(measurement))
                    count += 1
                if not count:
                    reasons = "; ".join(report.lines()) or "it has no rows"
                    raise InputError(f"{source} holds no usable measurement: {reasons}")
                total, flagged = total + count, flagged + report.counts.get(_FLAGGED, 0)
                told.append({"source": source, "format": name, "measurements": count, "remarks": report.lines()})
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return {"out": str(out), "measurements": total, "flagged": flagged, "sources": told, "curves": [], "profile": None}


def recognised_format(source: str) -> str:
    """Name of the first importer (by name) that recognises the content of `source`; InputError when none does."""
    names = _RECOGNISERS.names()
    for name in names:
        if ":" in source and _RECOGNISERS.get(name)(source, b""):
            return name
    path = Path(source)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; expected a log or table ({', '.join(names)})")
    head = read_head(path)
    for name in names:
        if _RECOGNISERS.get(name)(source, head):
            return name
    raise InputError(f"{path} is none of {', '.join(names)}; name its format with --format")


def _measurements(
    name: str, source: str, options: ImportOptions, report: ImportReport, seen: dict[str, int]
) -> Iterator[Measurement]:
    """What the importer reads, flagged where it contradicts physics; the same case measured again gets a `repeat` number."""
    read = IMPORTERS.get(name)
    if ":" not in source and not Path(source).is_file():
        raise InputError(f"there is no file {source}")
    for measurement in read(source, options, report):
        params = dict(measurement.params)
        flag = flag_of(measurement.operation, params, measurement.time_s)
        if flag is not None:
            params.setdefault("flag", flag)
            report.add(_FLAGGED)
        times = seen[measurement.id] = seen.get(measurement.id, 0) + 1
        if times > 1:
            params["repeat"] = times
        changed = len(params) != len(measurement.params)
        yield replace(measurement, params=params, id="") if changed else measurement


def _checked(options: ImportOptions) -> ImportOptions:
    """Options with the catalogue's name of the accelerator; refuses names and numbers that mean nothing."""
    if options.take not in TAKE:
        raise InputError(f"take {options.take!r} is not one of {', '.join(TAKE)}")
    for name in ("ranks", "nodes", "tokens_per_rank", "hidden", "top_k", "experts"):
        value = getattr(options, name)
        if value is not None and not 1 <= value <= 2**31:
            raise InputError(f"{name} {value} is outside 1..2147483648")
    if options.ranks is not None and options.nodes is not None and options.ranks % options.nodes:
        raise InputError(f"ranks {options.ranks} is not a multiple of nodes {options.nodes}")
    if options.hardware is None:
        return options
    hardware = catalogue_name(options.hardware)
    if hardware is None:
        raise InputError(
            f"hardware {options.hardware[:60]!r} is not in the catalogue; write for example h100-sxm, h800-sxm, mi300x"
        )
    return replace(options, hardware=hardware)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m calibrate import`."""
    parser.add_argument("sources", nargs="+", metavar="LOG", help="files, or aiconfigurator:SYSTEM[/FOLDER]")
    parser.add_argument("--out", required=True, type=Path, help="JSON Lines file to write")
    parser.add_argument("--format", default="auto", help="importer; auto recognises it by content")
    parser.add_argument("--hardware", help="the catalogue's name of the accelerator")
    parser.add_argument("--library", help="name of the library, where it is not the log's usual one")
    for name in ("ranks", "nodes", "tokens-per-rank", "hidden", "top-k", "experts"):
        parser.add_argument(f"--{name}", type=int, help="what the log does not say")
    parser.add_argument("--dtype", help="what the log does not say")
    parser.add_argument("--take", default="out_of_place", choices=TAKE, help="columns of nccl-tests and rccl-tests")
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object")


def main(arguments: argparse.Namespace) -> int:
    """Import; return 0, or 2 with one sentence where the input cannot be used."""
    given = vars(arguments)
    names = ("hardware", "library", "ranks", "nodes", "tokens_per_rank", "hidden", "top_k", "experts", "dtype", "take")
    options = ImportOptions(**{name: given[name] for name in names})
    try:
        answer = import_logs(arguments.sources, arguments.out, format=arguments.format, options=options)
    except MoesimError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    if arguments.json:
        print(json.dumps(answer, indent=1))
    else:
        print("\n".join(answer_lines(answer)))
    return 0


def answer_lines(answer: dict[str, Any]) -> list[str]:
    """The answer for people: one line a source, its remarks below."""
    lines = []
    for each in answer["sources"]:
        lines.append(f"{each['source']}: {each['measurements']} measurements ({each['format']})")
        lines += [f"  {remark}" for remark in each["remarks"]]
    return [*lines, f"{answer['measurements']} measurements written to {answer['out']}"]
