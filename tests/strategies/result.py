"""Results and comparisons that look like real ones, made without a simulation; every number follows from the seed.

Array letters: L MoE ordinal, D device (= rank), N node.
"""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from moesim.result import (
    PHASES,
    Bottleneck,
    ComparedRun,
    Comparison,
    FaultResult,
    Headroom,
    LayerResult,
    LinkResult,
    MemoryResult,
    NetworkResult,
    PipelineSpan,
    SimulationResult,
    Spans,
    StageResult,
    StepResult,
    Tables,
    TrainingResult,
)

STRATEGIES = ("contiguous", "round_robin", "random", "hash", "longest_first", "eplb_global", "eplb_hierarchical")
# How uneven each strategy leaves the devices, and the mean number of nodes it sends a token to.
_SKEW = dict(zip(STRATEGIES, (0.55, 0.42, 0.40, 0.41, 0.22, 0.10, 0.13), strict=True))
_NODES = dict(zip(STRATEGIES, (3.1, 3.2, 3.2, 3.2, 3.15, 2.9, 2.3), strict=True))
_FIXED_S = {"attention": 14e-6, "dispatch": 9e-6, "experts": 6e-6, "combine": 11e-6}


def make_result(
    strategy: str = "contiguous",
    *,
    nodes: int = 4,
    local: int = 8,
    layers: int = 26,
    steps: int = 2,
    tokens: int = 2048,
    seed: int = 0,
) -> SimulationResult:
    """One run on `nodes` x `local` devices; `tokens` per rank and step, 0 for no traffic at all."""
    rng = np.random.default_rng([seed, STRATEGIES.index(strategy) if strategy in STRATEGIES else 99])
    load_LD = _load(rng, layers, nodes * local, tokens, _SKEW.get(strategy, 0.3))
    spans, step_times = _spans(rng, load_LD, steps, tokens)
    tables = _tables(rng, spans, load_LD, nodes, local, steps, tokens, _NODES.get(strategy, 2.5))
    return _result(strategy, tables, step_times, layers)


def make_comparison(
    strategies: tuple[str, ...] = STRATEGIES, *, declined: tuple[str, ...] = ("key_grid",), **options: int
) -> Comparison:
    """Several runs on the same machine, and strategies that declined."""
    results = {name: make_result(name, **options) for name in strategies}
    reference = results[strategies[0]].step_time_s if strategies else 0.0
    runs = [
        ComparedRun(
            strategy=name,
            step_time_s=result.step_time_s,
            balancedness=result.balancedness,
            fanout_nodes=result.fanout_nodes,
            plan_s=0.0123,
            speedup=reference / result.step_time_s if result.step_time_s else 1.0,
        )
        for name, result in results.items()
    ]
    runs += [ComparedRun(strategy=name, declined="no product keys in this model") for name in declined]
    balanced = min((result.step_time_s for result in results.values()), default=0.0) * 0.93
    return Comparison(tuple(runs), Headroom(perfect_balance_s=balanced), results, _scenario(options), _ASSUMPTIONS)


@st.composite
def results(draw: st.DrawFn) -> SimulationResult:
    """Any small result: one rank or several, with and without traffic."""
    return make_result(
        draw(st.sampled_from(STRATEGIES)),
        nodes=draw(st.integers(1, 3)),
        local=draw(st.integers(1, 3)),
        layers=draw(st.integers(1, 4)),
        steps=draw(st.integers(1, 3)),
        tokens=draw(st.sampled_from((0, 1, 512))),
        seed=draw(st.integers(0, 1000)),
    )


def broken(result: SimulationResult) -> SimulationResult:
    """The same run as one that a dead device has made a quarter longer, with pairs dropped and lost in every layer."""
    without = {phase: seconds * 0.8 for phase, seconds in result.phase_seconds().items()}
    faults = FaultResult(step_time_without_s=result.step_time_s * 0.8, cost=0.25, phases_without_s=without)
    shares = {"drop_rate": 0.08, "lost_rate": 0.03}
    layers = tuple(layer.model_copy(update=shares) for layer in result.layers)
    changed = {"faults": faults, "lost_pairs": 1234, "lost_tokens": 56, "layers": layers, **shares}
    return result.model_copy(update=changed)


def trained(result: SimulationResult, *, stages: int = 4, micro_batches: int = 8) -> SimulationResult:
    """The same run as a training step in a pipeline."""
    spans = pipeline_spans(stages=stages, micro_batches=micro_batches)
    seconds = {
        "forward_s": 0.1,
        "backward_s": 0.2,
        "weight_gradient_s": 0.0,
        "overlapped_s": 0.3,
        "bubble_s": 0.2,
        "gradient_reduction_s": 0.1,
        "optimizer_s": 0.1,
    }
    training = TrainingResult(
        schedule="1f1b",
        micro_batches=micro_batches,
        num_stages=stages,
        chunks=1,
        zero=1,
        recompute="none",
        tokens=4096,
        bubble_fraction=0.2,
        pipeline_s=0.8,
        send_s=1e-3,
        last_stage=0,
        stages=tuple(StageResult(stage=stage, layers=2, **seconds) for stage in range(stages)),
        **seconds,
    )
    return result.model_copy(update={"training": training, "pipeline": spans})


def pipeline_spans(*, stages: int, micro_batches: int) -> tuple[PipelineSpan, ...]:
    """gpipe: a forward pass takes 10 ms, a backward pass 20 ms."""
    last = (stages + micro_batches - 1) * 0.01
    forward = [
        PipelineSpan(s, 0, m, "F", (s + m) * 0.01, (s + m + 1) * 0.01)
        for s in range(stages)
        for m in range(micro_batches)
    ]
    return tuple(
        forward
        + [
            PipelineSpan(s, 0, m, "B", last + (stages - 1 - s + m) * 0.02, last + (stages - s + m) * 0.02)
            for s in range(stages)
            for m in range(micro_batches)
        ]
    )


_ASSUMPTIONS = (
    "datasheet roofline: compute times from peak rates and memory bandwidth, not from measurements",
    "routing_only: routing of moe-64e-4l replayed under deepseek-v2-lite, its 4 layers repeated in order",
    "weight: equal per flow",
)


def _scenario(options: dict[str, int]) -> dict[str, object]:
    return {
        "format_version": 1,
        "model": "deepseek-v2-lite",
        "cluster": {"topology": "dgx-h100-superpod", "nodes": options.get("nodes", 4)},
        "parallel": {"ep": options.get("nodes", 4) * options.get("local", 8)},
        "trace": {"path": "moe-64e-4l.parquet", "routing_only": True, "tokens_per_rank": 2048, "steps": "4:8"},
        "placement": {"strategy": "contiguous", "slots": 96},
        "dispatch": {"algorithm": "node_dedup", "dtype": "fp8"},
        "mode": {"kind": "prefill", "overlap": "none"},
        "compare": {"strategies": list(STRATEGIES), "plan_steps": "0:4"},
        "seed": 0,
    }


def _load(rng: np.random.Generator, layers: int, devices: int, tokens: int, skew: float) -> NDArray[np.float64]:
    if tokens == 0:
        return np.zeros((layers, devices))
    load = rng.lognormal(0.0, skew, (layers, devices))
    pairs: NDArray[np.float64] = np.round(load / load.mean(axis=1, keepdims=True) * tokens * 6)
    return pairs


def _spans(
    rng: np.random.Generator, load_LD: NDArray[np.float64], steps: int, tokens: int
) -> tuple[Spans, list[float]]:
    """Every rank does the phases in turn; a dispatch or combine ends when the fullest device is served."""
    num_layers, num_devices = load_LD.shape
    rows: list[tuple[int, int, int, int, float, float]] = []
    ready, times = np.zeros(num_devices), []
    for step in range(steps):
        began = float(ready.max())
        ready = np.full(num_devices, began)
        for layer in range(num_layers):
            load = load_LD[layer] * rng.uniform(0.97, 1.03, num_devices)
            attention = tokens * 2e-8 * np.asarray(rng.uniform(0.95, 1.05, num_devices))
            ready = _phase(rows, step, layer, "attention", ready, attention)
            ready = _phase(rows, step, layer, "dispatch", np.full(num_devices, ready.max()), 0.4e-8 * load)
            ready = _phase(rows, step, layer, "experts", ready, 0.9e-8 * load)
            ready = _phase(rows, step, layer, "combine", np.full(num_devices, ready.max()), 0.8e-8 * load)
        ready = _phase(rows, step, -1, "other", ready, np.full(num_devices, 3e-5))
        times.append(float(ready.max()) - began)
    columns = list(zip(*rows, strict=True))
    kinds = (np.int32, np.int32, np.int16, np.int8, np.float64, np.float64)
    return Spans(*(np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True))), times


def _phase(
    rows: list[tuple[int, int, int, int, float, float]],
    step: int,
    layer: int,
    phase: str,
    start: NDArray[np.float64],
    seconds: NDArray[np.float64],
) -> NDArray[np.float64]:
    end = start + seconds + _FIXED_S.get(phase, 0.0)
    code = PHASES.index(phase)
    rows += [(rank, step, layer, code, float(start[rank]), float(end[rank])) for rank in range(start.size)]
    return end


def _tables(
    rng: np.random.Generator,
    spans: Spans,
    load_LD: NDArray[np.float64],
    nodes: int,
    local: int,
    steps: int,
    tokens: int,
    fanout: float,
) -> Tables:
    links = _links(nodes, local)
    bandwidth = np.array([rate for _, _, rate in links])
    total_s = float(spans.end_s.max())
    busy = np.array([{"scale_up": 0.25, "nic": 0.5, "leaf": 0.35}[tier] for _, tier, _ in links])
    moved = busy * rng.uniform(0.5, 1.3, len(links)) * bandwidth * total_s * (0.0 if tokens == 0 else 1.0)
    use = np.clip(rng.normal(0.5, 0.25, (2, 64)), 0, 1) * (0.0 if tokens == 0 else 1.0)
    counts = np.zeros(nodes + 1, dtype=np.int64)
    weights = np.exp(-0.5 * ((np.arange(1, nodes + 1) - min(fanout, nodes)) / 0.7) ** 2)
    counts[1:] = np.round(weights / weights.sum() * tokens * steps * load_LD.size)
    return Tables(
        spans=spans,
        load_LD=load_LD,
        node_of_device_D=np.repeat(np.arange(nodes, dtype=np.int32), local),
        link_names=tuple(name for name, _, _ in links),
        link_tier=tuple(tier for _, tier, _ in links),
        link_bandwidth=bandwidth,
        link_bytes=moved,
        fanout_nodes_count=counts,
        link_use=use,
        link_use_names=(links[0][0], links[-1][0]),
        link_use_time_s=np.linspace(0.0, total_s, 65),
    )


def _links(nodes: int, local: int) -> list[tuple[str, str, float]]:
    """(name, tier, bytes/s) of a rail-optimised tree with one unit."""
    devices = [(node, index) for node in range(nodes) for index in range(local)]
    links = [(f"node{n}.dev{i}.scale_up.{way}", "scale_up", 450e9) for n, i in devices for way in ("out", "in")]
    links += [(f"node{n}.nic{i}.{way}", "nic", 50e9) for n, i in devices for way in ("up", "down")]
    return links + [(f"unit0.leaf{i}.{way}", "leaf", 50e9 * nodes) for i in range(local) for way in ("up", "down")]


def _result(strategy: str, tables: Tables, step_times: list[float], layers: int) -> SimulationResult:
    step_time = float(np.mean(step_times))
    load_LD = tables.load_LD
    fullest = load_LD.max(axis=1)
    balanced = np.where(fullest > 0, load_LD.mean(axis=1) / np.where(fullest > 0, fullest, 1), 1.0)
    counts = tables.fanout_nodes_count
    fanout = float((counts * np.arange(counts.size)).sum() / counts.sum()) if counts.sum() else 0.0
    found = [_layer(tables, ordinal, len(step_times), float(balanced[ordinal]), fanout) for ordinal in range(layers)]
    phases = sum(layer.attention_s + layer.dispatch_s + layer.experts_s + layer.combine_s for layer in found)
    busiest = np.argsort(-tables.link_bytes / tables.link_bandwidth, kind="stable")[:20]
    use = tables.link_bytes / tables.link_bandwidth / sum(step_times)
    return SimulationResult(
        strategy=strategy,
        step_time_s=step_time,
        tokens_per_s_per_device=2048 / step_time,
        steps=tuple(StepResult(step=step, time_s=time, fill=1.0) for step, time in enumerate(step_times)),
        layers=tuple(found),
        other_s=max(step_time - phases, 0.0),
        bottleneck=Bottleneck(kind="nic", name=tables.link_names[int(busiest[0])], share=0.63),
        links=tuple(
            LinkResult(name=tables.link_names[link], bytes=float(tables.link_bytes[link]), utilization=float(use[link]))
            for link in busiest
        ),
        memory=MemoryResult(
            max_device_bytes=21.3e9,
            capacity_bytes=80 * 2.0**30,
            breakdown={"expert_weights": 17e9, "other_weights": 3e9, "kv_cache": 1e9, "dispatch_buffers": 0.3e9},
        ),
        drop_rate=0.0,
        balancedness=float(balanced.mean()),
        fanout_nodes=fanout,
        fanout_devices=fanout * 1.7,
        network=NetworkResult(fidelity="fluid", tolerance=0.02, error_bound=0.08),
        events=12345,
        wall_s=1.23,
        assumptions=_ASSUMPTIONS[:2],
        provenance={
            "profile": "datasheet roofline",
            "trace": {
                "origin": "recorded on held-out text",
                "recorder": "traces/record.py",
                "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            },
            "topology": {
                "name": "dgx-h100-superpod",
                "sha256": "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
            },
            "seed": 0,
            "versions": {"moesim": "0.1.0", "numpy": "2.4.6", "numba": "0.66.0", "simpy": "4.1.1"},
        },
        tables=tables,
    )


def _layer(tables: Tables, ordinal: int, steps: int, balanced: float, fanout: float) -> LayerResult:
    return LayerResult(
        layer=ordinal + 1,
        **{f"{phase}_s": _slowest(tables.spans, ordinal, phase, steps) for phase in _FIXED_S},
        balancedness=balanced,
        fanout_nodes=fanout,
        fanout_devices=fanout * 1.7,
        drop_rate=0.0,
    )


def _slowest(spans: Spans, ordinal: int, phase: str, steps: int) -> float:
    """Time from the last end of anything earlier in the step to the last end of this phase, mean over steps."""
    code = PHASES.index(phase)
    total = 0.0
    for step in range(steps):
        this_step = spans.step == step
        now = this_step & (spans.layer == ordinal) & (spans.phase == code)
        earlier = this_step & (spans.layer >= 0) & (spans.layer * 10 + spans.phase < ordinal * 10 + code)
        begin = spans.end_s[earlier].max() if earlier.any() else spans.start_s[now].min()
        total += float(max(spans.end_s[now].max() - begin, 0.0))
    return total / steps
