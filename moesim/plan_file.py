"""Plan: placements of all MoE layers with what was predicted for them, as a versioned JSON file."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from moesim.errors import InputError
from moesim.placement import ExpertPlacement
from moesim.yaml_file import validate

FORMAT_VERSION: Literal[1] = 1
LARGEST_FILE_BYTES = 4 * 2**30
Expert = Annotated[int, Field(ge=0, lt=1 << 31)]
_SHARE_DECIMALS = 6
Share = Annotated[float, Field(ge=0, le=1)]


class LayerSplit(BaseModel):
    """How the copies of one layer share their experts' tokens.

    `share_of_slot` gives for each slot of a replicated expert its share of the tokens from every source node in order,
    or from every source device, or from all (`rows` shares each); the only copy of an expert gets all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    rows: Annotated[int, Field(ge=1, le=1 << 20)]
    share_of_slot: dict[Annotated[int, Field(ge=0, lt=1 << 31)], tuple[Share, ...]]

    @classmethod
    def of(cls, placement: ExpertPlacement) -> "LayerSplit":
        """The split of a placement that has one."""
        assert placement.split_NP is not None
        copied_P = np.flatnonzero(placement.replicas_E[placement.expert_of_slot_P] > 1)
        share_NP = np.round(placement.split_NP, _SHARE_DECIMALS)
        return cls(
            rows=len(share_NP), share_of_slot={int(slot): tuple(share_NP[:, slot].tolist()) for slot in copied_P}
        )

    def table(self, num_slots: int) -> NDArray[np.float64]:
        """Shares [rows, P]; raises InputError where a slot is not there or has another number of shares."""
        share_NP = np.ones((self.rows, num_slots))
        for slot, shares in self.share_of_slot.items():
            if slot >= num_slots or len(shares) != self.rows:
                raise InputError(
                    f"the split gives slot {slot} of {num_slots} slots {len(shares)} shares; it has {self.rows} rows"
                )
            share_NP[:, slot] = shares
        return share_NP


class MoveRound(BaseModel):
    """Copies of one layer that travel at once: (expert, device that sends, device that receives).

    No device sends or receives two. A device that sends to itself loads the copy from the checkpoint: nobody has it.
    Rounds of a layer come one after the other; it is switched over when all its copies have arrived.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    layer: Annotated[int, Field(ge=0, lt=1 << 20)]
    moves: tuple[tuple[Expert, Expert, Expert], ...]


class CaseTime(BaseModel):
    """Predicted step time, seconds, of one of the scenarios that the plan was made for."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: str
    weight: Annotated[float, Field(gt=0)]
    step_time_s: Annotated[float, Field(ge=0)]


class Replan(BaseModel):
    """What planning anew brought on one stretch of a trace, [first, stop) steps.

    `kept_s`: step under the first plan; `replanned_s`: under the plan made on the stretch before; both judged on this
    stretch. `move_s`: seconds its moves take on otherwise idle links, once; `step_s` = replanned + move / steps, as if
    nothing else ran; `beside_s`: the step with the moves as traffic beside it, spread over the stretch and yielding to it.
    `break_even_steps` = move / (kept - replanned); None where nothing is gained. `trace` is named where there are several.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    first: int
    stop: int
    kept_s: float
    replanned_s: float
    step_s: float
    beside_s: float | None = None
    moved_bytes: float
    move_s: float
    break_even_steps: float | None
    trace: str = ""


class Plan(BaseModel):
    """Where every expert of a model goes.

    `layers` are model layer indices; `expert_of_slot[l]` lists the experts of layer l's slots, slots contiguous by
    device, the first P mod D devices holding one more unless `slots_per_device` says otherwise. `replica_policy` is the
    split the plan was made for, `splits` the shares of `split`. Times in seconds: `predicted_step_time_s`
    by the closed form on the planning window, `lower_bound_s` what no plan of these slots can beat there (with the
    argument of each term in `bound_names`), `gap` = predicted / bound - 1; None where nothing is proven. `seconds` of
    planning are not in the file: same inputs, same bytes. `moves` and `moved_bytes` lead here from an old plan; `cases` are
    the scenarios planned for; `explanation` is what `moesim plan --explain` says; `replans` what `--every` found;
    `binding` names what limits the MoE layers, most first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    format_version: Literal[1] = FORMAT_VERSION
    model: str
    topology: str
    strategy: str
    replica_policy: Literal["nearest", "even", "split"]
    num_experts: Annotated[int, Field(ge=1, lt=1 << 31)]
    num_devices: Annotated[int, Field(ge=1, lt=1 << 31)]
    layers: tuple[Annotated[int, Field(ge=0, lt=1 << 20)], ...] = Field(min_length=1)
    expert_of_slot: tuple[tuple[Expert, ...], ...] = Field(min_length=1)
    slots_per_device: tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...] | None = None
    splits: tuple[LayerSplit, ...] | None = None
    predicted_step_time_s: Annotated[float, Field(ge=0)] | None = None
    lower_bound_s: Annotated[float, Field(ge=0)] | None = None
    gap: Annotated[float, Field(ge=0)] | None = None
    bound_names: dict[str, str] = Field(default_factory=dict)
    balancedness: Annotated[float, Field(ge=0, le=1)] | None = None
    fanout_nodes: Annotated[float, Field(ge=0)] | None = None
    capacity_factors: tuple[Annotated[float, Field(gt=0)], ...] = ()
    moved_bytes: Annotated[float, Field(ge=0)] = 0.0
    moves: tuple[MoveRound, ...] = ()
    cases: tuple[CaseTime, ...] = ()
    replans: tuple[Replan, ...] = ()
    explanation: dict[str, Any] | None = None
    binding: tuple[str, ...] = ()
    status: str = "feasible"
    notes: tuple[str, ...] = ()
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def placements(self) -> tuple[ExpertPlacement, ...]:
        """One placement per layer; raises InputError where a layer leaves an expert without a slot."""
        splits = self.splits or (None,) * len(self.expert_of_slot)
        return tuple(
            ExpertPlacement(
                np.array(experts, dtype=np.int64),
                self.num_experts,
                self.num_devices,
                slots_D=self.slots_per_device,
                split_NP=None if split is None else split.table(len(experts)),
            )
            for experts, split in zip(self.expert_of_slot, splits, strict=True)
        )

    def summary(self) -> dict[str, Any]:
        """The figures of the plan, without its tables."""
        names = (
            "status",
            "predicted_step_time_s",
            "lower_bound_s",
            "gap",
            "bound_names",
            "balancedness",
            "fanout_nodes",
        )
        figures = {name: getattr(self, name) for name in (*names, "moved_bytes")}
        figures |= {"capacity_factors": list(self.capacity_factors), "strategy": self.strategy}
        if self.moves:
            figures["move_rounds"] = len(self.moves)
        if self.binding:
            figures["binding"] = list(self.binding)
        for name in ("cases", "replans"):
            if getattr(self, name):
                figures[name] = [part.model_dump(mode="json") for part in getattr(self, name)]
        return figures if self.explanation is None else {**figures, "explanation": self.explanation}

    def write(self, path: str | Path) -> Path:
        """Write the plan as JSON, by a temporary name and a rename."""
        path = Path(path)
        data = self.model_dump(mode="json")
        lines = (f" {json.dumps(key)}: {json.dumps(data[key], sort_keys=True)}" for key in sorted(data))
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise InputError(f"cannot write plan {path}: {error.strerror}") from None
        return path


def load_plan(path: str | Path) -> Plan:
    """The plan in a JSON file; raises InputError in one sentence for anything else."""
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise InputError(f"{path} is larger than {LARGEST_FILE_BYTES} bytes, which no plan is")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read plan {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a plan: {str(error)[:120]}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path} is not a plan: it holds a {type(data).__name__}, not an object")
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has format_version {version!r}; this moesim reads {FORMAT_VERSION}")
    plan = validate(Plan, data, str(path))
    if len(plan.layers) != len(plan.expert_of_slot):
        raise InputError(f"{path} names {len(plan.layers)} layers but places {len(plan.expert_of_slot)}")
    if plan.splits is not None and len(plan.splits) != len(plan.layers):
        raise InputError(f"{path} names {len(plan.layers)} layers but splits the tokens of {len(plan.splits)}")
    if plan.replica_policy == "split" and plan.splits is None:
        raise InputError(f"{path} has replica_policy split but no splits; plan again")
    if list(plan.layers) != sorted(dict.fromkeys(plan.layers)):
        raise InputError(f"{path}: layers must be model layer indices in ascending order, each once")
    try:
        _ = plan.placements  # refuses impossible placements now, not in the middle of a run
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return plan
