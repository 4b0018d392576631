"""result.json: the summary of a result or comparison, for machines and for `read_result`."""

import json
from typing import Any

from moesim.result import FORMAT_VERSION, Comparison, SimulationResult


def render(subject: Comparison | SimulationResult) -> dict[str, bytes]:
    """result.json with sorted keys and without wall-clock times, so equal runs give equal bytes."""
    text = json.dumps(document(subject), indent=1, sort_keys=True, allow_nan=False)
    return {"result.json": f"{text}\n".encode()}


def document(subject: Comparison | SimulationResult) -> dict[str, Any]:
    """Plain data: one result's summary, or a comparison's with the summary of every run under `results`."""
    if isinstance(subject, SimulationResult):
        return subject.summary(wall_clock=False)
    return {
        "format_version": FORMAT_VERSION,
        **subject.summary(wall_clock=False),
        "results": {name: result.summary(wall_clock=False) for name, result in subject.results.items()},
        "scenario": subject.scenario,
        "assumptions": list(subject.assumptions),
    }
