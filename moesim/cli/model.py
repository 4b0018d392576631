"""moesim model: the MoE models moesim knows."""

from typing import Annotated

import typer

from moesim.cli.output import Json, print_json, print_page

app = typer.Typer(help="List and show MoE models.", no_args_is_help=True)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Names of the models that ship with moesim."""
    from moesim.model import list_models
    from moesim.report.formats.text import records_table

    names = list_models()
    if as_json:
        print_json({"models": names})
    else:
        print_page(records_table([{"model": name} for name in names]))


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Name of a model, or its YAML file.")], as_json: Json = False
) -> None:
    """Dims, parameter totals and sources of a model."""
    from moesim.model import load_model, summarise_model
    from moesim.report.formats.text import facts_table

    answer = summarise_model(load_model(name))
    if as_json:
        print_json(answer)
    else:
        print_page(facts_table(answer, title=name))
