"""moesim validate: predicted against measured."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from moesim.cli.output import Json, print_json
from moesim.errors import InputError


def validate(
    measurements: Annotated[
        Path | None, typer.Option(help="Your own table (CSV) instead of the published ones.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Profile to judge your table by: a name or a file.")] = None,
    write_docs: Annotated[bool, typer.Option("--write-docs", help="Put the table into docs/VALIDATION.md.")] = False,
    as_json: Json = False,
) -> None:
    """Recompute predicted against measured, at points no fit has seen."""
    from moesim import validate as room

    if (measurements is None) != (profile is None):
        raise InputError("--measurements FILE.csv and --profile P belong together; give both or neither")
    if measurements is not None and profile is not None:
        answer = room.validate_file(measurements, profile)
    else:
        answer = room.validate(on_set=_tell if sys.stderr.isatty() else None)
    if write_docs:
        room.write_docs(answer, Path("docs/VALIDATION.md"))
    if as_json:
        print_json(answer)
    else:
        sys.stdout.write("\n".join(room.lines(answer)) + "\n")


def _tell(one: dict[str, Any]) -> None:
    sys.stderr.write(f"{one['name']}: {one['median_ape']:.1%}\n")
