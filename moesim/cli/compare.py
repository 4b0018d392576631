"""moesim compare: several placement strategies judged on the same steps."""

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.output import Json, Out, print_json, print_page, progress, say


def compare(
    scenario: Annotated[Path, typer.Argument(help="Scenario file (YAML).")],
    strategies: Annotated[str, typer.Option(help="Strategies, separated by commas; default: the scenario's.")] = "",
    slots: Annotated[int | None, typer.Option(help="Expert slots per layer.")] = None,
    plan_steps: Annotated[str | None, typer.Option(help="Steps to plan on, START:STOP.")] = None,
    steps: Annotated[str | None, typer.Option(help="Steps to judge on, START:STOP.")] = None,
    out: Out = None,
    plan_out: Annotated[Path | None, typer.Option(help="File for the fastest placement's plan (JSON).")] = None,
    as_json: Json = False,
) -> None:
    """Compare placement strategies on predicted step time."""
    from moesim.report import write_report
    from moesim.report.formats.text import page
    from moesim.scenario import load_scenario
    from moesim.study import compare as run
    from moesim.study import fastest_plan

    names = [name.strip() for name in strategies.split(",") if name.strip()]
    with progress(None) as tell:
        comparison = run(
            load_scenario(scenario), names, slots=slots, plan_steps=plan_steps, steps=steps, on_progress=tell
        )
    if out is not None:
        write_report(comparison, out)
        say(f"written to {out}")
    if as_json:
        print_json(comparison.summary())
    else:
        print_page(page(comparison))
    if plan_out is not None:  # last: what was found is shown even where no plan can be kept
        say(f"the plan of {comparison.fastest} is in {fastest_plan(comparison, scenario.parent).write(plan_out)}")
