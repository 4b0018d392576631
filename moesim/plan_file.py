"""Plan: placements of all MoE layers with what was predicted for them, as a versioned JSON file."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from moesim.errors import InputError
from moesim.placement import ExpertPlacement
from moesim.yaml_file import validate

FORMAT_VERSION: Literal[1] = 1
LARGEST_FILE_BYTES = 4 * 2**30
Expert = Annotated[int, Field(ge=0, lt=1 << 31)]


class Plan(BaseModel):
    """Where every expert of a model goes.

    `layers` are model layer indices; `expert_of_slot[l]` lists the experts of layer l's slots, slots contiguous by
    device, the first P mod D devices holding one more. `replica_policy` is the split the plan was made for.
    Times in seconds; `lower_bound_s` and `gap` are None where the strategy proves none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    format_version: Literal[1] = FORMAT_VERSION
    model: str
    topology: str
    strategy: str
    replica_policy: Literal["nearest", "even"]
    num_experts: Annotated[int, Field(ge=1, lt=1 << 31)]
    num_devices: Annotated[int, Field(ge=1, lt=1 << 31)]
    layers: tuple[Annotated[int, Field(ge=0, lt=1 << 20)], ...] = Field(min_length=1)
    expert_of_slot: tuple[tuple[Expert, ...], ...] = Field(min_length=1)
    predicted_step_time_s: Annotated[float, Field(ge=0)] | None = None
    lower_bound_s: Annotated[float, Field(ge=0)] | None = None
    gap: Annotated[float, Field(ge=0)] | None = None
    balancedness: Annotated[float, Field(ge=0, le=1)] | None = None
    notes: tuple[str, ...] = ()
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def placements(self) -> tuple[ExpertPlacement, ...]:
        """One placement per layer; raises InputError where a layer leaves an expert without a slot."""
        return tuple(
            ExpertPlacement(np.array(experts, dtype=np.int64), self.num_experts, self.num_devices)
            for experts in self.expert_of_slot
        )

    def write(self, path: str | Path) -> Path:
        """Write the plan as JSON, by a temporary name and a rename."""
        path = Path(path)
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
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
    _ = plan.placements  # refuses impossible placements now, not in the middle of a run
    return plan
