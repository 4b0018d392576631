"""moesim demo: the bundled trace of real routing on a DGX H100 cluster under several placements."""

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.output import Json, print_json, print_page, progress, say

SCENARIO = Path(__file__).with_name("demo.yaml")
LAUNCHER = "sglang"  # reads one JSON file at start; what others read: moesim export


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the report.")] = Path("out/demo"),
    as_json: Json = False,
) -> None:
    """Compare placements of the bundled trace on 8 DGX H100 nodes; writes a report page, a timeline and a launcher's file."""
    import moesim
    from moesim.report import write_report
    from moesim.report.formats.text import page
    from moesim.scenario import load_scenario
    from moesim.study import compare, fastest_plan
    from moesim.study.compiling import compile_beside

    compile_beside(SCENARIO, "topology")
    with progress(None) as tell:
        comparison = compare(load_scenario(SCENARIO), on_progress=tell)
    files = write_report(comparison, out)
    plan = fastest_plan(comparison, SCENARIO.parent)
    files.append(plan.write(out / "plan.json"))
    exported = moesim.export(plan, LAUNCHER, out / "sglang-expert-location.json")
    files += exported.files
    if as_json:
        print_json(comparison.summary())
    else:
        print_page(page(comparison))
    say(f"written to {out.resolve()}: {', '.join(path.name for path in files)}")
    say("report.html opens in a browser, timeline.pftrace at https://ui.perfetto.dev")
    say(f"launch {plan.strategy} on SGLang with: {' '.join(exported.launch_flags)}")
