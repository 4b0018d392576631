"""SimulationResult: what one run found, as a JSON summary and as tables (spans, links, devices).

Array letters: S step, L MoE ordinal, D device (or rank), V span.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from moesim.placement import ExpertPlacement

# Streams a rank's time is drawn on; the index is the code stored in `Spans.phase`.
PHASES = ("attention", "dispatch", "experts", "combine", "dense", "other")
FORMAT_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StepResult(_Part):
    """One simulated step: `time_s` until its last rank ended, `fill` = tokens sent / tokens asked for (0..1)."""

    step: int
    time_s: float
    fill: float


class LayerResult(_Part):
    """One MoE layer: phase times on the slowest rank, mean over steps; `layer` is the model layer index.

    `drop_rate` = (token, expert) pairs not computed / routed, of which `lost_rate` to dead devices and the rest by the
    capacity; `padding_rate` = padding / rows the experts compute. All over all steps.
    """

    layer: int
    attention_s: float
    dispatch_s: float
    experts_s: float
    combine_s: float
    balancedness: float
    fanout_nodes: float
    fanout_devices: float
    drop_rate: float
    lost_rate: float = 0.0
    padding_rate: float = 0.0


class Bottleneck(_Part):
    """What limits the step: the kind of resource, its name, and its share of the step time (0..1)."""

    kind: Literal["nic", "scale_up", "copy_engine", "compute", "memory", "fixed"]
    name: str
    share: float


class LinkResult(_Part):
    """Bytes one link carried over all steps, and that over what it could have carried (0..1)."""

    name: str
    bytes: float
    utilization: float


class MemoryResult(_Part):
    """Bytes the tightest device needs, in the step that needs most, and its capacity; `breakdown` = bytes by part."""

    max_device_bytes: float
    capacity_bytes: float
    breakdown: dict[str, float] = {}


class FaultResult(_Part):
    """What the faults of a run cost: its step time without them, and how much more it is with them (0.12 = 12 %).

    `phases_without_s`: seconds by phase without them, over all layers, which add up to that step time.
    """

    step_time_without_s: float
    cost: float
    phases_without_s: dict[str, float] = {}


class NetworkResult(_Part):
    """Which network model ran; `error_bound` is 0 when exact, None when the model (bound) states none."""

    fidelity: Literal["bound", "fluid"]
    tolerance: float
    error_bound: float | None


class StageResult(_Part):
    """Where the seconds of one pipeline stage go in a training step; they add up to `step_time_s` of the result.

    `forward_s`, `backward_s` (gradients of the inputs, and of the weights where the schedule makes both at once) and
    `weight_gradient_s` (those put off) are passes that run alone, `overlapped_s` pairs of a forward and a backward pass.
    `bubble_s` is idle time. `layers` counts the model layers it holds, over all its chunks.
    """

    stage: int
    layers: int
    forward_s: float
    backward_s: float
    weight_gradient_s: float
    overlapped_s: float
    bubble_s: float
    gradient_reduction_s: float
    optimizer_s: float


class TrainingResult(_Part):
    """One training step by phase: the seconds of `last_stage`, which ends last (see `StageResult`), and of every stage.

    `bubble_fraction` = idle stage-seconds / (stages x `pipeline_s`), `pipeline_s` = until the last pass of any stage
    ends. `send_s` = one micro-batch's activations to the next stage, `tokens` = tokens of the step on all devices.
    """

    schedule: str
    micro_batches: int
    num_stages: int
    chunks: int
    zero: int
    recompute: str
    tokens: int
    forward_s: float
    backward_s: float
    weight_gradient_s: float
    overlapped_s: float
    bubble_s: float
    gradient_reduction_s: float
    optimizer_s: float
    bubble_fraction: float
    pipeline_s: float
    send_s: float
    last_stage: int
    stages: tuple[StageResult, ...]


@dataclass(frozen=True, slots=True)
class PipelineSpan:
    """One pass of one micro-batch on a pipeline stage, seconds from the start of the step.

    `kind`: F forward, B backward (of the inputs, and of the weights unless they have a W), W weights. A forward and a
    backward pass that overlap are two spans with the same times. `chunk` numbers the parts of the model on the stage.
    """

    stage: int
    chunk: int
    micro_batch: int
    kind: Literal["F", "B", "W"]
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Spans:
    """What every rank did when: parallel arrays [V]; `layer` is the MoE ordinal, -1 outside MoE layers."""

    rank: NDArray[np.int32]
    step: NDArray[np.int32]
    layer: NDArray[np.int16]
    phase: NDArray[np.int8]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tables:
    """The arrays behind a result, for pictures and for recomputing every summary number.

    `load_LD` (token, expert) pairs per device, mean over steps; `link_bytes`, `link_busy_s` per link in the order of
    `link_names`, summed over steps; `link_tier` its tier; `fanout_nodes_count[n]` tokens (over all layers and steps)
    sent to n distinct nodes. `link_use` holds a few links' use over time for counter tracks: [links, bins] in 0..1,
    over `link_use_names` and bin edges `link_use_time_s`.
    """

    spans: Spans
    load_LD: NDArray[np.float64]
    node_of_device_D: NDArray[np.int32]
    link_names: tuple[str, ...]
    link_tier: tuple[str, ...]
    link_bandwidth: NDArray[np.float64]
    link_bytes: NDArray[np.float64]
    fanout_nodes_count: NDArray[np.int64]
    link_use: NDArray[np.float64]
    link_use_names: tuple[str, ...]
    link_use_time_s: NDArray[np.float64]


class SimulationResult(_Part):
    """One run's answer; every field but `tables`, `pipeline` and `wall_s` goes to result.json.

    `training` and `pipeline` are those of a training step, whose `layers` rows are means over the pipeline's stages.
    `lost_tokens` were on devices that died, `lost_pairs` are (token, expert) pairs of those or without a live copy; both
    over all steps, pairs over all layers too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    format_version: int = FORMAT_VERSION
    strategy: str
    step_time_s: float
    tokens_per_s_per_device: float
    steps: tuple[StepResult, ...]
    layers: tuple[LayerResult, ...]
    other_s: float
    bottleneck: Bottleneck
    links: tuple[LinkResult, ...]
    memory: MemoryResult
    drop_rate: float
    lost_rate: float = 0.0
    padding_rate: float = 0.0
    lost_tokens: int = 0
    lost_pairs: int = 0
    faults: FaultResult | None = None
    training: TrainingResult | None = None
    balancedness: float
    fanout_nodes: float
    fanout_devices: float
    network: NetworkResult
    events: int
    wall_s: float
    assumptions: tuple[str, ...]
    provenance: dict[str, Any]
    tables: Tables | None = None
    pipeline: tuple[PipelineSpan, ...] = ()

    def phase_seconds(self) -> dict[str, float]:
        """Seconds of a step in each phase on the slowest rank, summed over layers; they add up to the step time."""
        phases = ("attention", "dispatch", "experts", "combine")
        totals = {phase: float(sum(getattr(layer, f"{phase}_s") for layer in self.layers)) for phase in phases}
        return {**totals, "other": self.other_s}

    def summary(self, *, wall_clock: bool = True) -> dict[str, Any]:
        """Plain data for JSON; without `wall_clock` nothing in it depends on how fast this machine is."""
        hidden = {"tables", "pipeline"} if wall_clock else {"tables", "pipeline", "wall_s"}
        return self.model_dump(mode="json", exclude=hidden)


class ComparedRun(_Part):
    """One strategy of a comparison; a strategy that declined has only `strategy` and `declined`.

    Where several traces judge, `step_time_s` is the objective over `case_times_s`, their own step times.
    """

    strategy: str
    declined: str | None = None
    step_time_s: float | None = None
    balancedness: float | None = None
    fanout_nodes: float | None = None
    plan_s: float | None = None
    speedup: float | None = None
    case_times_s: dict[str, float] | None = None


class Headroom(_Part):
    """Step times no placement of these slots is expected to beat; None where nothing computes them."""

    perfect_balance_s: float | None = None
    oracle_s: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several strategies judged on the same steps; `results` holds the runs that were not declined, by strategy.

    `placements` are those strategies' placements, one per MoE layer.
    """

    runs: tuple[ComparedRun, ...]
    headroom: Headroom
    results: dict[str, SimulationResult]
    scenario: dict[str, Any]
    assumptions: tuple[str, ...]
    placements: dict[str, tuple[ExpertPlacement, ...]] = field(default_factory=dict)

    @property
    def fastest(self) -> str | None:
        """The quickest strategy, the first of equals; None where all declined."""
        times = {run.strategy: run.step_time_s for run in self.runs if run.step_time_s is not None}
        return min(times, key=lambda name: times[name]) if times else None

    def summary(self, *, wall_clock: bool = True) -> dict[str, Any]:
        """Plain data for JSON: runs and headroom; `plan_s` only with `wall_clock`."""
        hidden = set() if wall_clock else {"plan_s"}
        runs = [run.model_dump(mode="json", exclude_none=True, exclude=hidden) for run in self.runs]
        return {"runs": runs, "headroom": self.headroom.model_dump(mode="json")}


def read_result(path: Path) -> dict[str, Any]:
    """The summary in a result.json, checked for version; raises InputError in one sentence otherwise."""
    from moesim.errors import InputError

    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read result {path}: {error}") from None
    if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path} is not a moesim result of format_version {FORMAT_VERSION}")
    return data
