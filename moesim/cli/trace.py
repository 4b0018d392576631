"""moesim trace: look into a routing trace, or convert one to moesim's own Parquet."""

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.output import Json, print_json, print_page
from moesim.errors import InputError

app = typer.Typer(help="Inspect, convert and generate routing traces.", no_args_is_help=True)


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
    permutation: Annotated[
        Path | None, typer.Option(help="Recorded on permuted experts: the permutation that `moesim export` wrote.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert a trace to moesim's Parquet."""
    from moesim.exporters.expert_order import read_orders
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
        orders=None if permutation is None else read_orders(permutation),
    )
    if as_json:
        print_json(answer)
    else:
        print_page(facts_table(answer))


@app.command("generate")
def generate(
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    router: Annotated[str, typer.Option(help="Router: product_key, softmax_topk, expert_choice, ...")],
    tokens: Annotated[int, typer.Option(help="Tokens, over all steps and ranks.")],
    experts: Annotated[int | None, typer.Option(help="Experts of a layer; the model's own with --model.")] = None,
    topk: Annotated[int | None, typer.Option(help="Experts of a token, of each head.")] = None,
    heads: Annotated[int | None, typer.Option(help="Routing heads (product_key).")] = None,
    layers: Annotated[int | None, typer.Option(help="MoE layers: 1, or all of the model's.")] = None,
    model: Annotated[str | None, typer.Option(help="Model whose experts, top-k, heads and layers to take.")] = None,
    structure: Annotated[float | None, typer.Option(help="Share of a token's query that is its topic's, 0..1.")] = None,
    preset: Annotated[str | None, typer.Option(help="Knobs fitted to a recording, by name.")] = None,
    dynamics: Annotated[str | None, typer.Option(help="Training along the steps: collapse:rate=0.2+dropout")] = None,
    set: Annotated[list[str] | None, typer.Option(help="Another parameter of the router, NAME=VALUE.")] = None,
    ranks: Annotated[int, typer.Option(help="Source ranks.")] = 1,
    steps: Annotated[int, typer.Option(help="Steps.")] = 1,
    repeat_tokens: Annotated[bool, typer.Option(help="Route the same tokens in every step.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    as_json: Json = False,
) -> None:
    """Write a trace from a synthetic router."""
    from moesim.model import load_model
    from moesim.report.formats.text import facts_table
    from moesim.trace.generate import generate_trace, shape_of

    given = {"structure": structure, "preset": preset, "dynamics": dynamics, **_assignments(set or [])}
    answer = generate_trace(
        out,
        router=router,
        shape=shape_of(
            None if model is None else load_model(model),
            num_experts=experts,
            top_k=topk,
            heads=heads,
            num_layers=layers,
        ),
        num_tokens=tokens,
        num_ranks=ranks,
        num_steps=steps,
        repeat_tokens=repeat_tokens,
        seed=seed,
        parameters={name: value for name, value in given.items() if value is not None},
    )
    if as_json:
        print_json(answer)
    else:
        print_page(facts_table(answer))


def _assignments(pairs: list[str]) -> dict[str, float | str]:
    """NAME=VALUE pairs, values as numbers where they are; raises InputError."""
    values: dict[str, float | str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--set {pair[:40]!r} is not NAME=VALUE; write for example topics=32")
        try:
            values[name] = float(text)
        except ValueError:
            values[name] = text
    return values


@app.command("capture")
def capture(
    hf: Annotated[Path, typer.Option(help="Folder of a Hugging Face model with safetensors weights.")],
    text: Annotated[Path, typer.Option(help="Text file to run it on.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    model: Annotated[str | None, typer.Option(help="The model's name in moesim, for the trace's header.")] = None,
    tokens: Annotated[int, typer.Option(help="Most tokens of the text to take.")] = 16384,
    sequence_length: Annotated[int, typer.Option(help="Tokens of one sequence.")] = 1024,
    as_json: Json = False,
) -> None:
    """Run a Hugging Face model on a text and record which experts every token went to."""
    from moesim.report.formats.text import facts_table
    from moesim.trace.capture import capture_text

    answer = capture_text(hf, text, out, name=model, most_tokens=tokens, length=sequence_length)
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
