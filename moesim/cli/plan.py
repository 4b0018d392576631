"""moesim plan: where every expert goes, how fast that is, and how far from the best it can be."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.cli.output import Json, print_json, print_page, say

if TYPE_CHECKING:
    from moesim.plan_file import Plan


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
    old: Annotated[Path | None, typer.Option("--from", help="Plan file in use: the new plan stays near it.")] = None,
    move_budget: Annotated[
        str | None,
        typer.Option(help="With --from: most bytes of weights that move, such as 20GiB; 0 keeps the old plan."),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say what is replicated and why, what a step consists of, what more would buy."),
    ] = False,
    every: Annotated[
        int | None, typer.Option(help="Plan anew every so many steps of the window; moves are charged.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder for plan.html: loads, traffic, copies, gap, moves.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Place the experts of every MoE layer and write the plan file that `placement: {plan: FILE}` reads."""
    from moesim.report.formats.text import facts_table
    from moesim.scenario import load_scenario
    from moesim.study import timed_plan

    made, seconds = timed_plan(
        load_scenario(scenario),
        strategy,
        slots=slots,
        plan_steps=plan_steps,
        time_limit_s=time_limit,
        old=old,
        move_budget=move_budget,
        explain=explain,
        every=every,
    )
    answer = {"plan": str(made.write(out)), **made.summary(), "seconds": seconds}
    if report is not None:
        answer["report"] = str(_write_page(scenario, made, old, plan_steps, report))
    for note in made.notes:
        say(note)
    if as_json:
        print_json(answer)
        return
    facts = {key: value for key, value in answer.items() if key not in ("explanation", "cases", "replans")}
    print_page(facts_table(facts, title=f"{made.model} on {made.topology}, strategy {made.strategy}"))
    for line in _sentences(made):
        print_page(line)


def _write_page(scenario: Path, made: "Plan", old: Path | None, plan_steps: str | None, folder: Path) -> Path:
    """Write plan.html beside the old plan, or experts in order."""
    from moesim.plan_file import load_plan
    from moesim.report.plan_page import write_plan_report
    from moesim.scenario import load_scenario
    from moesim.study.viewing import view_plan

    view = view_plan(load_scenario(scenario), made, old=None if old is None else load_plan(old), plan_steps=plan_steps)
    return write_plan_report(made, view, folder)[0]


def _sentences(made: "Plan") -> list[str]:
    """What the table does not show: cases, re-plans, the explanation."""
    from moesim.units import format_bytes, format_time

    lines = [f"{case.name} (weight {case.weight:g}): {format_time(case.step_time_s)} a step" for case in made.cases]
    for row in made.replans:
        where = f"{row.trace}, steps" if row.trace else "steps"
        even = "never pays back"
        if row.moved_bytes == 0.0:
            even = "nothing to pay back"
        elif row.break_even_steps is not None:
            even = f"pays back after {row.break_even_steps:.0f} steps"
        lines.append(
            f"{where} {row.first}:{row.stop}: {format_time(row.kept_s)} kept, {format_time(row.replanned_s)} planned anew, "
            f"{format_time(row.beside_s or row.step_s)} with moves of {format_bytes(row.moved_bytes)} beside it, "
            f"{format_time(row.step_s)} where nothing overlaps, {even}"
        )
    return lines + list((made.explanation or {}).get("words", ()))
