"""moesim: discrete-event simulation of GPU/TPU clusters, and expert placement, for Mixture-of-Experts models.

What the command line does, these calls do; each imports its rooms when it is called, so that `import moesim` is quick.
A scenario is given as a Scenario, as the path of its YAML file, or as the mapping such a file holds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from moesim.cluster import Cluster
    from moesim.model import MoEModel
    from moesim.plan_file import Plan
    from moesim.result import ComparedRun, SimulationResult
    from moesim.routing import RoutingTrace
    from moesim.scenario import Scenario
    from moesim.study import Exported
    from moesim.trace.captured import CapturedRouting

__version__ = "0.1.0"
__all__ = ["capture", "compare", "export", "load_model", "load_plan", "load_topology", "load_trace", "plan", "simulate"]


def simulate(scenario: "Scenario | str | Path | Mapping[str, Any]") -> "SimulationResult":
    """Replay a scenario: how long a step takes and what limits it."""
    from moesim import study

    return study.simulate(_scenario(scenario))


def compare(
    scenario: "Scenario | str | Path | Mapping[str, Any]",
    strategies: Sequence[str] = (),
    *,
    slots: int | None = None,
    plan_steps: str | tuple[int, int] | None = None,
    steps: str | tuple[int, int] | None = None,
) -> "list[ComparedRun]":
    """Judge strategies on the same steps, in the order asked; `moesim.study.compare` returns the whole Comparison."""
    from moesim import study

    comparison = study.compare(_scenario(scenario), strategies, slots=slots, plan_steps=plan_steps, steps=steps)
    return list(comparison.runs)


def plan(
    scenario: "Scenario | str | Path | Mapping[str, Any]",
    strategy: str | None = None,
    *,
    slots: int | None = None,
    plan_steps: str | tuple[int, int] | None = None,
    time_limit_s: float | None = None,
    old: "Plan | str | Path | None" = None,
    move_budget: str | float | None = None,
    explain: bool = False,
    every: int | None = None,
) -> "Plan":
    """Place the experts of every MoE layer; `Plan.write` makes the file that `placement: {plan: FILE}` reads.

    `slots` per layer and the window `plan_steps` default to the scenario's. `time_limit_s` becomes an amount of solver
    work, so that the same call has the same answer. A plan near an `old` one moves at most `move_budget` ("20GiB") of
    weights; `explain` fills `Plan.explanation`; `every` plans anew every so many steps of the window.
    """
    from moesim import study

    return study.plan(
        _scenario(scenario),
        strategy,
        slots=slots,
        plan_steps=plan_steps,
        time_limit_s=time_limit_s,
        old=old,
        move_budget=move_budget,
        explain=explain,
        every=every,
    )


def export(
    plan: "Plan | str | Path",
    to: str,
    out: str | Path,
    *,
    scenario: "Scenario | str | Path | Mapping[str, Any] | None" = None,
    make_fit: bool = False,
    checkpoint: str | Path | None = None,
    options: Mapping[str, str] | None = None,
) -> "Exported":
    """Write a plan as the files its launcher reads: `.files`, `.launch_flags` that must agree, `.checks`, `.notes`.

    `scenario` defaults to the one the plan was made for. `make_fit` plans again where the target cannot take the plan.
    """
    from moesim import study
    from moesim.plan_file import Plan

    return study.export(
        plan if isinstance(plan, Plan) else load_plan(plan),
        to,
        Path(out),
        scenario=None if scenario is None else _scenario(scenario),
        make_fit=make_fit,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        options=options,
    )


def load_trace(path: str | Path) -> "RoutingTrace":
    """The handle of a routing trace in moesim's Parquet."""
    from moesim.trace import load_trace as load

    return load(Path(path))


def capture(model: Any, *, name: str | None = None, origin: str = "") -> "AbstractContextManager[CapturedRouting]":
    """Note which experts a running Hugging Face model sends every token to.

    >>> with moesim.capture(model) as trace:  # doctest: +SKIP
    ...     model.generate(**inputs)
    >>> trace.write("t.parquet")  # doctest: +SKIP
    """
    from moesim.trace.capture import capture as open_capture

    return open_capture(model, name=name, origin=origin)


def load_topology(name: str, **parameters: Any) -> "Cluster":
    """The cluster of a topology name or file, with that shape's parameters (`nodes=4`)."""
    from moesim.topology import load_topology as load

    return load(name, **parameters)


def load_model(name: str) -> "MoEModel":
    """The MoE model of a name or file."""
    from moesim.model import load_model as load

    return load(name)


def load_plan(path: str | Path) -> "Plan":
    """The plan in a JSON file."""
    from moesim.plan_file import load_plan as load

    return load(path)


def _scenario(given: "Scenario | str | Path | Mapping[str, Any]") -> "Scenario":
    from moesim.scenario import Scenario, load_scenario, make_scenario

    if isinstance(given, Scenario):
        return given
    if isinstance(given, (str, Path)):
        return load_scenario(given)
    return make_scenario(dict(given))
