"""From simulated steps to a SimulationResult: means, tables, and what the links carried.

Array letters: S step, L MoE ordinal, D device, J link, B time bin.
"""

import numpy as np
from numpy.typing import NDArray

from moesim.capacity import total_counts
from moesim.result import PHASES, LayerResult, LinkResult, MemoryResult, Spans, StepResult, Tables
from moesim.simulation.exposed import exposed_seconds
from moesim.simulation.observation import TransferObservation
from moesim.simulation.recorder import join_spans
from moesim.simulation.run import StepRun
from moesim.step_work import WorkPlan
from moesim.units import format_bytes

Floats = NDArray[np.float64]
_LAYER_PHASES = ("attention", "dispatch", "experts", "combine")
_SHOWN_LINKS = 20
_COUNTER_LINKS = 16
_COUNTER_BINS = 400


def step_results(runs: list[StepRun]) -> tuple[StepResult, ...]:
    """Time and fill of every step."""
    return tuple(StepResult(step=run.step, time_s=run.time_s, fill=run.fill) for run in runs)


def layer_results(runs: list[StepRun], plan: WorkPlan) -> tuple[LayerResult, ...]:
    """Phases of each MoE layer on each step's slowest rank, and the layer's balance and fan-out; means over steps."""
    phase_SLP = np.stack([_phases_of_rank(run, plan.model.num_moe_layers) for run in runs])
    phase_LP = phase_SLP.mean(axis=0)
    results = []
    for ordinal, index in enumerate(plan.model.moe_layer_indices):
        seen = [run.layers[ordinal] for run in runs]
        counts = total_counts([layer.capacity for layer in seen])
        results.append(
            LayerResult(
                layer=index,
                **{f"{phase}_s": float(phase_LP[ordinal, code]) for code, phase in enumerate(_LAYER_PHASES)},
                balancedness=float(np.mean([layer.balancedness for layer in seen])),
                fanout_nodes=_mean_over_tokens(runs, [layer.fanout_nodes for layer in seen]),
                fanout_devices=_mean_over_tokens(runs, [layer.fanout_devices for layer in seen]),
                drop_rate=counts.drop_rate,
                lost_rate=sum(layer.lost_pairs for layer in seen) / max(counts.routed, 1),
                padding_rate=counts.padding_rate,
            )
        )
    return tuple(results)


def memory_result(runs: list[StepRun], plan: WorkPlan) -> MemoryResult:
    """Bytes of the tightest device in the step that needs most, against its memory."""
    parts = max((run.memory_parts for run in runs), key=lambda parts: sum(parts.values()))
    capacity = plan.builder.cluster.devices[plan.memory_device()[0]].memory_bytes
    return MemoryResult(max_device_bytes=sum(parts.values()), capacity_bytes=capacity, breakdown=parts)


def memory_notes(memory: MemoryResult) -> tuple[str, ...]:
    """A sentence when the fullest device would not hold what it must; the times then belong to no real run."""
    if memory.max_device_bytes <= memory.capacity_bytes:
        return ()
    needed, capacity = format_bytes(memory.max_device_bytes), format_bytes(memory.capacity_bytes)
    return (f"does not fit: the tightest device needs {needed} of its {capacity}; times are as if it did",)


def make_tables(runs: list[StepRun], plan: WorkPlan) -> Tables:
    """The arrays behind the summary; step s starts where step s - 1 ended."""
    links, cluster = plan.builder.links, plan.builder.cluster
    transfers = _transfers(runs)
    link_bytes = np.sum([transfer.link_bytes for transfer, _ in transfers], axis=0)
    total_s = sum(run.time_s for run in runs)
    shown = np.argsort(-link_bytes / links.bandwidth, kind="stable")[:_COUNTER_LINKS]
    edges_s = np.linspace(0.0, total_s, _COUNTER_BINS + 1)
    return Tables(
        spans=join_spans([run.spans for run in runs]),
        load_LD=np.mean([[layer.load_D for layer in run.layers] for run in runs], axis=0),
        node_of_device_D=cluster.node_of_device_D,
        link_names=links.names,
        link_tier=links.tiers,
        link_bandwidth=links.bandwidth,
        link_bytes=link_bytes,
        fanout_nodes_count=np.sum([layer.fanout_nodes_count for run in runs for layer in run.layers], axis=0),
        link_use=_use_over_time(transfers, shown, edges_s) / links.bandwidth[shown, None],
        link_use_names=tuple(links.names[link] for link in shown),
        link_use_time_s=edges_s,
    )


def top_links(tables: Tables, total_s: float) -> tuple[LinkResult, ...]:
    """The links used most in proportion to what they could carry in the whole run."""
    possible = tables.link_bandwidth * total_s
    use = np.divide(tables.link_bytes, possible, out=np.zeros_like(possible), where=possible > 0)
    order = np.argsort(-use, kind="stable")[:_SHOWN_LINKS]
    return tuple(
        LinkResult(name=tables.link_names[link], bytes=float(tables.link_bytes[link]), utilization=float(use[link]))
        for link in order
        if tables.link_bytes[link] > 0
    )


def _phases_of_rank(run: StepRun, num_layers: int) -> Floats:
    """Seconds [L, phase] on the slowest rank of one step, every instant counted once."""
    spans: Spans = run.spans
    mine = spans.rank == run.slowest_rank
    exposed = exposed_seconds(spans.phase[mine], spans.start_s[mine], spans.end_s[mine])
    inside = spans.layer[mine] >= 0
    cell = (spans.layer[mine].astype(np.int64) * len(PHASES) + spans.phase[mine])[inside]
    seconds = np.bincount(cell, weights=exposed[inside], minlength=num_layers * len(PHASES))
    return seconds.astype(np.float64, copy=False).reshape(num_layers, len(PHASES))


def _mean_over_tokens(runs: list[StepRun], values: list[float]) -> float:
    tokens = np.array([run.num_tokens for run in runs], dtype=np.float64)
    return float(np.average(values, weights=tokens)) if tokens.sum() > 0 else 0.0


def _transfers(runs: list[StepRun]) -> list[tuple[TransferObservation, float]]:
    """Every collective of the run with the time its step began."""
    starts = np.concatenate([[0.0], np.cumsum([run.time_s for run in runs])])
    return [
        (transfer, float(start))
        for run, start in zip(runs, starts, strict=False)
        for layer in run.layers
        for transfer in (layer.dispatch, layer.combine)
    ]


def _use_over_time(
    transfers: list[tuple[TransferObservation, float]], shown: NDArray[np.int64], edges_s: Floats
) -> Floats:
    """Bytes/s [shown links, B]: each collective's bytes spread evenly from its first start to its last finish there."""
    width = edges_s[1] - edges_s[0]
    use = np.zeros((len(shown), len(edges_s) - 1))
    if width <= 0.0:
        return use
    for transfer, offset_s in transfers:
        for row, link in enumerate(shown):
            start_s, end_s = transfer.start_s[link] + offset_s, transfer.end_s[link] + offset_s
            if transfer.link_bytes[link] > 0 and end_s > start_s:
                inside = np.clip(np.minimum(edges_s[1:], end_s) - np.maximum(edges_s[:-1], start_s), 0.0, None)
                use[row] += transfer.link_bytes[link] * inside / ((end_s - start_s) * width)
    return use
