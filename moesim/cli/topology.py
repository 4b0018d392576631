"""moesim topology: the clusters moesim knows, and those that other programs' files describe."""

from pathlib import Path
from typing import Annotated, Any

import typer

from moesim.cli.output import Json, print_json, print_page, say

app = typer.Typer(help="List and show cluster topologies.", no_args_is_help=True)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Names of the topologies that ship with moesim."""
    from moesim.report.formats.text import records_table
    from moesim.topology import list_topologies

    names = list_topologies()
    if as_json:
        print_json({"topologies": names})
    else:
        print_page(records_table([{"topology": name} for name in names]))


@app.command("show")
def show(
    name: Annotated[
        str, typer.Argument(help="Name of a topology or TPU slice (v4-256), or a .yaml, .json or .graphml file.")
    ],
    nodes: Annotated[int | None, typer.Option(help="Number of nodes.")] = None,
    shape: Annotated[str | None, typer.Option(help="Chips of a torus, such as 4x4x8 or 4x4x8_twisted.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="Another kind of device in the same network.")] = None,
    png: Annotated[Path | None, typer.Option(help="Also draw the cluster to this PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Devices, links, bisection bandwidth, diameter and sources of a cluster."""
    from moesim.topology import describe_topology, load_topology
    from moesim.topology.partial import describe_partial

    known = describe_partial(name)
    if known is not None:
        _answer(known, as_json)
        return
    asked = {"nodes": nodes, "shape": shape, "accelerator": accelerator}
    parameters: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    cluster = load_topology(name, **parameters)
    if png is not None:
        from moesim.report.plots.topology import draw_topology

        draw_topology(cluster, png)
        say(f"drawn to {png}")
    _answer(describe_topology(cluster), as_json)


@app.command("import")
def import_(
    files: Annotated[list[str], typer.Argument(help="Files to merge, the first one first; or a TPU slice (v4-256).")],
    out: Annotated[Path, typer.Option(help="Topology file to write, .yaml.")],
    accelerator: Annotated[str | None, typer.Option(help="Kind of device, where no file says it.")] = None,
    fill: Annotated[str | None, typer.Option(help="Shipped topology to assume what no file says from.")] = None,
    as_json: Json = False,
) -> None:
    """Turn NCCL or hwloc XML, scheduler and fabric files into a topology; what none of them says is listed."""
    from moesim.topology.import_files import import_topology

    _answer(import_topology(files, out, accelerator=accelerator, fill=fill), as_json)


def _answer(facts: dict[str, Any], as_json: bool) -> None:
    """What is known of a cluster, on stdout."""
    from moesim.report.formats.text import facts_table

    if as_json:
        print_json(facts)
    else:
        print_page(facts_table(facts, title=facts["name"]))
