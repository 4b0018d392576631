"""moesim plan: where every expert goes, how fast that is, and how far from the best it can be."""

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.output import Json, print_json, print_page, say


def plan(
    scenario: Annotated[Path, typer.Argument(help="Scenario file (YAML).")],
    out: Annotated[Path, typer.Option("--out", help="Plan file to write (JSON).")],
    strategy: Annotated[str | None, typer.Option(help="Placement strategy; default: the scenario's.")] = None,
    slots: Annotated[int | None, typer.Option(help="Expert slots per layer, any number from the experts up.")] = None,
    plan_steps: Annotated[
        str | None, typer.Option(help="Steps to plan on, START:STOP; default: the scenario's.")
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(min=0.001, help="About so many seconds of solver work, counted so that answers repeat."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Place the experts of every MoE layer and write the plan file that `placement: {plan: FILE}` reads."""
    from moesim.report.formats.text import facts_table
    from moesim.scenario import load_scenario
    from moesim.study import timed_plan

    made, seconds = timed_plan(
        load_scenario(scenario), strategy, slots=slots, plan_steps=plan_steps, time_limit_s=time_limit
    )
    answer = {"plan": str(made.write(out)), **made.summary(), "seconds": seconds}
    for note in made.notes:
        say(note)
    if as_json:
        print_json(answer)
    else:
        print_page(facts_table(answer, title=f"{made.model} on {made.topology}, strategy {made.strategy}"))
