"""Export: what an exporter is asked for and what it answers.

Array letters: L MoE ordinal, E expert, P slot, D device (rank).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moesim.capacity import Capacity
from moesim.cluster import Cluster
from moesim.errors import InputError, unknown_name
from moesim.exporters.names import find_exporter
from moesim.model import MoEModel
from moesim.parallelism import ParallelDims
from moesim.placement import ExpertPlacement
from moesim.plan_file import Plan
from moesim.result import SimulationResult

Content = bytes | Callable[[Path], None]
"""Bytes of a file, or what writes a file or folder too large for memory under the path it is given."""
_CHECKPOINT = "--checkpoint"


class TargetRefuses(InputError):
    """The target cannot express the plan; `slots` per layer of the nearest plan that it can, None where there is none."""

    def __init__(self, message: str, *, slots: int | None = None) -> None:
        super().__init__(message)
        self.slots = slots


@dataclass(frozen=True, slots=True)
class Check:
    """One rule and whether the written content keeps it; what breaks a `required` one is not written."""

    name: str
    ok: bool
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTraffic:
    """What the scenario's steps ask of one MoE layer under the plan, mean over steps.

    Bytes from device to device as the scenario's all-to-all algorithm sends them (relays of two-leg algorithms
    included), seconds of compute [D], tokens [D], (token, expert) pairs [D], and the closed form of the two collectives
    in seconds.
    """

    dispatch_DD: NDArray[np.float64]
    combine_DD: NDArray[np.float64]
    attention_s_D: NDArray[np.float64]
    experts_s_D: NDArray[np.float64]
    tokens_D: NDArray[np.float64]
    load_D: NDArray[np.float64]
    dispatch_s: float
    combine_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where the plan runs: rank i is device i.

    `traffic(ordinal)` counts the scenario's steps under the plan; `replay()` simulates them.
    """

    cluster: Cluster
    dims: ParallelDims
    traffic: Callable[[int], LayerTraffic]
    replay: Callable[[], SimulationResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """A plan, the file asked for, and as much as is known of the model, the site and the capacity rule.

    `model` or `site` None: neither the plan nor the caller says; an exporter that needs it refuses. `options` are the
    exporter's own keys, read through `option`, which remembers what is known for `export_plan` to refuse the rest.
    `unknown_because` says in words why model or site is None.
    """

    plan: Plan
    target: str
    out: Path
    model: MoEModel | None = None
    site: Site | None = None
    capacity: Capacity | None = None
    checkpoint: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    known_options: list[str] = field(default_factory=list, compare=False)
    unknown_because: str = "the plan does not say for which scenario it was made"

    @property
    def ranks(self) -> int:
        """Expert-parallel ranks, D."""
        return self.plan.num_devices

    @property
    def placements(self) -> tuple[ExpertPlacement, ...]:
        """One placement per MoE layer."""
        return self.plan.placements

    def option(self, key: str, default: str = "") -> str:
        """The value of an option of this exporter."""
        self.known_options.append(key)
        return self.options.get(key, default)

    def number(self, key: str, default: int, *, least: int = 0) -> int:
        """As `option`, a whole number from `least` up."""
        text = self.option(key, str(default))
        if not text.isdecimal() or len(text) > 9 or int(text) < least:
            raise InputError(f"{self.target}: option {key}={text[:40]!r} is not a whole number from {least} up")
        return int(text)

    def switch(self, key: str) -> bool:
        """As `option`, true or false (the default)."""
        text = self.option(key, "false")
        if text not in ("true", "false"):
            raise InputError(f"{self.target}: option {key}={text[:40]!r} is neither true nor false")
        return text == "true"

    def take_checkpoint(self) -> Path | None:
        """The checkpoint to permute, None where none was given; an exporter that does not ask refuses one."""
        self.known_options.append(_CHECKPOINT)
        return self.checkpoint

    def need_model(self) -> MoEModel:
        """The model; raises InputError where nobody names it."""
        if self.model is None:
            raise InputError(
                f"{self.target} needs the dims of model {self.plan.model!r}, and {self.unknown_because}; give --scenario"
            )
        return self.model

    def need_site(self) -> Site:
        """The cluster and dims; raises InputError where nobody names them."""
        if self.site is None:
            raise InputError(f"{self.target} needs the cluster, and {self.unknown_because}; give --scenario")
        return self.site

    def beside(self, suffix: str) -> str:
        """Name of a further file beside `out`: its stem with another ending."""
        return f"{self.out.stem}{suffix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Contents by file name (all in the folder of `out`), launch flags that must agree, checks, and remarks."""

    files: Mapping[str, Content]
    launch_flags: tuple[str, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()


def export_plan(request: ExportRequest) -> Export:
    """What the target reads, checked; nothing is written.

    Raises UnknownName for a target or option that is not there, TargetRefuses (an InputError) where the target cannot
    express the plan, InputError where a check of the content fails.
    """
    export: Export = find_exporter(request.target)(request)
    for key in request.options:
        if key not in request.known_options:
            raise unknown_name(f"option of exporter {request.target}", key, dict.fromkeys(request.known_options))
    if request.checkpoint is not None and _CHECKPOINT not in request.known_options:
        raise InputError(f"{request.target} permutes no checkpoint; leave --checkpoint out")
    broken = [check.name for check in export.checks if check.required and not check.ok]
    if broken:
        raise InputError(f"{request.target}: the plan breaks the rule '{broken[0]}'; nothing was written, plan again")
    return export
