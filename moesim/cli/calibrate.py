"""moesim calibrate: measurements of others to records, records to a profile."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.output import Json, print_json

app = typer.Typer(help="Import measurements, fit profiles.", no_args_is_help=True)
Count = int | None


@app.command("import")
def import_(
    sources: Annotated[list[str], typer.Argument(metavar="LOG...", help="Files, or aiconfigurator:SYSTEM[/FOLDER].")],
    out: Annotated[Path, typer.Option(help="JSON Lines file to write.")],
    format: Annotated[str, typer.Option(help="Importer; auto recognises it by content.")] = "auto",
    hardware: Annotated[str | None, typer.Option(help="The catalogue's name of the accelerator.")] = None,
    library: Annotated[str | None, typer.Option(help="Name of the library, where not the log's usual one.")] = None,
    ranks: Annotated[Count, typer.Option(help="Ranks, where the log does not say.")] = None,
    nodes: Annotated[Count, typer.Option(help="Nodes, where the log does not say.")] = None,
    tokens_per_rank: Annotated[Count, typer.Option(help="Tokens of one rank, where the log does not say.")] = None,
    hidden: Annotated[Count, typer.Option(help="Width of a token, where the log does not say.")] = None,
    top_k: Annotated[Count, typer.Option(help="Experts per token, where the log does not say.")] = None,
    experts: Annotated[Count, typer.Option(help="Experts of the layer, where the log does not say.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Data type, where the log does not say.")] = None,
    take: Annotated[
        str, typer.Option(help="out_of_place, in_place or both (nccl-tests, rccl-tests).")
    ] = "out_of_place",
    as_json: Json = False,
) -> None:
    """Read nccl-tests, rccl-tests and DeepEP logs, profiler traces, tables and silicon data."""
    from calibrate.import_logs import answer_lines, import_logs
    from calibrate.import_report import ImportOptions

    options = ImportOptions(
        hardware=hardware,
        library=library,
        ranks=ranks,
        nodes=nodes,
        tokens_per_rank=tokens_per_rank,
        hidden=hidden,
        top_k=top_k,
        experts=experts,
        dtype=dtype,
        take=take,
    )
    answer = import_logs(sources, out, format=format, options=options)
    if as_json:
        print_json(answer)
    else:
        sys.stdout.write("\n".join(answer_lines(answer)) + "\n")


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="JSON Lines file to append to.")],
    probes: Annotated[str | None, typer.Option(help="Probes, separated by commas; all when absent.")] = None,
    effort: Annotated[str, typer.Option(help="quick (try it out) or full.")] = "full",
    budget: Annotated[float, typer.Option(help="Seconds per case.")] = 0.5,
    hardware: Annotated[str | None, typer.Option(help="The catalogue's name of the accelerator.")] = None,
    as_json: Json = False,
) -> None:
    """Measure this machine, as `python -m calibrate run` does; under torchrun for more than one rank."""
    from calibrate.__main__ import main
    from calibrate.measurement import read_measurements

    options = ["--out", str(out), "--effort", effort, "--budget", str(budget)]
    options += ["--probes", probes] if probes is not None else []
    options += ["--hardware", hardware] if hardware is not None else []
    status = main(["run", *options])
    if status:
        raise typer.Exit(status)
    if as_json:
        print_json({"measurements": len(read_measurements(out).measurements), "out": str(out)})


@app.command()
def fit(
    measurements: Annotated[list[str], typer.Argument(metavar="M.jsonl...", help="JSON Lines files of measurements.")],
    out: Annotated[Path, typer.Option(help="Profile to write.")],
    hardware: Annotated[str | None, typer.Option(help="The catalogue's name of the accelerator.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the profile; that of the file when absent.")] = None,
    as_json: Json = False,
) -> None:
    """Fit a profile to measurements, each curve with its held-out error and its range."""
    from calibrate.fit import answer_lines, fit_files

    answer = fit_files(measurements, str(out), hardware=hardware, name=name)
    if as_json:
        print_json(answer)
    else:
        sys.stdout.write("\n".join(answer_lines(answer)) + "\n")
