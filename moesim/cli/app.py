"""The command tree; every command's module imports its rooms when it runs, so that --help stays quick."""

import typer

from moesim.cli import calibrate, compare, demo, export, model, plan, simulate, topology, trace, validate

app = typer.Typer(
    name="moesim",
    help="Which placement of experts makes this MoE model fastest on this cluster, how fast, and what limits it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.command("compare")(compare.compare)
app.command("validate")(validate.validate)
app.command("plan")(plan.plan)
app.command("export")(export.export)
app.add_typer(trace.app, name="trace")
app.add_typer(topology.app, name="topology")
app.add_typer(model.app, name="model")
app.add_typer(calibrate.app, name="calibrate")
