"""Workload: the routing of a scenario as dealt steps on the model's MoE layers, recorded or synthetic.

Array letters: L MoE ordinal of the model, T token, K top-k.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError, unknown_name
from moesim.model import MoEModel
from moesim.provenance import data_folder
from moesim.routing import DealtStep, RoutingTrace
from moesim.scenario import Scenario, TraceSection
from moesim.trace import load_trace
from moesim.trace.dealing import deal, num_dealt_steps
from moesim.trace.expansion import expansion_note
from moesim.trace.layer_rule import rows_to_replay
from moesim.trace.synthetic import Parameter, SyntheticRouter, make_router, routed_steps, router_parameters

Window = tuple[int, int]
MOST_STEPS = 1 << 31  # a synthetic router never runs out


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Where steps come from, and what was assumed on the way (repeated in every result)."""

    path: Path | None
    origin: str
    num_steps: int
    assumptions: tuple[str, ...]
    has_weights: bool  # gate weights come with the routing
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
    info = trace.info
    rows = rows_to_replay(info, model, str(path), routing_only=section.routing_only)
    seed = scenario.seed if section.seed is None else section.seed
    options: dict[str, Any] = {
        "num_ranks": num_ranks,
        "mode": scenario.mode.kind,
        "tokens_per_rank": section.tokens_per_rank,
        "top_k": model.top_k,
    }

    def deal_window(window: Window) -> Iterator[DealtStep]:
        return (_on_model_layers(step, rows) for step in deal(trace, steps=window, seed=seed, **options))

    return Workload(
        path=path,
        origin=info.origin or "not stated in the file",
        num_steps=num_dealt_steps(trace, **options),
        assumptions=_assumptions(trace, model, section),
        has_weights=info.has_weights,
        deal_window=deal_window,
    )


def _assumptions(trace: RoutingTrace, model: MoEModel, section: TraceSection) -> tuple[str, ...]:
    notes = list(trace.info.notes)
    if trace.info.level == "count":
        notes.append(expansion_note(trace))
    if section.routing_only:
        notes.append(
            f"routing only: the {trace.info.num_layers} recorded layers of {trace.info.model or 'an unnamed model'} stand "
            f"in for the {model.num_moe_layers} MoE layers of {model.name}, repeated in order"
        )
    return tuple(notes)


def _synthetic(scenario: Scenario, model: MoEModel, num_ranks: int) -> Workload:
    section = scenario.trace
    router, tokens_per_rank = section.router, section.tokens_per_rank
    assert router is not None and tokens_per_rank is not None  # checked when the section was read
    seed = scenario.seed if section.seed is None else section.seed
    parameters = _router_parameters(scenario, model)
    num_zero = 0 if router == "zero_experts" else model.num_router_targets - model.num_experts

    @functools.cache
    def made() -> SyntheticRouter:  # not before a step is asked for, then once: a million experts take a while
        return make_router(
            router,
            num_layers=model.num_moe_layers,
            num_experts=model.num_experts + num_zero,
            top_k=model.top_k,
            seed=seed,
            parameters=parameters,
        )

    def deal_window(window: Window) -> Iterator[DealtStep]:
        steps = routed_steps(
            made(), num_ranks=num_ranks, tokens_per_rank=tokens_per_rank, steps=window, mode=scenario.mode.kind
        )
        return (_without_zero_experts(step, model.num_experts) for step in steps) if num_zero else steps

    content = (
        "sequences, topics and drift are drawn"
        if "structure" in router_parameters(router)
        else "tokens have no content"
    )
    told = "".join(f", {name}={value}" for name, value in parameters.items())
    notes = [f"routing is synthetic (router {router}{told}): {content}"]
    if num_zero:
        notes.append(f"the router draws {num_zero} zero experts like the others; nothing is sent to them")
    return Workload(
        path=None,
        origin=f"synthetic router {router}, seed {seed}",
        num_steps=MOST_STEPS,
        assumptions=tuple(notes),
        has_weights=False,
        deal_window=deal_window,
    )


def _router_parameters(scenario: Scenario, model: MoEModel) -> dict[str, Parameter]:
    """What the scenario gives the router, after what follows from the model where the router asks for it."""
    section = scenario.trace
    known, of_model = router_parameters(str(section.router)), dict[str, Parameter]()
    if "num_groups" in known and model.num_groups > 1:
        of_model = {"num_groups": model.num_groups, "top_groups": model.moe.top_groups or model.num_groups}
    if "zero" in known and model.moe.num_zero_experts:
        of_model["zero"] = model.moe.num_zero_experts
    if "heads" in known:
        of_model["heads"] = model.moe.heads
    exponent: dict[str, Parameter] = {} if section.exponent is None else {"exponent": section.exponent}
    return {**of_model, **exponent, **section.parameters}


def _without_zero_experts(step: DealtStep, num_experts: int) -> DealtStep:
    """The step with ids from `num_experts` on as -1, at the ends of their rows."""
    zero_LTK = step.experts_LTK >= num_experts
    order_LTK = np.argsort(zero_LTK, axis=-1, kind="stable")
    kept_LTK = np.where(zero_LTK, np.int32(-1), step.experts_LTK)
    return dataclasses.replace(step, experts_LTK=np.take_along_axis(kept_LTK, order_LTK, axis=-1))


def _on_model_layers(step: DealtStep, rows: NDArray[np.int64]) -> DealtStep:
    if np.array_equal(rows, np.arange(len(step.experts_LTK))):
        return step
    weights = None if step.weights_LTK is None else step.weights_LTK[rows]
    return dataclasses.replace(step, experts_LTK=step.experts_LTK[rows], weights_LTK=weights)


def _find(scenario: Scenario, text: str) -> Path:
    """A trace by path, or by name among those that ship with moesim."""
    path = scenario.resolve_path(text)
    if path.exists() or "/" in text or path.suffix:
        return path
    shipped = {file.stem: file for file in sorted(data_folder("traces").glob("*.parquet"))}
    if text not in shipped:
        raise unknown_name("trace", text, shipped)
    return shipped[text]
