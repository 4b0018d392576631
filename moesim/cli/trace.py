"""moesim trace: look into a routing trace, or convert one to moesim's own Parquet."""

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.output import Json, print_json, print_page
from moesim.errors import InputError

app = typer.Typer(help="Inspect and convert routing traces.", no_args_is_help=True)


@app.command("inspect")
def inspect(trace: Annotated[Path, typer.Argument(help="Trace file.")], as_json: Json = False) -> None:
    """Load skew per layer, Gini, adjacent-token overlap, co-activation."""
    from moesim.report.formats.text import inspect_table
    from moesim.trace.inspect import inspect_trace

    facts = inspect_trace(trace)
    if as_json:
        print_json(facts)
    else:
        print_page(inspect_table(facts))


@app.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(help="File to convert.")],
    out: Annotated[Path, typer.Argument(help="Parquet file to write.")],
    format: Annotated[str, typer.Option(help="Format of the source; auto recognises it by content.")] = "auto",
    model: Annotated[str | None, typer.Option(help="Model the routing was recorded from.")] = None,
    key: Annotated[str | None, typer.Option(help="Array to take, where the file holds several.")] = None,
    layers: Annotated[str | None, typer.Option(help="Model layer indices of the rows, such as 0,7,15.")] = None,
    as_json: Json = False,
) -> None:
    """Convert a trace to moesim's Parquet."""
    from moesim.model import load_model
    from moesim.report.formats.text import facts_table
    from moesim.trace.convert import convert_trace

    answer = convert_trace(
        source,
        out,
        format=format,
        model=None if model is None else load_model(model),
        key=key,
        layers=None if layers is None else _layer_list(layers),
    )
    if as_json:
        print_json(answer)
    else:
        print_page(facts_table(answer))


def _layer_list(text: str) -> list[int]:
    """The layer indices in "0,7,15"; raises InputError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 8 for part in parts):
        raise InputError(f"--layers {text[:40]!r} is not a list of layer indices; write for example 0,7,15")
    return [int(part) for part in parts]
