"""Workload: the routing of a scenario as dealt steps on the model's MoE layers, recorded or synthetic.

Array letters: L MoE ordinal of the model, T token, K top-k.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moesim.errors import InputError
from moesim.model import MoEModel
from moesim.provenance import data_folder
from moesim.routing import DealtStep, RoutingTrace
from moesim.scenario import Scenario, TraceSection
from moesim.trace import deal, load_trace, num_dealt_steps, synthetic_steps

Window = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Where steps come from, and what was assumed on the way (repeated in every result)."""

    path: Path | None
    origin: str
    num_steps: int
    assumptions: tuple[str, ...]
    deal_window: Callable[[Window], Iterator[DealtStep]]

    def steps(self, window: Window | None) -> Iterator[DealtStep]:
        """The dealt steps of a window (half open, absolute); all of them for None."""
        first, stop = window or (0, self.num_steps)
        if stop > self.num_steps:
            raise InputError(
                f"steps {first}:{stop} go beyond the trace, which deals {self.num_steps} steps; use 0:{self.num_steps}"
            )
        return self.deal_window((first, stop))


def open_workload(scenario: Scenario, model: MoEModel, num_ranks: int) -> Workload:
    """The workload a scenario's trace section describes, for `num_ranks` ranks; InputError where it does not fit."""
    if scenario.trace.router is not None:
        return _synthetic(scenario, model, num_ranks)
    return _recorded(scenario, model, num_ranks)


def _recorded(scenario: Scenario, model: MoEModel, num_ranks: int) -> Workload:
    section = scenario.trace
    path = _find(scenario, str(section.path))
    trace = load_trace(path)
    rows, notes = _layer_rows(trace, model, section)
    seed = scenario.seed if section.seed is None else section.seed
    if trace.info.level == "count":
        notes += (
            "counts expanded to tokens by the assumption `independent`: sources uniform, each token draws its distinct "
            "experts by load",
        )
    num_steps = num_dealt_steps(
        trace, num_ranks=num_ranks, mode=scenario.mode.kind, tokens_per_rank=section.tokens_per_rank
    )

    def deal_window(window: Window) -> Iterator[DealtStep]:
        dealt = deal(
            trace,
            num_ranks=num_ranks,
            mode=scenario.mode.kind,
            tokens_per_rank=section.tokens_per_rank,
            steps=window,
            seed=seed,
        )
        return (_on_model_layers(step, rows) for step in dealt)

    return Workload(
        path=path,
        origin=trace.info.origin or "not stated in the file",
        num_steps=num_steps,
        assumptions=tuple(trace.info.notes) + notes,
        deal_window=deal_window,
    )


def _synthetic(scenario: Scenario, model: MoEModel, num_ranks: int) -> Workload:
    section = scenario.trace
    assert section.tokens_per_rank is not None and section.steps is not None and section.router is not None
    seed = scenario.seed if section.seed is None else section.seed
    parameters = {} if section.exponent is None else {"exponent": section.exponent}

    def deal_window(window: Window) -> Iterator[DealtStep]:
        return synthetic_steps(
            str(section.router),
            num_layers=model.num_moe_layers,
            num_experts=model.num_experts,
            top_k=model.top_k,
            num_ranks=num_ranks,
            tokens_per_rank=int(section.tokens_per_rank or 0),
            steps=window,
            seed=seed,
            parameters=parameters,
        )

    return Workload(
        path=None,
        origin=f"synthetic router {section.router}, seed {seed}",
        num_steps=1 << 31,
        assumptions=(f"routing is synthetic (router {section.router}): sequences, tasks and drift are absent",),
        deal_window=deal_window,
    )


def _layer_rows(trace: RoutingTrace, model: MoEModel, section: TraceSection) -> tuple[np.ndarray, tuple[str, ...]]:
    """For every MoE layer of the model the trace's layer row to use, and what that assumes."""
    info = trace.info
    if (info.num_experts, info.top_k or model.top_k) != (model.num_experts, model.top_k):
        raise InputError(
            f"{trace.path} has {info.num_experts} experts and top-{info.top_k}, but model {model.name} has "
            f"{model.num_experts} and top-{model.top_k}; take a model with the trace's shape"
        )
    if section.routing_only:
        rows = np.arange(model.num_moe_layers) % info.num_layers
        note = (
            f"routing only: {info.num_layers} recorded layers of {info.model or 'an unnamed model'} stand in for the "
            f"{model.num_moe_layers} MoE layers of {model.name}, repeated in order"
        )
        return rows, (note,)
    if info.model not in (None, model.name):
        raise InputError(
            f"{trace.path} was recorded from {info.model}, not {model.name}; name that model, or set "
            "trace.routing_only: true to replay its routing under another model"
        )
    if tuple(info.layers) != tuple(model.moe_layer_indices):
        raise InputError(
            f"{trace.path} holds layers {_shown(info.layers)}, but the MoE layers of {model.name} are "
            f"{_shown(model.moe_layer_indices)}; set trace.routing_only: true to repeat the trace's layers in order"
        )
    return np.arange(model.num_moe_layers), ()


def _shown(layers: tuple[int, ...]) -> str:
    return ", ".join(map(str, layers)) if len(layers) <= 6 else f"{layers[0]}..{layers[-1]} ({len(layers)} of them)"


def _on_model_layers(step: DealtStep, rows: np.ndarray) -> DealtStep:
    if len(rows) == len(step.experts_LTK) and (rows == np.arange(len(rows))).all():
        return step
    weights = None if step.weights_LTK is None else step.weights_LTK[rows]
    return dataclasses.replace(step, experts_LTK=step.experts_LTK[rows], weights_LTK=weights)


def _find(scenario: Scenario, text: str) -> Path:
    """A trace by path, or by name among those that ship with moesim."""
    path = scenario.resolve_path(text)
    if path.exists() or "/" in text or path.suffix:
        return path
    return data_folder("traces") / f"{text}.parquet"
