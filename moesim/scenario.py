"""Scenario: everything one run depends on, as one YAML file; unknown keys are refused with the nearest known key."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from moesim.errors import InputError
from moesim.faults import Fault
from moesim.faults import Kind as FaultKind
from moesim.units import TINY, PositiveBytes, Seconds
from moesim.yaml_file import read_yaml, validate

FORMAT_VERSION = 1
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
        own = {key: value for key, value in data.items() if key not in cls.model_fields and is_parameter(key, value)}
        kept = {key: value for key, value in data.items() if key not in own}
        return {**kept, "parameters": {**data.get("parameters", {}), **own}} if own else data

    @model_validator(mode="after")
    def _one_origin(self) -> "TraceSection":
        if (self.path is None) == (self.router is None):
            raise ValueError("give exactly one of path (a recorded trace) and router (uniform, zipf)")
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


class PlanSection(_Section):
    """What strategies that optimise aim at; read by those strategies only."""

    objective: Name = "mean"
    survive: Annotated[int, Field(strict=True, ge=0, le=8)] = 0


class MemorySection(_Section):
    """What happens when a step does not fit into a device's memory: `refuse` the run, or `warn` and go on."""

    check: Literal["refuse", "warn"] = "refuse"


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

    @field_validator("trace", mode="before")
    @classmethod
    def _single_trace(cls, value: Any) -> Any:
        if isinstance(value, list):
            if len(value) != 1:
                raise ValueError(
                    f"this version replays one trace at a time, got a list of {len(value)}; give one mapping"
                )
            return value[0]
        return value

    def resolve_path(self, text: str) -> Path:
        """`text` as a path: absolute, else beside the scenario file when it exists there, else from the working folder."""
        path = Path(text).expanduser()
        beside = self.folder / path
        return beside if not path.is_absolute() and beside.exists() else path

    def record(self) -> dict[str, Any]:
        """The scenario as plain data that rebuilds it: defaults written out, windows as text."""
        data = self.model_dump(mode="json", exclude_none=True)
        for section, key in (("trace", "steps"), ("compare", "plan_steps")):
            if key in data[section]:
                data[section][key] = "{}:{}".format(*data[section][key])
        return data

    def without_faults(self) -> "Scenario":
        """A copy in which nothing breaks."""
        return make_scenario({**self.record(), "faults": []}, folder=self.folder)

    def changed(self, **sections: dict[str, Any]) -> "Scenario":
        """A copy with keys of some sections replaced, checked again: `changed(placement={"slots": 96})`."""
        data = self.record()
        for section, keys in sections.items():
            merged = {**data.get(section, {}), **keys}
            data[section] = {key: value for key, value in merged.items() if value is not None}
        return make_scenario(data, folder=self.folder)


def make_scenario(data: dict[str, Any], *, folder: Path = Path(), where: str = "scenario") -> Scenario:
    """The scenario in `data`; raises InputError in one sentence with the key, the value got and the bound."""
    if "folder" in data:
        raise InputError(f"{where}: unknown key 'folder'")
    version = data.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise InputError(f"{where}: format_version is {version!r}; this moesim reads {FORMAT_VERSION}")
    return validate(Scenario, {**data, "folder": folder}, where)


def load_scenario(path: str | Path) -> Scenario:
    """The scenario in a YAML file; relative paths inside it start beside the file."""
    path = Path(path)
    return make_scenario(read_yaml(path), folder=path.parent, where=str(path))
