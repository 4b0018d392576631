"""Tables on a terminal hold the numbers and nothing that a file could smuggle in."""

import io
from typing import Any

from rich.console import Console, RenderableType

from moesim.report.formats.text import (
    comparison_table,
    facts_table,
    inspect_table,
    page,
    records_table,
    render,
    result_table,
)
from tests.strategies.result import broken, make_comparison, make_result

SMALL: dict[str, Any] = {"nodes": 2, "local": 2, "layers": 3, "steps": 1}


def printed(renderable: RenderableType, width: int = 140) -> str:
    """What a terminal of this width shows, without colours."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_comparison_table_holds_every_number() -> None:
    """Step time, speedup, balancedness, fan-out and the reason of a refusal are on the row of their strategy."""
    comparison = make_comparison(**SMALL)
    rows = {line.split()[0]: line for line in printed(comparison_table(comparison)).splitlines() if line.strip()}
    for run in comparison.runs:
        if run.step_time_s is None:
            assert f"declined: {run.declined}" in rows[run.strategy]
            continue
        for number in (f"{run.speedup:.2f}x", f"{run.balancedness:.3f}", f"{run.fanout_nodes:.2f}", "12.3 ms"):
            assert number in rows[run.strategy]


def test_result_table_has_a_row_for_every_layer() -> None:
    """Each layer's index, phases and balancedness are shown."""
    result = make_result(**SMALL)
    text = printed(result_table(result))
    for layer in result.layers:
        assert f"{layer.balancedness:.3f}" in text
    assert all(any(line.split()[:1] == [str(layer.layer)] for line in text.splitlines()) for layer in result.layers)


def test_the_page_gives_answer_and_sureness() -> None:
    """A terminal shows question, answer, how sure it is, and the assumptions."""
    text = " ".join(printed(page(make_comparison(**SMALL))).split())
    assert "is fastest" in text
    assert "no measured error is known" in text
    assert "- weight: equal per flow" in text


def test_names_are_not_markup() -> None:
    """Square brackets and terminal escapes in a name are shown, not obeyed."""
    result = make_result(**SMALL).model_copy(update={"strategy": "[red]\x1b[31mevil[/red]"})
    text = printed(result_table(result))
    assert "[red]?[31mevil[/red]" in text
    assert "\x1b" not in text


def test_summary_file_has_no_wall_clock() -> None:
    """summary.txt is the same bytes twice and leaves planning time out."""
    comparison = make_comparison(**SMALL)
    first = render(comparison)["summary.txt"]
    assert first == render(comparison)["summary.txt"]
    assert b"planned in" not in first
    assert "planned in" in printed(page(comparison))


def test_facts_are_flattened() -> None:
    """Nested data shows as dotted keys, lists of plain values on one row."""
    text = printed(facts_table({"memory": {"bytes": 1048576, "kind": "HBM"}, "sources": ["a", "b"], "none": None}))
    found = {parts[0]: parts[1:] for parts in map(str.split, text.splitlines()) if parts}
    assert found == {"memory.bytes": ["1,048,576"], "memory.kind": ["HBM"], "sources": ["a,", "b"], "none": ["-"]}


def test_records_have_a_row_each() -> None:
    """A list of models or topologies shows a row each under common headings; an empty list is an empty table."""
    text = printed(records_table([{"name": "a", "devices": 8}, {"name": "b", "devices": None}]))
    assert [line.split() for line in text.splitlines() if line.strip() and not set(line.strip()) <= set("\u2500 ")] == [
        ["name", "devices"],
        ["a", "8"],
        ["b", "-"],
    ]
    assert printed(records_table([])).strip() == ""


def test_inspection_shows_lists_per_layer_as_columns() -> None:
    """`layers` lists of one value a layer become columns under the layer's index; the rest stays a list of facts."""
    facts = {
        "level": "token",
        "layers": 2,
        "layer_indices": [1, 2],
        "gini": [0.25, 0.5],
        "max_over_mean": [2.0, 3.12345],
        "coactivation": [{"mean_lift": 1.5, "top_pairs": [{"experts": [1, 2]}]}] * 2,
        "experts": 64,
    }
    lines = [" ".join(line.split()) for line in printed(inspect_table(facts)).splitlines()]
    assert "layer gini max over mean mean lift" in lines
    assert "1 0.25 2 1.5" in lines
    assert "2 0.5 3.123 1.5" in lines
    assert "experts 64" in lines


def test_inspection_lists_what_the_audit_flagged() -> None:
    """Every flagged expert is a row of its own; a note is a fact even where there are as many notes as layers."""
    flagged = {"window": 3, "layer": 7, "expert": 5, "tokens": 90, "expected": 41.23456, "z": 9.87654}
    audit = {"windows": 8, "cells": 16, "threshold": 4.5, "flagged": 1, "table": [flagged]}
    text = printed(
        inspect_table({"layers": 1, "layer_indices": [7], "gini": [0.25], "notes": ["even"], "audit": audit})
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "layer gini" in lines
    assert "notes even" in lines
    assert "audit.flagged 1" in lines
    assert "window layer expert tokens expected z" in lines
    assert "3 7 5 90 41.23 9.877" in lines


def test_inspection_without_layers_is_facts_only() -> None:
    """Nothing to tabulate."""
    assert "token" in printed(inspect_table({"level": "token", "layers": 0}))


def test_lost_pairs_have_their_own_column() -> None:
    """5 % dropped, 3 % lost in every layer; no such column where nothing is lost."""
    text = printed(result_table(broken(make_result(**SMALL))))
    assert "lost to dead devices" in text
    rows = [line.split() for line in text.splitlines() if line.split()[-3:] == ["5.00%", "3.00%", "0.00%"]]
    assert len(broken(make_result(**SMALL)).layers) == len(rows)
    assert "lost" not in printed(result_table(make_result(**SMALL)))
