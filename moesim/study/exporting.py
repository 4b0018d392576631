"""Export: a plan as files of its launcher, with the model, cluster and traffic of the scenario it was made for."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.capacity import Capacity
from moesim.errors import InputError
from moesim.exporters import Check, Export, ExportRequest, TargetRefuses, export_plan
from moesim.exporters.export import Site
from moesim.exporters.names import find_exporter
from moesim.exporters.writing import write_all
from moesim.model import MoEModel, load_model
from moesim.parallelism import ParallelDims
from moesim.plan_file import Plan
from moesim.scenario import Scenario, make_scenario
from moesim.setting import override_devices
from moesim.study.making_fit import fitted_plan, fitted_words, plan_bytes
from moesim.study.plan_traffic import TrafficCounter
from moesim.study.simulating import simulate_plan
from moesim.topology import GRAPH_SUFFIXES, load_topology

_FILES = (".yaml", ".yml", *GRAPH_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written, what to launch with, what was checked, and remarks; `plan` is the one that was exported."""

    files: tuple[Path, ...]
    launch_flags: tuple[str, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    plan: Plan

    def answer(self) -> dict[str, Any]:
        """The command's answer as plain data."""
        return {
            "files": [str(path) for path in self.files],
            "launch_flags": list(self.launch_flags),
            "checks": [{"name": check.name, "ok": check.ok} for check in self.checks],
            "notes": list(self.notes),
        }


def export(
    plan: Plan,
    target: str,
    out: Path,
    *,
    scenario: Scenario | None = None,
    make_fit: bool = False,
    checkpoint: Path | None = None,
    options: Mapping[str, str] | None = None,
) -> Exported:
    """Write `plan` for `target` into `out` and the files beside it: all of them or none.

    `scenario` defaults to the one the plan was made for, as its provenance says. With `make_fit` a plan that the target
    cannot express is made again with the nearest slots that it can, and written beside `out` as `<out>.plan.json`.
    """
    find_exporter(target)
    if not out.name or out.is_dir():
        raise InputError(f"--out {str(out)!r} is a folder; name the file that {target} shall read")
    ground = _given(plan, scenario) if scenario is not None else _remembered(plan)
    request = ExportRequest(
        plan=plan,
        target=target,
        out=out,
        model=ground.model,
        site=ground.site,
        capacity=ground.capacity,
        checkpoint=checkpoint,
        options=dict(options or {}),
        unknown_because=ground.unknown_because,
    )
    try:
        made, fitted = export_plan(request), None
    except TargetRefuses as refused:
        if not make_fit:
            raise
        fitted = fitted_plan(request, refused, ground.scenario)
        site = None if ground.scenario is None else _site(fitted, ground.scenario)
        made = export_plan(dataclasses.replace(request, plan=fitted, site=site))
    return _written(made, out, plan, fitted)


def _written(made: Export, out: Path, plan: Plan, fitted: Plan | None) -> Exported:
    files, notes = dict(made.files), made.notes
    if fitted is not None:
        files[f"{out.name}.plan.json"] = plan_bytes(fitted)
        notes = (fitted_words(plan, fitted), *notes)
    paths = write_all(out.parent, files)
    return Exported(
        files=tuple(paths),
        launch_flags=made.launch_flags,
        checks=made.checks,
        notes=notes,
        plan=plan if fitted is None else fitted,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """What is known beside the plan, and why not more."""

    scenario: Scenario | None = None
    model: MoEModel | None = None
    site: Site | None = None
    capacity: Capacity | None = None
    unknown_because: str = ""


def _given(plan: Plan, scenario: Scenario) -> _Ground:
    """What a scenario says; raises InputError where the plan is not for its model or its number of devices."""
    model = load_model(_found(scenario, scenario.model))
    if (model.num_experts, model.moe_layer_indices) != (plan.num_experts, plan.layers):
        raise InputError(
            f"the plan places {plan.num_experts} experts in {len(plan.layers)} layers; {model.name} has {model.num_experts} "
            f"in {model.num_moe_layers} MoE layers; plan again for this model"
        )
    capacity = Capacity(**scenario.capacity.model_dump())
    return _Ground(scenario=scenario, model=model, site=_site(plan, scenario), capacity=capacity)


def _remembered(plan: Plan) -> _Ground:
    """What the plan's own scenario says, as far as its files are still where they were; else the model of its name."""
    reason = "the plan does not say for which scenario it was made"
    if plan.provenance.get("scenario"):
        try:
            return _given(plan, make_scenario(plan.provenance["scenario"], where="the plan's provenance"))
        except InputError as error:
            reason = f"the scenario that the plan was made for cannot be used: {error}"
    with contextlib.suppress(InputError):
        model = load_model(plan.model)
        if (model.num_experts, model.moe_layer_indices) == (plan.num_experts, plan.layers):
            return _Ground(model=model, unknown_because=reason)
    return _Ground(unknown_because=reason)


def _site(plan: Plan, scenario: Scenario) -> Site:
    cluster = load_topology(_found(scenario, scenario.cluster.topology), **scenario.cluster.parameters)
    cluster = override_devices(cluster, scenario.cluster.devices)
    dims = ParallelDims.for_world(cluster.num_devices, **scenario.parallel.model_dump())
    if dims.ep != plan.num_devices:
        raise InputError(
            f"the plan places experts on {plan.num_devices} devices, but the scenario has ep={dims.ep}; plan again for it"
        )
    counter = TrafficCounter(plan, scenario)
    return Site(
        cluster=cluster, dims=dims, traffic=counter.layer, replay=functools.partial(simulate_plan, plan, scenario)
    )


def _found(scenario: Scenario, text: str) -> str:
    """A name as it is, a path looked up beside the scenario first."""
    return str(scenario.resolve_path(text)) if "/" in text or text.endswith(_FILES) else text
