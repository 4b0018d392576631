"""Fit a CalibrationProfile to measurements: `fit()` and `python -m calibrate fit m.jsonl --out profile.json`.

What the measurements do not cover stays as the datasheet profile has it, and its figures say so. Rows faster than their
links are counted and not fitted; neither are rows that carry a flag.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrate.fit.communication import fit_kernel
from calibrate.fit.expert_mlp import Rates, expert_rows, fit_expert_curve
from calibrate.fit.loads import beats_links
from calibrate.fit.rates import copy_fractions, launch_seconds
from calibrate.fit.transfers import ALGORITHMS, MACHINES
from calibrate.hardware_names import profile_of
from calibrate.link_limit import flag_of
from calibrate.measurement import Measurement, read_measurements
from moesim.calibration import CalibrationProfile, LinkProfile, load_profile
from moesim.calibration_curves import Figure, FitError
from moesim.errors import InputError, MoesimError
from moesim.model import DTYPE_BYTES
from moesim.topology.accelerators import load_accelerator

# Weight type of a scenario -> the measured type and kernel that stand for it; the most measured kernel where absent.
ExpertKernels = Mapping[str, tuple[str, str]]
_FEWEST_TRANSFERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedCurve:
    """One curve of a fit: its name, its error, and the range of what it was measured at."""

    name: str
    error: FitError
    valid_range: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """A profile with how well each of its curves holds, and how many measurements were left out, by reason."""

    profile: CalibrationProfile
    measurements: int
    curves: tuple[FittedCurve, ...]
    left_out: dict[str, int]

    def answer(self, path: str) -> dict[str, Any]:
        """The answer of `moesim calibrate fit --json`."""
        return {
            "measurements": self.measurements,
            "curves": [
                {**curve.error.model_dump(), "name": curve.name, "valid_range": curve.valid_range}
                for curve in self.curves
            ],
            "left_out": self.left_out,
            "profile": path,
        }


def fit(
    measurements: Sequence[Measurement],
    hardware: str,
    *,
    name: str | None = None,
    expert_kernels: ExpertKernels | None = None,
) -> FitReport:
    """The profile that measurements of one accelerator support.

    `hardware` is a name of the catalogue. Raises UnknownName for another one, InputError when nothing can be fitted.
    """
    accelerator = load_accelerator(hardware)[0]
    usable, left_out = _usable(measurements, hardware)
    profile, curves = load_profile(), []
    nic: float | None = None
    kernels = dict(profile.kernels)
    for library in _by_rows(usable):
        rows = [m for m in usable if m.params.get("library") == library and m.operation in _transfers(library)]
        kernel, error = fit_kernel(rows, library, _sources(rows))
        kernels[library] = kernel.model_copy(update={"valid_range": _transfer_range(rows)})
        nic = kernel.nic.value if nic is None and kernel.nic is not None else nic
        curves.append(FittedCurve(name=f"{library} on {hardware}", error=error, valid_range=_transfer_range(rows)))
    experts = {}
    for dtype, rows in _expert_groups(usable, expert_kernels, left_out).items():
        curve = fit_expert_curve(
            expert_rows(rows),
            Rates.of(accelerator, dtype),
            str(rows[0].params.get("kernel", "unnamed")),
            _sources(rows),
        )
        experts[dtype] = curve
        ranges = {str(quantity): span for quantity, span in curve.valid_range.items()}
        curves.append(FittedCurve(name=f"experts {dtype} on {hardware}", error=curve.error, valid_range=ranges))
    compute = profile.compute.model_copy(
        update={"experts": experts, **copy_fractions(usable, accelerator), **launch_seconds(usable)}
    )
    if not curves and compute == profile.compute:
        raise InputError(f"none of the {len(measurements)} measurements can be fitted for {hardware}: {left_out}")
    fitted = CalibrationProfile(
        format_version=1,
        name=name or profile_of(hardware),
        basis=_basis(curves, usable),
        accelerator=hardware,
        compute=compute,
        links=_links(profile.links, kernels, nic),
        kernels=kernels,
        sources=tuple(sorted({m.source for m in usable})),
    )
    return FitReport(profile=fitted, measurements=len(measurements), curves=tuple(curves), left_out=left_out)


def _usable(measurements: Sequence[Measurement], hardware: str) -> tuple[list[Measurement], dict[str, int]]:
    usable, left_out = [], dict[str, int]()
    for measurement in measurements:
        reason = _why_not(measurement, hardware)
        if reason is None:
            usable.append(measurement)
        else:
            left_out[reason] = left_out.get(reason, 0) + 1
    return usable, dict(sorted(left_out.items()))


def _why_not(measurement: Measurement, hardware: str) -> str | None:
    params = measurement.params
    if params.get("hardware") != hardware:
        return f"of other hardware ({params.get('hardware')})"
    if params.get("flag"):
        return f"flagged: {str(params['flag']).split(':')[0]}"
    if flag_of(measurement.operation, params, measurement.time_s) is not None:
        return "faster than its links"
    if measurement.operation == "expert_mlp" and str(params.get("dtype")).removesuffix("_block") not in DTYPE_BYTES:
        return f"experts of weights in {params.get('dtype')}"
    if measurement.operation in ("dispatch", "combine", "all_to_all"):
        if hardware not in MACHINES:
            return "no machine of the catalogue stands for this hardware"
        if params.get("library") not in ALGORITHMS:
            return f"library {params.get('library')!r} has no known algorithm"
        try:
            if beats_links(measurement):
                return "faster than its links"
        except MoesimError as error:
            return str(error)
    return None


def _transfers(library: str) -> tuple[str, ...]:
    return ("all_to_all",) if library in ("nccl", "rccl", "gloo") else ("dispatch", "combine")


def _by_rows(usable: Sequence[Measurement]) -> list[str]:
    """Libraries with enough rows, in the order of their names."""
    counts: dict[str, int] = {}
    for measurement in usable:
        library = measurement.params.get("library")
        if library in ALGORITHMS and measurement.operation in _transfers(library):
            counts[library] = counts.get(library, 0) + 1
    return sorted(library for library, count in counts.items() if count >= _FEWEST_TRANSFERS)


def _expert_groups(
    usable: Sequence[Measurement], kernels: ExpertKernels | None, left_out: dict[str, int]
) -> dict[str, list[Measurement]]:
    """Rows to fit for each weight type: balanced ones of one kernel."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in usable:
        params = measurement.params
        if measurement.operation == "expert_mlp" and params.get("distribution", "balanced") == "balanced":
            key = (str(params["dtype"]), str(params.get("kernel", "unnamed")))
            groups.setdefault(key, []).append(measurement)
    if kernels is None:
        most: dict[str, tuple[str, str]] = {}
        for key in sorted(groups):
            dtype = key[0].removesuffix("_block")
            if dtype not in most or len(groups[key]) > len(groups[most[dtype]]):
                most[dtype] = key
        kernels = most
    chosen = {dtype: groups[key] for dtype, key in sorted(kernels.items()) if key in groups}
    chosen = {dtype: rows for dtype, rows in chosen.items() if len(rows) >= _FEWEST_EXPERTS}
    fitted = sum(len(rows) for rows in chosen.values())
    spare = sum(m.operation == "expert_mlp" for m in usable) - fitted
    if spare:
        left_out["expert rows of other kernels or uneven loads"] = spare
    return chosen


_FEWEST_EXPERTS = 8


def _links(datasheet: LinkProfile, kernels: Mapping[str, Any], nic: float | None) -> LinkProfile:
    """Fractions of NIC and scale-up links for kernels without their own: what plain all-to-all reaches."""
    plain = next((kernels[name] for name in ("nccl", "rccl", "gloo") if name in kernels), None)
    if plain is None:
        return datasheet
    update: dict[str, Figure] = {}
    if plain.scale_up is not None:
        update["scale_up"] = plain.scale_up
    if plain.nic is not None:
        update["nic"] = plain.nic
    return datasheet.model_copy(update=update)


def _transfer_range(rows: Sequence[Measurement]) -> dict[str, tuple[float, float]]:
    found = {}
    for name in ("ranks", "tokens_per_rank", "hidden", "bytes_per_rank", "sms"):
        values = [float(m.params[name]) for m in rows if m.params.get(name) is not None]
        if values:
            found[name] = (min(values), max(values))
    return found


def _sources(rows: Sequence[Measurement]) -> str:
    return "; ".join(sorted({row.source for row in rows}))


def _basis(curves: Sequence[FittedCurve], usable: Sequence[Measurement]) -> str:
    """What the result page says the numbers rest on: what was fitted, from how many measurements, how well."""
    fitted = sum(curve.error.n for curve in curves)
    errors = ", ".join(f"{curve.name.split(' on ')[0]} {curve.error.median:.1%}" for curve in curves)
    return (
        f"fitted to {fitted} measurements (median error, held out: {errors}); the rest datasheet"
        if curves
        else (f"device rates from {len(usable)} measurements; the rest datasheet")
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m calibrate fit`."""
    parser.add_argument("measurements", nargs="+", help="JSON Lines files of measurements")
    parser.add_argument("--out", required=True, help="profile to write (JSON)")
    parser.add_argument("--hardware", help="the catalogue's name of the accelerator; the measurements' own when absent")
    parser.add_argument("--name", help="name of the profile; that of the file when absent")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def main(options: argparse.Namespace) -> int:
    """Fit and write; 2 with one sentence when it cannot be done."""
    try:
        answer = fit_files(options.measurements, options.out, hardware=options.hardware, name=options.name)
    except (MoesimError, OSError, ValueError) as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        return 2
    print(json.dumps(answer) if options.json else "\n".join(answer_lines(answer)))
    return 0


def fit_files(
    sources: Sequence[str], out: str, *, hardware: str | None = None, name: str | None = None
) -> dict[str, Any]:
    """Fit the measurements of some files and write the profile; the answer of `moesim calibrate fit --json`.

    Raises InputError when the files hold several accelerators and none is asked for, or nothing that can be fitted.
    """
    measurements: list[Measurement] = []
    for source in sources:
        try:
            measurements += read_measurements(Path(source)).measurements
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read measurements {source}: {error}") from None
    found = sorted({str(m.params.get("hardware")) for m in measurements if m.params.get("hardware")})
    if hardware is None:
        if len(found) != 1:
            what = ", ".join(found) or "none"
            raise InputError(f"the measurements name {len(found)} accelerators ({what}); give --hardware NAME")
        hardware = found[0]
    report = fit(measurements, hardware, name=name or Path(out).stem)
    write_profile(report.profile, Path(out))
    return report.answer(out)


def write_profile(profile: CalibrationProfile, path: Path) -> None:
    """Write a profile as JSON; same profile, same bytes."""
    path.write_text(profile.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")


def answer_lines(answer: Mapping[str, Any]) -> list[str]:
    """The answer for people."""
    lines = [f"{answer['measurements']} measurements"]
    lines += [f"  left out: {count} {reason}" for reason, count in answer["left_out"].items()]
    for curve in answer["curves"]:
        lines.append(
            f"  {curve['name']}: median error {curve['median']:.1%}, P90 {curve['p90']:.1%} over {curve['n']} "
            f"({curve['protocol']})"
        )
    return [*lines, f"profile written to {answer['profile']}"]
