"""Validate: predicted against measured, recomputed from the published tables that ship with moesim, or from one's own.

The sets and their held-out protocols are in calibrate/validation.py, which is imported when asked for.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from moesim.errors import InputError, MoesimError

BEGIN, END = "<!-- moesim validate: begin -->", "<!-- moesim validate: end -->"
OnSet = Callable[[dict[str, Any]], None]
_MOST_NAMED = 12
_TOO_FAST = "faster than its links: not compared"


def validate(*, on_set: OnSet | None = None) -> dict[str, Any]:
    """Every validation set: `sets[{name, n, median_ape, mape, p90_ape, worst, heldout, target, met}]`, errors as fractions.

    `target` is what the set should stay under, null where it is shown for comparison; the emulated cluster's also names the
    `rank_correlation` of placements it should stay above. `on_set` hears of each as it is done.
    """
    found = []
    for one in _answers():
        found.append(one)
        if on_set is not None:
            on_set(one)
    return {"sets": found}


def _answers() -> Iterator[dict[str, Any]]:
    from calibrate import emulated
    from calibrate.validation import answer, sets

    yield from (answer(one) for one in sets())
    yield emulated.answer()


def validate_file(path: Path | str, profile_name: str) -> dict[str, Any]:
    """A profile against one's own table (the columns of calibrate/published/alltoall.csv), one set per library and operation.

    `left_out` counts rows that could not be interpreted, by reason. Raises InputError when none could.
    """
    import numpy as np

    from calibrate.fit.loads import beats_links
    from calibrate.fit.transfers import measured_s, predict
    from calibrate.import_report import ImportOptions, ImportReport
    from calibrate.importers.table import read
    from calibrate.measurement import Measurement
    from calibrate.validation import ValidationSet, answer
    from moesim.calibration import load_profile

    profile, report = load_profile(profile_name), ImportReport()
    if not Path(path).is_file():
        raise InputError(f"cannot read measurements {path}: no such file")
    rows: dict[str, list[tuple[Measurement, float]]] = {}
    left_out: dict[str, int] = {}
    for measurement in read(str(path), ImportOptions(), report):
        library = str(measurement.params.get("library"))
        try:
            if measurement.params.get("flag") or beats_links(measurement):
                raise InputError(_TOO_FAST)
            seconds = predict(profile, library, measurement)
        except MoesimError as error:
            left_out[str(error)] = left_out.get(str(error), 0) + 1
            continue
        rows.setdefault(f"{library} {measurement.operation}", []).append((measurement, seconds))
    left_out |= dict(report.counts)
    if not rows:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in list(left_out.items())[:3]) or "it has no rows"
        raise InputError(f"no row of {path} can be compared with profile {profile.name!r}: {reasons}")
    sets = [
        answer(
            ValidationSet(
                name=f"{name} under {profile.name}",
                target=None,
                heldout="not known: the rows are the user's",
                rows=tuple(measurement for measurement, _ in pairs),
                predicted_s=np.array([seconds for _, seconds in pairs]),
                measured_s=np.array([measured_s(measurement) for measurement, _ in pairs]),
            )
        )
        for name, pairs in sorted(rows.items())
    ]
    return {"sets": sets, "rows": sum(len(pairs) for pairs in rows.values()), "left_out": left_out}


def lines(answer: dict[str, Any]) -> list[str]:
    """The answer for people."""
    text = []
    for one in answer["sets"]:
        verdict = "" if one["target"] is None else (" (target met)" if one["met"] else " (TARGET MISSED)")
        text.append(
            f"{one['median_ape']:7.1%} median  {one['p90_ape']:7.1%} P90  n={one['n']:<5d} {one['name']}"
            f"{_correlation(one)}{verdict}"
        )
    for reason, count in list(answer.get("left_out", {}).items())[:_MOST_NAMED]:
        text.append(f"left out: {count} x {reason}")
    return text


def _correlation(one: dict[str, Any]) -> str:
    found = one.get("rank_correlation")
    return "" if found is None else f", rank correlation {found:.2f}"


def write_docs(answer: dict[str, Any], path: Path) -> None:
    """Put the table of sets between the markers of docs/VALIDATION.md; raises InputError when they are not there."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from None
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"{path} needs the markers {BEGIN} and {END} once each")
    table = "\n".join(_table(answer["sets"]))
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    path.write_text(re.sub(pattern, lambda _: f"{BEGIN}\n{table}\n{END}", text, flags=re.DOTALL), encoding="utf-8")


def _table(sets: Sequence[dict[str, Any]]) -> list[str]:
    rows = ["| set | n | median | mean | P90 | worst | target | met | held out |", "| --- |" + " --- |" * 8]
    for one in sets:
        target = one["target"]
        aim = "-" if target is None else f"{target['median_ape']:.0%}"
        if target is not None and target["p90_ape"] is not None:
            aim += f", P90 {target['p90_ape']:.0%}"
        if target is not None and "rank_correlation" in target:
            aim += f", rank correlation {target['rank_correlation']:g}"
        met = "-" if target is None else ("yes" if one["met"] else "**no**")
        figures = " | ".join(f"{one[key]:.1%}" for key in ("median_ape", "mape", "p90_ape", "worst"))
        rows.append(f"| {one['name']}{_correlation(one)} | {one['n']} | {figures} | {aim} | {met} | {one['heldout']} |")
    return rows
