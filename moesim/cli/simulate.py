"""moesim simulate: replay one scenario."""

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.output import Json, Out, print_json, print_page, progress, say


def simulate(
    scenario: Annotated[Path, typer.Argument(help="Scenario file (YAML).")],
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Replay a routing trace on the modelled cluster: how long a step takes and what limits it."""
    from moesim.report import write_report
    from moesim.report.formats.text import page
    from moesim.scenario import load_scenario
    from moesim.study import simulate as run

    with progress(None) as tell:
        result = run(load_scenario(scenario), on_progress=tell)
    if out is not None:
        write_report(result, out)
        say(f"written to {out}")
    if as_json:
        print_json(result.summary())
    else:
        print_page(page(result))
