"""report.html: one self-contained page (no script, no network) with the answer, the pictures and what they rest on."""

import json
from typing import Any

import yaml
from markupsafe import Markup

from moesim.report.context import flatten
from moesim.report.page import Lines, render_page
from moesim.report.pictures import sections
from moesim.report.sentences import LIMIT_WORDS
from moesim.report.summary import RunLine, Summary, as_comparison, summarise
from moesim.report.words import aligned_times, printable
from moesim.result import Comparison, SimulationResult
from moesim.units import format_bytes, format_time

_LONGEST_VALUE = 4000


def render(subject: Comparison | SimulationResult) -> dict[str, bytes]:
    """The page."""
    return {"report.html": render_page("report.html", _content(subject))}


def _content(subject: Comparison | SimulationResult) -> dict[str, Any]:
    comparison = as_comparison(subject)
    summary = summarise(comparison)
    shown = comparison.results.get(summary.best or "")
    drawn = sections(comparison, summary)
    times, unit = aligned_times([line.step_time_s for line in summary.lines])
    return {
        "eyebrow": "moesim report",
        "title": summary.question,
        "answer": summary.answer,
        "remarks": summary.remarks,
        "sureness": summary.sureness,
        "assumptions": summary.assumptions,
        "figures": _key_figures(summary, shown),
        "rows": [_row(line, time) for line, time in zip(summary.lines, times, strict=True)],
        "time_unit": unit,
        "sections": [
            (section.anchor, section.heading, section.reading, [(p.caption, Markup(p.svg)) for p in section.pictures])
            for section in drawn
        ],
        "rests_on": _rests_on(shown),
        "scenario": _scenario_text(comparison.scenario),
    }


def _key_figures(summary: Summary, shown: SimulationResult | None) -> list[tuple[str, str, str]]:
    """(label, value, remark) of the numbers a reader looks for first."""
    if shown is None:
        return []
    limit, memory = shown.bottleneck, shown.memory
    gain = next((line.speedup for line in summary.lines if line.is_best), None)
    figures = [("Step time", format_time(shown.step_time_s), shown.strategy)]
    if gain is not None and len(summary.lines) > 1:
        figures.append(("Speedup", f"{gain:.2f}x", f"over {summary.baseline or 'contiguous'}"))
    figures += [
        ("Throughput", f"{shown.tokens_per_s_per_device:,.0f}", "tokens/s per device"),
        ("Limited by", LIMIT_WORDS[limit.kind], f"{limit.name}, {limit.share:.0%} of the step"),
        ("Balancedness", f"{shown.balancedness:.2f}", "mean over fullest device, 1 is even"),
        ("Memory", f"{_percent(memory.max_device_bytes, memory.capacity_bytes)}", _memory_remark(shown)),
    ]
    return figures


def _percent(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole > 0 else "-"


def _memory_remark(shown: SimulationResult) -> str:
    memory = shown.memory
    return f"{format_bytes(memory.max_device_bytes)} of {format_bytes(memory.capacity_bytes)} on the fullest device"


def _row(line: RunLine, time: str) -> dict[str, Any]:
    return {
        "strategy": line.strategy,
        "declined": line.declined,
        "best": line.is_best,
        "cells": [
            time,
            "-" if line.speedup is None else f"{line.speedup:.2f}x",
            "-" if line.balancedness is None else f"{line.balancedness:.3f}",
            "-" if line.fanout_nodes is None else f"{line.fanout_nodes:.2f}",
        ],
        "limit": f"{line.limit} ({line.limit_link})" if line.limit_link else line.limit,
    }


def _rests_on(shown: SimulationResult | None) -> list[tuple[str, str]]:
    """Rows of (what, value): the network model, then everything the run recorded of its origin."""
    if shown is None:
        return []
    network = shown.network
    error = "not stated" if network.error_bound is None else f"{network.error_bound:.3g}"
    rows = [
        ("network model", f"{network.fidelity}, tolerance {network.tolerance:g}, error bound {error}"),
        ("simulated", f"{len(shown.steps)} steps, {len(shown.layers)} MoE layers, {shown.events:,} events"),
    ]
    origin = {key: value for key, value in shown.provenance.items() if key != "scenario"}
    recorded = flatten(origin) if origin else []
    return rows + [(key, printable(value, _LONGEST_VALUE)) for key, value in recorded]


def _scenario_text(scenario: dict[str, Any]) -> str:
    if not scenario:
        return ""
    plain = json.loads(json.dumps(scenario, default=str))  # YAML that any reader accepts: no tuples, no tags
    return Lines(yaml.safe_dump(plain, sort_keys=False, allow_unicode=False))
