"""What a scenario and a provenance say about model, cluster, trace and profile, as phrases a sentence can hold."""

from collections.abc import Mapping
from typing import Any

from moesim.result import Comparison, SimulationResult


def model_phrase(scenario: Mapping[str, Any]) -> str:
    """The model's name, or "this model"."""
    model = scenario.get("model")
    if isinstance(model, Mapping):
        model = model.get("name")
    return str(model) if model else "this model"


def cluster_phrase(comparison: Comparison, *, counted: bool = True) -> str:
    """For example "4 nodes of dgx-h100-superpod (32 devices)"; `counted` adds the number of devices."""
    cluster = comparison.scenario.get("cluster")
    devices = _num_devices(comparison) if counted else None
    count = f" ({devices} device{'s' if devices != 1 else ''})" if devices else ""
    if isinstance(cluster, Mapping):
        name, nodes = cluster.get("topology"), cluster.get("nodes")
        if name and nodes:
            return f"{nodes} node{'s' if nodes != 1 else ''} of {name}{count}"
        if name:
            return f"{name}{count}"
    return f"{cluster}{count}" if isinstance(cluster, str) else f"this cluster{count}"


def step_phrase(scenario: Mapping[str, Any]) -> str:
    """ "a decode step" where the mode is known, else "a step"."""
    mode = scenario.get("mode")
    kind = mode.get("kind") if isinstance(mode, Mapping) else None
    return f"a {kind} step" if isinstance(kind, str) else "a step"


def windows_phrase(scenario: Mapping[str, Any]) -> str | None:
    """ "Planned on steps 0:4, judged on steps 4:8.", from the keys `plan_steps` and `steps`, wherever they stand."""
    planned = _find(scenario, ("compare", "plan", "trace"), "plan_steps")
    judged = _find(scenario, ("compare", "trace"), "steps")
    if planned is None:
        return None
    if judged is None or str(planned) == str(judged):
        return (
            f"Planned and judged on the same steps ({planned}): a placement for steps not yet seen will do less well."
        )
    return f"Planned on steps {planned}, judged on steps {judged}."


def profile_phrase(provenance: Mapping[str, Any]) -> str:
    """What compute and kernel times rest on; plainly no known error where they are a datasheet roofline (or unsaid)."""
    profile = provenance.get("profile")
    name = profile.get("name", profile.get("kind")) if isinstance(profile, Mapping) else profile
    if not name or "roofline" in str(profile).lower():
        return (
            "Compute times are a datasheet roofline, not measurements: no measured error is known yet, so trust the "
            "order of the strategies more than the milliseconds."
        )
    basis = profile.get("basis") if isinstance(profile, Mapping) else None
    return f"Compute and kernel times come from the calibration profile {name}{f', {basis}' if basis else ''}."


def limits_tokens(result: SimulationResult) -> bool:
    """Whether the run's experts had a capacity, or tokens were lost or padded for another reason."""
    scenario = result.provenance.get("scenario")
    section = scenario.get("capacity") if isinstance(scenario, Mapping) else None
    policy = section.get("policy", "dropless") if isinstance(section, Mapping) else "dropless"
    return policy != "dropless" or any(layer.drop_rate or layer.padding_rate for layer in result.layers)


def dead_devices(result: SimulationResult) -> list[int]:
    """Devices that are down from the start of every step, by the scenario in the result's provenance; ascending."""
    scenario = result.provenance.get("scenario")
    faults = scenario.get("faults") if isinstance(scenario, Mapping) else None
    found = [fault for fault in faults or () if isinstance(fault, Mapping) and fault.get("kind") == "device_down"]
    return sorted({int(fault["device"]) for fault in found if not fault.get("at")})


def flatten(value: Any, prefix: str = "", depth: int = 6) -> list[tuple[str, str]]:
    """Nested plain data as (dotted key, text) rows; lists of plain values stay on one row."""
    if isinstance(value, Mapping) and value and depth:
        return [row for key, item in value.items() for row in flatten(item, _join(prefix, key), depth - 1)]
    if isinstance(value, (list, tuple)) and any(isinstance(item, (Mapping, list, tuple)) for item in value) and depth:
        return [row for index, item in enumerate(value) for row in flatten(item, _join(prefix, index), depth - 1)]
    if isinstance(value, (list, tuple)):
        texts = [plain(item) for item in value]
        return [(prefix, ("; " if any("," in text for text in texts) else ", ").join(texts))]
    return [(prefix, plain(value))]


def plain(value: Any) -> str:
    """One value as a person reads it: six significant digits, thousands apart, yes and no.

    >>> plain(1048576), plain(0.123456789), plain(True), plain(None)
    ('1,048,576', '0.123457', 'yes', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _join(prefix: str, key: object) -> str:
    return f"{prefix}.{key}" if prefix else str(key)


def _find(scenario: Mapping[str, Any], places: tuple[str, ...], key: str) -> Any:
    for holder in (scenario, *(scenario.get(place) for place in places)):
        if isinstance(holder, Mapping) and holder.get(key) is not None:
            return holder[key]
    return None


def _num_devices(comparison: Comparison) -> int | None:
    for result in comparison.results.values():
        world = result.provenance.get("parallel", {}).get("world") if result.training is not None else None
        if world is not None:
            return int(world)  # the tables of a training step hold a stage of one pipeline
        if result.tables is not None:
            return int(result.tables.node_of_device_D.size)
    return None
