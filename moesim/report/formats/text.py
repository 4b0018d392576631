"""Tables on a terminal (rich), and the same words as summary.txt.

Names come from files: they enter as Text, never as markup.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from moesim.report.context import flatten, limits_tokens, plain
from moesim.report.summary import RunLine, Summary, summarise
from moesim.report.words import aligned_times, printable
from moesim.result import Comparison, MemoryResult, SimulationResult, TrainingResult
from moesim.units import format_bytes, format_time

_WIDTH = 110


def render(subject: Comparison | SimulationResult) -> dict[str, bytes]:
    """summary.txt: question, answer and tables as plain text; wall-clock times left out."""
    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(page(subject, wall_clock=False))
    assert isinstance(console.file, io.StringIO)
    text = "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
    return {"summary.txt": f"{text}\n".encode()}


def page(subject: Comparison | SimulationResult, *, wall_clock: bool = True) -> RenderableType:
    """What `simulate` and `compare` print: the table, then the answer, what limits, how sure we are."""
    summary = summarise(subject)
    table = result_table(subject) if isinstance(subject, SimulationResult) else _runs_table(summary, wall_clock)
    words: list[RenderableType] = [Text(printable(summary.answer), style="bold")]
    words += [Text(printable(sentence)) for sentence in summary.remarks]
    words += [Text(printable(sentence), style="dim") for sentence in summary.sureness]
    if summary.assumptions:
        words.append(Text("Assumptions:", style="dim"))
        words += [Padding(Text(f"- {printable(text)}", style="dim"), (0, 0, 0, 2)) for text in summary.assumptions]
    question = Text(printable(summary.question), style="bold cyan")
    return Group(question, table, *words)


def comparison_table(comparison: Comparison) -> Table:
    """One row a strategy, fastest first; strategies that declined last, with their reason."""
    return _runs_table(summarise(comparison), wall_clock=True)


def _runs_table(summary: Summary, wall_clock: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    times, unit = aligned_times([line.step_time_s for line in summary.lines])
    planned = wall_clock and any(line.plan_s is not None for line in summary.lines)
    table.add_column("strategy", no_wrap=True)
    for heading in (
        f"step time ({unit})",
        "speedup",
        "balancedness",
        "fan-out (nodes)",
        *(["planned in"] if planned else []),
    ):
        table.add_column(heading, justify="right")
    table.add_column("limited by", overflow="fold")
    for line, time in zip(summary.lines, times, strict=True):
        table.add_row(*_cells(line, time, planned), style="bold green" if line.is_best else None)
    return table


def _cells(line: RunLine, time: str, planned: bool) -> list[Text]:
    if line.declined is not None:
        blank = [Text("-")] * (5 if planned else 4)
        return [Text(printable(line.strategy)), *blank, Text(printable(f"declined: {line.declined}"))]
    numbers = [
        time,
        "-" if line.speedup is None else f"{line.speedup:.2f}x",
        "-" if line.balancedness is None else f"{line.balancedness:.3f}",
        "-" if line.fanout_nodes is None else f"{line.fanout_nodes:.2f}",
    ]
    if planned:
        numbers.append("-" if line.plan_s is None else format_time(line.plan_s))
    return [Text(printable(line.strategy)), *map(Text, numbers), Text(printable(line.limit))]


def result_table(result: SimulationResult) -> RenderableType:
    """The numbers of one run, then a row for every layer."""
    layers = Table(box=box.SIMPLE_HEAD, title="layers (mean over steps)", title_justify="left")
    limited = limits_tokens(result)
    headings = ["layer", "attention", "dispatch", "experts", "combine", "balancedness", "fan-out nodes"]
    losing = ["lost"] if result.lost_rate else []
    for heading in headings + (["dropped", *losing, "padding"] if limited else []):
        layers.add_column(heading, justify="right")
    for layer in result.layers:
        times = (layer.attention_s, layer.dispatch_s, layer.experts_s, layer.combine_s)
        cells = [str(layer.layer), *map(format_time, times), f"{layer.balancedness:.3f}", f"{layer.fanout_nodes:.2f}"]
        if limited:
            shares = [layer.drop_rate - layer.lost_rate, *([layer.lost_rate] if losing else []), layer.padding_rate]
            cells += [f"{max(share, 0.0):.2%}" for share in shares]
        layers.add_row(*map(Text, cells))
    return Group(facts_table(_result_facts(result)), layers)


def _result_facts(result: SimulationResult) -> dict[str, str]:
    memory, limit = result.memory, result.bottleneck
    return {
        "strategy": result.strategy,
        "step time": format_time(result.step_time_s),
        **({} if result.training is None else _training_facts(result.training)),
        "tokens/s per device": plain(result.tokens_per_s_per_device),
        "limited by": f"{limit.kind} {limit.name} ({limit.share:.0%} of the step)",
        "balancedness": f"{result.balancedness:.3f}",
        "fan-out": f"{result.fanout_nodes:.2f} nodes, {result.fanout_devices:.2f} devices",
        "fullest device": f"{format_bytes(memory.max_device_bytes)} of {format_bytes(memory.capacity_bytes)}",
        **({"memory": _memory_words(memory)} if memory.breakdown else {}),
        "dropped": f"{max(result.drop_rate - result.lost_rate, 0.0):.2%}",
        **({"lost to dead devices": f"{result.lost_rate:.2%}"} if result.lost_rate else {}),
        **({"padding": f"{result.padding_rate:.2%} of the rows computed"} if result.padding_rate else {}),
        "steps": str(len(result.steps)),
    }


def _training_facts(training: TrainingResult) -> dict[str, str]:
    """The shape of a training step, and where the time of its last stage goes."""
    phases = {
        "forward": training.forward_s,
        "backward": training.backward_s,
        "weight gradients": training.weight_gradient_s,
        "overlapped pairs": training.overlapped_s,
        "bubble": training.bubble_s,
        "gradient reduction": training.gradient_reduction_s,
        "optimizer": training.optimizer_s,
    }
    parts = [f"{name} {format_time(seconds)}" for name, seconds in phases.items() if seconds > 0]
    shape = f"{training.micro_batches} micro-batches, {training.num_stages} stages, ZeRO {training.zero}"
    return {
        "schedule": f"{training.schedule}, {shape}, recompute {training.recompute}",
        f"stage {training.last_stage}": " + ".join(parts),
        "bubble": f"{training.bubble_fraction:.1%} of all stages' time until the last backward pass",
    }


def _memory_words(memory: MemoryResult) -> str:
    parts = [f"{name.replace('_', ' ')} {format_bytes(size)}" for name, size in memory.breakdown.items() if size > 0]
    return ", ".join(parts) or "nothing"


def facts_table(facts: Mapping[str, Any], title: str | None = None) -> Table:
    """Plain nested data as key and value, for `topology show`, `model show` and the like."""
    table = Table(box=None, show_header=False, title=None if title is None else Text(printable(title), style="bold"))
    table.title_justify = "left"
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for key, text in flatten(facts):
        table.add_row(Text(printable(key)), Text(printable(text)))
    return table


def records_table(records: Sequence[Mapping[str, Any]], title: str | None = None) -> Table:
    """A row for every record, a column for every key of the first; for `topology list`, `model list`."""
    table = Table(box=box.SIMPLE_HEAD, title=None if title is None else Text(printable(title), style="bold"))
    table.title_justify = "left"
    keys = list(records[0]) if records else []
    for key in keys:
        numeric = all(isinstance(record.get(key), (int, float, type(None))) for record in records)
        table.add_column(Text(printable(str(key))), justify="right" if numeric else "left", overflow="fold")
    for record in records:
        table.add_row(*(Text(printable(plain(record.get(key)))) for key in keys))
    return table


def inspect_table(facts: Mapping[str, Any]) -> RenderableType:
    """What `trace inspect` found: single values as facts, lists of one value per layer as columns of one table, what the
    audit flagged as another.
    """
    count, audit = int(facts["layers"]), dict(facts.get("audit") or {})
    columns = {key: value for key, value in facts.items() if _is_per_layer(value, count)}
    flagged = audit.pop("table", [])
    told = {**facts, "audit": audit} if audit else facts
    tables = [facts_table({key: value for key, value in told.items() if key not in columns})]
    index = columns.pop("layer_indices", range(count))
    records = [
        {"layer": layer, **{name: cell for key, value in columns.items() for name, cell in _cells_of(key, value[row])}}
        for row, layer in enumerate(index)
    ]
    if columns:
        tables.append(records_table(records))
    if flagged:
        rounded = [dict(cell for key, value in one.items() for cell in _cells_of(key, value)) for one in flagged]
        tables.append(records_table(rounded, "audit: experts busier or idler than the inputs explain"))
    return Group(*tables)


def _is_per_layer(value: Any, count: int) -> bool:
    """A list of `count` numbers, mappings or Nones; text is not a layer's."""
    return (
        isinstance(value, (list, tuple)) and len(value) == count > 0 and not any(isinstance(one, str) for one in value)
    )


def _cells_of(key: str, value: Any) -> list[tuple[str, Any]]:
    """One cell, or of a mapping one for each of its plain values; lists inside it are for --json."""
    if isinstance(value, Mapping):
        return [
            cell
            for name, inner in value.items()
            if not isinstance(inner, (list, Mapping))
            for cell in _cells_of(name, inner)
        ]
    return [(key.replace("_", " "), float(f"{value:.4g}") if isinstance(value, float) else value)]
