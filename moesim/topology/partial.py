"""Topology files that lack something: shown with what they have, refused by name where a cluster is wanted."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moesim.errors import InputError
from moesim.yaml_file import read_yaml

_NEXT = (
    "merge a file that says it (moesim topology import), fill it from a shipped topology (--fill NAME), "
    "or write it into the file and take it off the list `missing`"
)


def refuse_partial(data: Mapping[str, Any], path: Path) -> None:
    """Raise InputError naming what the topology in `path` lacks; return where it lacks nothing."""
    missing = _missing(data)
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; {_NEXT}")


def describe_partial(name_or_path: str | Path) -> dict[str, Any] | None:
    """What is known of a topology file that lacks something, as `describe_topology` says it; None for any other."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return None
    data = read_yaml(path)
    missing = _missing(data)
    if not missing:
        return None
    devices = _value(data, "scale_up", "devices")
    nodes = _value(data, "nodes")
    chips = [_value(data, axis, "chips") for axis in "xyz" if axis in data]
    if data.get("shape") == "torus" and all(chips):
        devices, nodes = 1, 1
        for count in chips:
            nodes = nodes * count if count else nodes
    return {
        "name": str(data.get("name")),
        "devices": devices * nodes if devices and nodes else None,
        "nodes": nodes,
        "links": None,
        "bisection_bytes_per_s": None,
        "diameter_hops": None,
        "sources": list(_sources(data, "")),
        "missing": missing,
    }


def _missing(data: Mapping[str, Any]) -> list[str]:
    listed = data.get("missing")
    return [str(key)[:60] for key in listed] if isinstance(listed, list) else []


def _value(data: Any, *keys: str) -> int | None:
    for key in (*keys, "value"):
        data = data.get(key) if isinstance(data, dict) else None
    return data if type(data) is int else None


def _sources(section: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in section.items():
        if isinstance(value, dict) and {"value", "kind", "source"} <= value.keys():
            yield f"{prefix}{key} = {value['value']} ({value['kind']}): {value['source']}"
        elif isinstance(value, dict):
            yield from _sources(value, f"{prefix}{key}.")
