"""Setting: what a scenario names, loaded and checked against each other: model, cluster, dims, profile, routing.

Array letters: L MoE ordinal, E expert.
"""

import dataclasses
import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.calibration import CalibrationProfile, KernelProfile, load_profile
from moesim.capacity import Capacity, no_weights
from moesim.cluster import Cluster
from moesim.errors import InputError
from moesim.faults import Fault, Health, healths
from moesim.model import MoEModel, dtype_bytes, load_model
from moesim.network.detours import Detours
from moesim.parallelism import ParallelDims
from moesim.placement import check_all_slots
from moesim.provenance import sha256_of_file, sha256_of_json, versions
from moesim.routing import DealtStep
from moesim.scenario import DeviceOverride, Scenario
from moesim.topology import GRAPH_SUFFIXES, load_topology
from moesim.workload import Workload, open_workload

_YAML = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything a run needs but a placement; made once per scenario by `load_setting`."""

    scenario: Scenario
    model: MoEModel
    cluster: Cluster
    dims: ParallelDims
    profile: CalibrationProfile
    workload: Workload

    @property
    def kernel(self) -> KernelProfile:
        """Costs of the communication kernel."""
        return self.profile.kernel(self.scenario.dispatch.kernel)

    @property
    def decode(self) -> bool:
        """Whether steps are decode steps."""
        return self.scenario.mode.kind == "decode"

    @property
    def training(self) -> bool:
        """Whether a step is a training step."""
        return self.scenario.mode.kind == "train"

    @property
    def weight_dtype(self) -> str:
        """Type of the expert weights."""
        return self.scenario.weights.dtype or self.model.weight_dtype

    @property
    def capacity(self) -> Capacity:
        """How many tokens an expert accepts."""
        return Capacity(**self.scenario.capacity.model_dump())

    @property
    def path_policy(self) -> str:
        """How flows find their links."""
        return self.scenario.dispatch.paths or self.cluster.default_path_policy

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What breaks."""
        return tuple(section.fault() for section in self.scenario.faults)

    @property
    def healths(self) -> tuple[Health, ...]:
        """What is left of the cluster at the start of a step, and from each time on at which something breaks."""
        return healths(self.cluster, self.faults)

    def detours(self, health: Health) -> Detours | None:
        """Ways round the links that are dead then; None where all are alive."""
        dead_J = health.dead_J
        return Detours(cluster=self.cluster, policy=self.path_policy, dead_J=dead_J) if dead_J.any() else None

    @property
    def num_slots(self) -> int:
        """Slots per layer: as asked, else the experts plus the extra slots of every device."""
        placement = self.scenario.placement
        if placement.slots is not None:
            return placement.slots
        return self.model.num_experts + (placement.extra_slots_per_device or 0) * self.dims.ep

    def steps(self, window: tuple[int, int] | None = None) -> Iterator[DealtStep]:
        """Dealt steps of `window`, or of the scenario's own."""
        return self.workload.steps(window or self.scenario.trace.steps)

    def loads(self, window: tuple[int, int] | None = None) -> NDArray[np.float64]:
        """Tokens per expert [L, E] over a window of steps: what load-aware strategies plan on."""
        load_LE = np.zeros((self.model.num_moe_layers, self.model.num_experts))
        for dealt in self.steps(window):
            for ordinal, experts_TK in enumerate(dealt.experts_LTK):
                kept = experts_TK[experts_TK >= 0]
                load_LE[ordinal] += np.bincount(kept, minlength=self.model.num_experts)
        return load_LE

    def provenance(self) -> dict[str, object]:
        """Versions, seed, names and input hashes: enough to run this again."""
        record = self.scenario.record()
        path = self.scenario.trace.path
        return {
            "versions": versions(),
            "seed": self.scenario.seed,
            "scenario": record,
            "scenario_sha256": sha256_of_json(record),
            "model": self.model.name,
            "topology": self.cluster.name,
            "topology_sources": list(self.cluster.sources),
            "profile": {"name": self.profile.name, "basis": self.profile.basis},
            "parallel": {name: getattr(self.dims, name) for name in ("world", "ep", "edp", "dp", "tp", "pp", "etp")},
            "trace_origin": self.workload.origin,
            "trace_sha256": sha256_of_file(self.workload.path) if path and self.workload.path else None,
        }


def load_setting(scenario: Scenario) -> Setting:
    """Load what `scenario` names; raises InputError where parts do not fit each other."""
    if scenario.other_traces:
        raise InputError(
            f"trace is a list of {len(scenario.traces)} scenarios, which plan and compare take; to replay one, give one mapping"
        )
    model = load_model(_name_or_file(scenario, scenario.model, _YAML))
    dtype_bytes(scenario.weights.dtype or model.weight_dtype)  # refuses an unknown type before anything is read
    topology = _name_or_file(scenario, scenario.cluster.topology, (*_YAML, *GRAPH_SUFFIXES))
    cluster = load_topology(topology, **scenario.cluster.parameters)
    cluster = override_devices(cluster, scenario.cluster.devices)
    dims = ParallelDims.for_world(cluster.num_devices, **scenario.parallel.model_dump())
    _check_dims(dims, cluster, training=scenario.mode.kind == "train")
    profile = load_profile(None if scenario.profile is None else _name_or_file(scenario, scenario.profile, (".json",)))
    training = scenario.mode.kind == "train"
    workload = open_workload(scenario, model, dims.pipeline_width if training else cluster.num_devices)
    if scenario.capacity.policy == "drop_by_probability" and not workload.has_weights:
        raise no_weights()
    setting = Setting(scenario=scenario, model=model, cluster=cluster, dims=dims, profile=profile, workload=workload)
    check_all_slots(setting.num_slots, model.num_moe_layers)  # before steps are made for so many
    _check_connected(setting)
    return setting


def _check_connected(setting: Setting) -> None:
    """Refuse faults that leave live devices of one expert-parallel group without a path between them."""
    size = setting.dims.ep
    for health in setting.healths:
        detours = setting.detours(health)
        for first in range(0, setting.cluster.num_devices if detours is not None else 0, size):
            assert detours is not None  # said by the range
            detours.check_connected(first + np.flatnonzero(~health.dead_D[first : first + size]))


def override_devices(cluster: Cluster, overrides: tuple[DeviceOverride, ...]) -> Cluster:
    """The cluster with the speed or memory of some devices changed; later overrides win."""
    devices = list(cluster.devices)
    for override in overrides:
        matched = [i for i, device in enumerate(devices) if fnmatch.fnmatchcase(device.name, override.match)]
        if not matched:
            names = f"{devices[0].name} to {devices[-1].name}"
            raise InputError(f"cluster.devices match {override.match[:40]!r} matches no device; they are named {names}")
        for i in matched:
            if override.speed is not None:
                devices[i] = dataclasses.replace(devices[i], speed=override.speed)
            if override.memory is not None:
                devices[i] = dataclasses.replace(devices[i], memory_bytes=override.memory)
    return dataclasses.replace(cluster, devices=tuple(devices)) if overrides else cluster


def _check_dims(dims: ParallelDims, cluster: Cluster, *, training: bool) -> None:
    if (dims.tp, dims.pp, dims.etp) != (1, 1, 1) and not training:
        raise InputError(
            f"tp={dims.tp}, pp={dims.pp}, etp={dims.etp}: a decode or prefill step has data and expert parallelism only; "
            "set them to 1, or take mode kind train"
        )
    per_node, size = cluster.devices_per_node, dims.ep * dims.etp
    if size % per_node and per_node % size:
        what = f"ep={dims.ep}" if dims.etp == 1 else f"ep={dims.ep} x etp={dims.etp} = {size}"
        raise InputError(f"{what} cuts nodes of {per_node} devices; take a divisor or a multiple of {per_node}")


def _name_or_file(scenario: Scenario, text: str, suffixes: tuple[str, ...]) -> str:
    """A name as it is; a path (a separator or one of the suffixes in it) looked up beside the scenario first."""
    looks_like_path = "/" in text or text.endswith(suffixes)
    return str(scenario.resolve_path(text)) if looks_like_path else text
