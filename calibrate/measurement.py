"""Measurement: one timed operation with its parameters, and the JSON Lines file that probes append to and fits read.

Standard library only: this file works in a bare copy of the folder `calibrate/`. One JSON object a line, of three kinds:
an environment (device, driver, library versions, clocks), a measurement, or a probe that was skipped and why.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
LONGEST_LINE = 2**20
OPERATIONS = (
    "dispatch",
    "combine",
    "all_to_all",
    "all_gather",
    "reduce_scatter",
    "all_reduce",
    "point_to_point",
    "expert_mlp",
    "grouped_gemm",
    "copy",
    "permute",
    "launch",
    "overlap",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One operation's time: the median in seconds, 10th and 90th percentile where known, and what was run.

    `params` hold JSON values only (see docs/MODEL.md for the names by operation); `id` is stable: the same probe with the
    same parameters in the same environment has the same id. `derived_from` says how a time was computed where only a
    bandwidth was published. Raises ValueError for an unknown operation or a time that is not positive and finite.
    """

    probe: str
    operation: str
    params: Mapping[str, Any]
    time_s: float
    environment: str
    source: str
    kind: str = "measured"
    repeats: int = 1
    quantiles: Mapping[str, float] | None = None
    derived_from: str | None = None
    id: str = ""

    def __post_init__(self) -> None:
        """Check the figures; fill in the id."""
        if self.operation not in OPERATIONS:
            raise ValueError(f"operation {self.operation!r} is not one of {', '.join(OPERATIONS)}")
        if isinstance(self.time_s, bool) or not isinstance(self.time_s, int | float):
            raise ValueError(f"time_s must be a number of seconds, got {self.time_s!r}")
        if not math.isfinite(self.time_s) or self.time_s <= 0:
            raise ValueError(f"time_s must be positive and finite, got {self.time_s!r}")
        if not self.id:
            object.__setattr__(self, "id", measurement_id(self.probe, self.params, self.environment))


@dataclass(frozen=True, slots=True)
class Skipped:
    """A probe that this machine could not run, and why."""

    probe: str
    reason: str


@dataclass(frozen=True, slots=True)
class MeasurementFile:
    """What a JSON Lines file holds; `damaged` names the lines that could not be read (line number: why)."""

    measurements: tuple[Measurement, ...] = ()
    environments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    damaged: tuple[str, ...] = ()


def measurement_id(probe: str, params: Mapping[str, Any], environment: str) -> str:
    """Stable name of one measurement: the probe and a hash of its parameters and environment.

    >>> measurement_id("copy", {"bytes": 8}, "e") == measurement_id("copy", {"bytes": 8}, "e")
    True
    """
    text = json.dumps([probe, dict(params), environment], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{probe}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def environment_line(environment: Mapping[str, Any]) -> str:
    """One line for an environment; it must have an `id`."""
    if not isinstance(environment.get("id"), str):
        raise ValueError(f"an environment needs a text `id`, got {environment.get('id')!r}")
    return _line({"environment": dict(environment)})


def measurement_line(measurement: Measurement) -> str:
    """One line for a measurement."""
    row: dict[str, Any] = {
        "id": measurement.id,
        "probe": measurement.probe,
        "operation": measurement.operation,
        "params": dict(measurement.params),
        "time_s": measurement.time_s,
        "quantiles": None if measurement.quantiles is None else dict(measurement.quantiles),
        "repeats": measurement.repeats,
        "environment": measurement.environment,
        "source": measurement.source,
        "kind": measurement.kind,
    }
    if measurement.derived_from is not None:
        row["derived_from"] = measurement.derived_from
    return _line(row)


def skipped_line(skipped: Skipped) -> str:
    """One line for a probe that could not run."""
    return _line({"skipped": {"probe": skipped.probe, "reason": skipped.reason}})


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps({"format_version": FORMAT_VERSION, **content}, sort_keys=False, allow_nan=False) + "\n"


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append `lines` to a file and force them to disk, so that a killed run keeps what it measured.

    A last line that a killed run left unfinished is ended first: the reader then names it as damaged and reads the rest.
    """
    with open(path, "ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        for line in lines:
            file.write(line.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def write_measurements(
    path: Path, measurements: Iterable[Measurement], environments: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Write a new file: environments first, then measurements in the order given. Same content, same bytes."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(environment_line(environment) for environment in environments)
        file.writelines(measurement_line(measurement) for measurement in measurements)


def read_measurements(path: Path) -> MeasurementFile:
    """Read a file line by line; a damaged line (cut off, no JSON, NaN, unknown operation) is named and passed over.

    A measurement whose id comes again replaces the earlier one (a resumed run measured it anew). Raises ValueError when
    a line is of another format version, OSError when the file cannot be opened.
    """
    measurements: dict[str, Measurement] = {}
    environments: dict[str, Mapping[str, Any]] = {}
    skipped: list[Skipped] = []
    damaged: list[str] = []
    for number, text in _lines(path):
        try:
            row = _parse(text)
        except (ValueError, RecursionError) as error:
            damaged.append(f"line {number}: {error}")
            continue
        if row.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{path} line {number} has format_version {row.get('format_version')!r}; this reads {FORMAT_VERSION}"
            )
        try:
            if "environment" in row and "operation" not in row:
                environments[str(row["environment"]["id"])] = row["environment"]
            elif "skipped" in row:
                skipped.append(Skipped(str(row["skipped"]["probe"]), str(row["skipped"]["reason"])))
            else:
                measurement = _measurement(row)
                measurements[measurement.id] = measurement
        except (KeyError, TypeError, ValueError) as error:
            damaged.append(f"line {number}: {type(error).__name__} {error}")
    return MeasurementFile(tuple(measurements.values()), environments, tuple(skipped), tuple(damaged))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    with open(path, "rb") as file:
        while text := file.readline(LONGEST_LINE):
            number += 1
            if text.strip():
                yield number, text.decode("utf-8", errors="replace")


def _parse(text: str) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a number a measurement may hold")

    row = json.loads(text, parse_constant=refuse)
    if not isinstance(row, dict):
        raise ValueError(f"expected one JSON object, got {type(row).__name__}")
    return row


def _measurement(row: dict[str, Any]) -> Measurement:
    if not isinstance(row["params"], dict):
        raise ValueError("params must be an object")
    return Measurement(
        probe=str(row["probe"]),
        operation=row["operation"],
        params=row["params"],
        time_s=row["time_s"],
        environment=str(row["environment"]),
        source=str(row["source"]),
        kind=str(row.get("kind", "measured")),
        repeats=int(row.get("repeats", 1)),
        quantiles=row.get("quantiles"),
        derived_from=row.get("derived_from"),
        id=str(row["id"]),
    )
