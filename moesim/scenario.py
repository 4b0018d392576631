"""Scenario: everything one run depends on, as one YAML file; unknown keys are refused with the nearest known key."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from moesim.errors import InputError, unknown_name
from moesim.faults import Fault
from moesim.faults import Kind as FaultKind
from moesim.units import TINY, BytesPerSecond, PositiveBytes, Seconds
from moesim.yaml_file import read_yaml, validate

FORMAT_VERSION = 1
MOST_TRACES = 32
Count = Annotated[int, Field(strict=True, ge=1, le=1 << 31)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]
Name = Annotated[str, Field(min_length=1, max_length=4096)]
Dtype = Annotated[str, Field(min_length=1, max_length=16)]


def parse_window(text: Any) -> tuple[int, int]:
    """A half-open window of steps, "4:8" -> (4, 8); raises ValueError in one sentence.

    >>> parse_window("0:8")
    (0, 8)
    """
    if isinstance(text, (tuple, list)) and len(text) == 2:
        text = f"{text[0]}:{text[1]}"
    parts = str(text).split(":")
    if len(parts) != 2 or not all(part.strip().isdecimal() and len(part) < 12 for part in parts):
        raise ValueError(f'{str(text)[:40]!r} is not a window of steps; write "START:STOP" in quotes, half open')
    start, stop = int(parts[0]), int(parts[1])
    if stop <= start:
        raise ValueError(f"window {start}:{stop} is empty; STOP must be larger than START")
    return start, stop


Window = Annotated[tuple[int, int], BeforeValidator(parse_window)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DeviceOverride(_Section):
    """Devices whose name matches `match` (`node1.*`, `*.dev0`) get this speed (fraction) or memory (bytes)."""

    match: Name
    speed: Annotated[float, Field(ge=TINY, le=1e6)] | None = None
    memory: PositiveBytes | None = None


class ClusterSection(BaseModel):
    """A topology by name or path; the other keys are that shape's parameters, checked by the shape."""

    model_config = ConfigDict(extra="allow", frozen=True)
    topology: Name
    devices: tuple[DeviceOverride, ...] = ()

    @property
    def parameters(self) -> dict[str, Any]:
        """The keys that belong to the shape (nodes, ...)."""
        return dict(self.model_extra or {})


class ParallelSection(_Section):
    """Degrees of parallelism; what is left out is taken from the world size."""

    ep: Count | None = None
    dp: Count | None = None
    tp: Count = 1
    pp: Count = 1
    etp: Count = 1


class TraceSection(_Section):
    """A recorded trace (`path`) or a synthetic router (`router`), and how its tokens are dealt.

    With a router, keys that are no other's are its `parameters` (structure, topics, preset, ...), checked by the router.
    """

    path: Name | None = None
    router: Name | None = None
    steps: Window | None = None
    tokens_per_rank: Count | None = None
    seed: Seed | None = None
    exponent: Annotated[float, Field(ge=0, le=10)] | None = None
    expand: Literal["independent"] | None = None
    routing_only: bool = False
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    parameters: dict[str, float | str] = Field(default_factory=dict, max_length=64)

    @model_validator(mode="before")
    @classmethod
    def _of_the_router(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("router") is None:
            return data
        unlisted = [key for key in data if key not in cls.model_fields]
        if not unlisted:
            return data
        from moesim.trace.synthetic import router_parameters  # numba: not before a scenario needs it

        known = router_parameters(str(data["router"]))
        for key in unlisted:
            if key not in known:
                raise unknown_name("key in trace", str(key), [*cls.model_fields, *known])
        kept = {key: value for key, value in data.items() if key in cls.model_fields}
        return {**kept, "parameters": {**kept.get("parameters", {}), **{key: data[key] for key in unlisted}}}

    @model_validator(mode="after")
    def _one_origin(self) -> "TraceSection":
        if (self.path is None) == (self.router is None):
            raise ValueError(
                "give exactly one of path (a recorded trace) and router (uniform, zipf, softmax_topk, ...)"
            )
        if self.router is not None and (self.tokens_per_rank is None or self.steps is None):
            raise ValueError("a router needs tokens_per_rank and steps (START:STOP)")
        return self


class PlacementSection(_Section):
    """A strategy with its number of slots per layer, or a plan file."""

    strategy: Name | None = None
    plan: Name | None = None
    slots: Count | None = None
    extra_slots_per_device: Annotated[int, Field(strict=True, ge=0, le=1 << 20)] | None = None
    groups: Count | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "PlacementSection":
        if self.strategy is not None and self.plan is not None:
            raise ValueError("give strategy or plan, not both")
        if self.slots is not None and self.extra_slots_per_device is not None:
            raise ValueError("give slots or extra_slots_per_device, not both")
        if self.plan is not None and (self.slots is not None or self.extra_slots_per_device is not None):
            raise ValueError("a plan has its own slots; drop slots and extra_slots_per_device")
        return self


class WeightsSection(_Section):
    """Type of the expert and dense weights; the model's own when absent."""

    dtype: Dtype | None = None


class DispatchSection(_Section):
    """How tokens travel to their experts; keys given here override what the kernel's profile says."""

    algorithm: Literal["direct", "per_device", "node_dedup", "all_gather", "torus"] | None = None
    kernel: Name = "generic"
    dtype: Dtype = "bf16"
    replica: Literal["nearest", "even", "split"] | None = None
    sms: Annotated[int, Field(strict=True, ge=1, le=1024)] | None = None
    paths: Name | None = None


class CombineSection(_Section):
    """Type of the expert outputs on their way back."""

    dtype: Dtype = "bf16"


class CapacitySection(_Section):
    """Tokens an expert accepts, `factor` x its mean load, and what happens to the others; rules in `moesim.capacity`.

    `scope`: whose tokens share one capacity. `min_capacity` is read by rule deepspeed only; dropless reads `policy` only.
    """

    policy: Literal["dropless", "drop_by_probability", "drop_by_position", "pad"] = "dropless"
    factor: Annotated[float, Field(gt=0, le=1e6)] | None = None
    rule: Literal["megatron", "deepspeed", "gshard"] = "megatron"
    scope: Literal["rank", "group"] = "rank"
    min_capacity: Annotated[int, Field(strict=True, ge=0, le=1 << 31)] = 4

    @model_validator(mode="after")
    def _factor_given(self) -> "CapacitySection":
        if self.factor is None and self.policy != "dropless":
            raise ValueError(f"policy {self.policy} needs a factor, tokens an expert accepts / mean load, such as 1.25")
        return self


class NetworkSection(_Section):
    """Network model: `bound` (closed form) or `fluid` (max-min fair); tolerance merges near completions, 0 is exact."""

    fidelity: Literal["bound", "fluid"] = "fluid"
    tolerance: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class ModeSection(_Section):
    """Kind of step; `context_length` = tokens already in the cache of each running sequence (decode).

    `overlap`: what runs beside communication: nothing, the shared expert, or the other half of each rank's tokens
    (`dualpipe`: as two_batch, with `dispatch.sms` taken from compute while anything is in flight).
    """

    kind: Literal["decode", "prefill", "train"] = "decode"
    overlap: Literal["none", "shared_expert", "two_batch", "dualpipe"] = "none"
    context_length: Annotated[int, Field(strict=True, ge=0, le=1 << 30)] = 4096
    cuda_graph: bool = True


class TrainSection(_Section):
    """Shape of a training step; read by mode kind train only.

    `micro_batches`: of one pipeline and step, each of tokens_per_rank tokens a rank. `chunks`: parts of the model on each
    stage of schedule interleaved. `stage_layers`: layers of each part where they are not all equal. `activation_dtype`:
    type of what is kept for the backward pass. `optimizer`: the types it keeps (moesim/training_memory.py). `reduction`:
    how gradients are reduced (ring, tree, two_hop).
    """

    micro_batches: Annotated[int, Field(strict=True, ge=1, le=1 << 16)] = 8
    schedule: Name = "1f1b"
    zero: Annotated[int, Field(strict=True, ge=0, le=3)] = 1
    sequence_length: Count = 4096
    recompute: Literal["none", "selective", "full"] = "none"
    chunks: Annotated[int, Field(strict=True, ge=1, le=1 << 10)] = 2
    stage_layers: tuple[Annotated[int, Field(strict=True, ge=0, le=1 << 15)], ...] | None = None
    activation_dtype: Dtype = "bf16"
    optimizer: Name = "adam"
    reduction: Name = "ring"


def parse_objective(text: Any) -> float:
    """The share of better cases that an objective leaves out: mean -> 0, worst -> 1, cvar:0.9 -> 0.9.

    The objective is then the mean over the worst cases that are left; raises ValueError in one sentence.

    >>> parse_objective("mean"), parse_objective("cvar:0.9"), parse_objective("worst")
    (0.0, 0.9, 1.0)
    """
    known = {"mean": 0.0, "worst": 1.0}
    name, _, level = str(text).partition(":")
    if str(text) in known:
        return known[name]
    try:
        value = float(level) if name == "cvar" else -1.0
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1.0:
        raise ValueError(
            f"objective {str(text)[:40]!r} is none of mean, worst and cvar:LEVEL with LEVEL from 0 to below 1"
        )
    return value


class PlanSection(_Section):
    """What strategies that optimise aim at.

    `objective` over the traces of a scenario (over the steps of its only trace): mean, worst, or cvar:0.9, the mean of the
    worst tenth. `survive`: failure domains that every expert outlives. `drop_budget`: share of (token, expert) pairs that
    capacity factors may drop; none are chosen without it. `payback_steps`: steps within which a moved copy pays.
    """

    objective: Name = "mean"
    survive: Annotated[int, Field(strict=True, ge=0, le=8)] = 0
    drop_budget: Annotated[float, Field(ge=0, lt=1)] | None = None
    payback_steps: Annotated[int, Field(strict=True, ge=1, le=1 << 40)] = 1000

    @field_validator("objective")
    @classmethod
    def _known_objective(cls, value: str) -> str:
        parse_objective(value)
        return value


class MemorySection(_Section):
    """What happens when a step does not fit into a device's memory: `refuse` the run, or `warn` and go on.

    With `expert_cache` (bytes of a device, over all layers) experts live in a slower tier, host memory for one: a device
    keeps the hottest of its slots and fetches the others at `tier_bandwidth` when tokens come for them. Not in training.
    """

    check: Literal["refuse", "warn"] = "refuse"
    expert_cache: PositiveBytes | None = None
    tier_bandwidth: BytesPerSecond | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> "MemorySection":
        if (self.expert_cache is None) != (self.tier_bandwidth is None):
            raise ValueError(
                "expert_cache and tier_bandwidth go together: bytes a device keeps, and the rate of the rest"
            )
        return self


class FaultSection(_Section):
    """One thing that breaks, `at` seconds into every step (0 = from the start); `factor` = speed or bandwidth left."""

    kind: FaultKind
    device: Annotated[int, Field(strict=True, ge=0, le=1 << 31)] | None = None
    link: Name | None = None
    factor: float | None = None
    at: Seconds = 0.0

    @model_validator(mode="after")
    def _is_a_fault(self) -> "FaultSection":
        try:
            self.fault()
        except InputError as error:
            raise ValueError(str(error)) from None
        return self

    def fault(self) -> Fault:
        """The fault this section is about; raises InputError where its keys do not fit its kind."""
        return Fault(kind=self.kind, at_s=self.at, device=self.device, link=self.link, factor=self.factor)


class CompareSection(_Section):
    """What `compare` runs when it is not told otherwise; `plan_steps` is the window load-aware strategies plan on."""

    strategies: tuple[Name, ...] = ()
    plan_steps: Window | None = None


class Scenario(_Section):
    """One run, complete: the file can be named, hashed and rerun alone. `folder` is where relative paths start."""

    format_version: Literal[1]
    model: Name
    cluster: ClusterSection
    parallel: ParallelSection = ParallelSection()
    trace: TraceSection
    placement: PlacementSection = PlacementSection(strategy="contiguous")
    weights: WeightsSection = WeightsSection()
    dispatch: DispatchSection = DispatchSection()
    combine: CombineSection = CombineSection()
    capacity: CapacitySection = CapacitySection()
    network: NetworkSection = NetworkSection()
    profile: Name | None = None
    mode: ModeSection = ModeSection()
    train: TrainSection = TrainSection()
    memory: MemorySection = MemorySection()
    plan: PlanSection = PlanSection()
    compare: CompareSection = CompareSection()
    faults: tuple[FaultSection, ...] = ()
    seed: Seed = 0
    folder: Path = Field(default=Path(), exclude=True)
    other_traces: tuple[TraceSection, ...] = Field(default=(), exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _first_trace(cls, data: Any) -> Any:
        """A list of traces is the first one and `other_traces`."""
        if not isinstance(data, dict) or not isinstance(data.get("trace"), (list, tuple)):
            return data
        traces = list(data["trace"])
        if not 1 <= len(traces) <= MOST_TRACES:
            raise ValueError(f"trace is a list of {len(traces)}; give 1 to {MOST_TRACES} traces")
        return {**data, "trace": traces[0], "other_traces": traces[1:]}

    @property
    def traces(self) -> tuple[TraceSection, ...]:
        """All traces, each one scenario of the traffic."""
        return (self.trace, *self.other_traces)

    def of_traces(self) -> tuple["Scenario", ...]:
        """The scenario with each of its traces alone."""
        data = self.record()
        alone = data["trace"] if self.other_traces else [data["trace"]]
        return tuple(make_scenario({**data, "trace": trace}, folder=self.folder) for trace in alone)

    def resolve_path(self, text: str) -> Path:
        """`text` as a path: absolute, else beside the scenario file when it exists there, else from the working folder."""
        path = Path(text).expanduser()
        beside = self.folder / path
        return beside if not path.is_absolute() and beside.exists() else path

    def record(self) -> dict[str, Any]:
        """The scenario as plain data that rebuilds it: defaults written out, windows as text."""
        data = self.model_dump(mode="json", exclude_none=True)
        others = [trace.model_dump(mode="json", exclude_none=True) for trace in self.other_traces]
        for section, key in (
            (data["compare"], "plan_steps"),
            *((trace, "steps") for trace in (data["trace"], *others)),
        ):
            if key in section:
                section[key] = "{}:{}".format(*section[key])
        if others:
            data["trace"] = [data["trace"], *others]
        return data

    def without_faults(self) -> "Scenario":
        """A copy in which nothing breaks."""
        return make_scenario({**self.record(), "faults": []}, folder=self.folder)

    def changed(self, **sections: dict[str, Any]) -> "Scenario":
        """A copy with keys of some sections (of every trace) replaced, checked again: `changed(placement={"slots": 96})`."""
        data = self.record()
        for section, keys in sections.items():
            before = data.get(section, {})
            merged = [{**part, **keys} for part in (before if isinstance(before, list) else [before])]
            kept = [{key: value for key, value in part.items() if value is not None} for part in merged]
            data[section] = kept if isinstance(before, list) else kept[0]
        return make_scenario(data, folder=self.folder)


def make_scenario(data: dict[str, Any], *, folder: Path = Path(), where: str = "scenario") -> Scenario:
    """The scenario in `data`; raises InputError in one sentence with the key, the value got and the bound."""
    for key in ("folder", "other_traces"):
        if key in data:
            raise InputError(f"{where}: unknown key {key!r}")
    version = data.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise InputError(f"{where}: format_version is {version!r}; this moesim reads {FORMAT_VERSION}")
    return validate(Scenario, {**data, "folder": folder}, where)


def load_scenario(path: str | Path) -> Scenario:
    """The scenario in a YAML file; relative paths inside it start beside the file."""
    path = Path(path)
    return make_scenario(read_yaml(path), folder=path.parent, where=str(path))
