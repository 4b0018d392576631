"""What a trace file holds, in one streaming pass: the answer of `moesim trace inspect`."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.routing import RoutingTrace
from moesim.trace.rows import CountRows, TokenRows
from moesim.trace.stats import TokenTally, gini, independent_overlap, max_over_mean
from moesim.trace.step_statistics import StepTally
from moesim.trace.store import open_trace, read_rows

_OF_TOKENS = (
    *("adjacent_overlap", "adjacent_overlap_independent", "coactivation", "died_experts", "effective_first"),
    *("effective_last", "collapse", "load_shift", "flip_rate", "audit"),
)


def inspect_trace(path: str | Path) -> dict[str, Any]:
    """Header and statistics of the trace in `path`, every row checked; lists have one entry a layer.

    `layers` is their number and `layer_indices` their model layer indices; `load_tokens` (token, expert) pairs in all;
    what a count-level trace cannot tell is None; what changes from step to step (`StepTally.facts`) is None for one
    step. Raises InputError.
    """
    trace = open_trace(path)
    load_LE, of_tokens = _count_level(trace) if trace.info.level == "count" else _token_level(trace)
    info = trace.info
    return {
        "level": info.level,
        "model": info.model,
        "layers": info.num_layers,
        "layer_indices": list(info.layers),
        "experts": info.num_experts,
        "top_k": info.top_k or None,
        "tokens": info.num_tokens or None,
        "ranks": info.num_ranks,
        "steps": info.num_steps,
        "max_over_mean": max_over_mean(load_LE).tolist(),
        "gini": gini(load_LE).tolist(),
        "dead_experts": (load_LE == 0).sum(axis=1).tolist(),
        "load_tokens": int(load_LE.sum()),
        **of_tokens,
        "has_weights": info.has_weights,
        "has_sequences": info.has_sequences,
        "origin": info.origin,
        "recorder": info.recorder,
        "notes": list(info.notes),
    }


def _count_level(trace: RoutingTrace) -> tuple[NDArray[np.int64], dict[str, Any]]:
    load_LE = np.zeros((trace.info.num_layers, trace.info.num_experts), np.int64)
    for _, rows in read_rows(trace):
        assert isinstance(rows, CountRows)
        np.add.at(load_LE, (np.searchsorted(trace.info.layers, rows.layer_W), rows.expert_W), rows.tokens_W)
    return load_LE, dict.fromkeys(_OF_TOKENS)


def _token_level(trace: RoutingTrace) -> tuple[NDArray[np.int64], dict[str, Any]]:
    tally, along_steps = TokenTally(trace.info), StepTally(trace.info)
    for _, rows in read_rows(trace):
        assert isinstance(rows, TokenRows)
        tally.add(rows)
        along_steps.add(rows)
    overlap_L = tally.adjacent_overlap().tolist()
    return tally.load_LE, {
        "adjacent_overlap": [None if math.isnan(overlap) else overlap for overlap in overlap_L],
        "adjacent_overlap_independent": independent_overlap(
            tally.load_LE, trace.info.num_tokens, trace.info.top_k
        ).tolist(),
        "coactivation": tally.coactivation(),
        **along_steps.facts(),
    }
