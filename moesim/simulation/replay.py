"""Replay: dealt steps run one after the other on a fresh clock each, summed up as one SimulationResult."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from moesim.capacity import total_counts
from moesim.result import Bottleneck, NetworkResult, SimulationResult
from moesim.routing import DealtStep
from moesim.simulation.bottleneck import find_bottleneck
from moesim.simulation.outcome import layer_results, make_tables, memory_notes, memory_result, step_results, top_links
from moesim.simulation.run import StepRun, run_step
from moesim.step_work import StepWork, WorkPlan

OnStep = Callable[[int], None]


def replay(
    plan: WorkPlan,
    steps: Iterable[DealtStep],
    *,
    strategy: str,
    fidelity: str,
    tolerance: float,
    assumptions: tuple[str, ...],
    provenance: dict[str, Any],
    on_step: OnStep | None = None,
) -> SimulationResult:
    """Run every step from time 0 and average; `on_step` is told how many are done."""
    began = time.perf_counter()
    runs: list[StepRun] = []
    offset_s = 0.0
    for dealt in steps:
        runs.append(
            run_step(StepWork(plan=plan, dealt=dealt), fidelity=fidelity, tolerance=tolerance, offset_s=offset_s)
        )
        offset_s += runs[-1].time_s
        if on_step is not None:
            on_step(len(runs))
    return _result(plan, runs, strategy, fidelity, tolerance, assumptions, provenance, time.perf_counter() - began)


def _result(
    plan: WorkPlan,
    runs: list[StepRun],
    strategy: str,
    fidelity: str,
    tolerance: float,
    assumptions: tuple[str, ...],
    provenance: dict[str, Any],
    wall_s: float,
) -> SimulationResult:
    layers = layer_results(runs, plan)
    tables = make_tables(runs, plan)
    memory = memory_result(runs, plan)
    counts = total_counts([layer.capacity for run in runs for layer in run.layers])
    total_s = sum(run.time_s for run in runs)
    step_time_s = total_s / len(runs)
    phases_s = sum(layer.attention_s + layer.dispatch_s + layer.experts_s + layer.combine_s for layer in layers)
    tokens = sum(run.num_tokens - run.lost_tokens for run in runs)
    errors = [run.error_bound for run in runs if run.error_bound is not None]
    bottleneck: Bottleneck = find_bottleneck(runs, plan.builder.links, [d.name for d in plan.builder.cluster.devices])
    return SimulationResult(
        strategy=strategy,
        step_time_s=step_time_s,
        tokens_per_s_per_device=tokens / total_s / plan.num_devices if total_s > 0 else 0.0,
        steps=step_results(runs),
        layers=layers,
        other_s=max(step_time_s - phases_s, 0.0),
        bottleneck=bottleneck,
        links=top_links(tables, total_s),
        memory=memory,
        drop_rate=counts.drop_rate,
        lost_rate=sum(layer.lost_pairs for run in runs for layer in run.layers) / max(counts.routed, 1),
        padding_rate=counts.padding_rate,
        lost_tokens=sum(run.lost_tokens for run in runs),
        lost_pairs=sum(layer.lost_pairs for run in runs for layer in run.layers),
        balancedness=float(np.mean([layer.balancedness for layer in layers])),
        fanout_nodes=float(np.mean([layer.fanout_nodes for layer in layers])),
        fanout_devices=float(np.mean([layer.fanout_devices for layer in layers])),
        network=NetworkResult(fidelity=fidelity, tolerance=tolerance, error_bound=max(errors) if errors else None),
        events=sum(run.events for run in runs),
        wall_s=wall_s,
        assumptions=assumptions + memory_notes(memory),
        provenance=provenance,
        tables=tables,
    )
