"""Reader of this program's own topology files, whole ones and imports with something missing, to merge more into them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moesim.errors import InputError
from moesim.topology.claims import Claims, Said
from moesim.units import parse_quantity
from moesim.yaml_file import read_yaml

_SHAPES = ("rail_fat_tree", "single_node", "torus")


def recognises(text: str) -> bool:
    """Whether format_version and shape are among its lines."""
    lines = [line.split(":")[0] for line in text.splitlines()]
    return "format_version" in lines and "shape" in lines


def read(path: Path) -> Claims:
    """Its figures with their own sources. Raises InputError for shapes that nothing can be merged into."""
    data = read_yaml(path)
    if data.get("shape") not in _SHAPES:
        raise InputError(
            f"{path} has the shape {str(data.get('shape'))[:40]!r}; only {' and '.join(_SHAPES)} can be merged"
        )
    facts = dict(_facts(data, "", str(path)))
    if data["shape"] == "single_node":
        facts.pop("nodes", None)  # a file of one node does not say how many like it there are
    if isinstance(data.get("accelerator"), str):
        facts["accelerator"] = Said(data["accelerator"], "derived", path.name)
    return Claims(file=path.name, facts=facts, is_torus=data["shape"] == "torus")


def _facts(section: Mapping[str, Any], prefix: str, where: str) -> Iterator[tuple[str, Said]]:
    for key, value in section.items():
        if isinstance(value, dict) and {"value", "kind", "source"} <= value.keys():
            yield prefix + key, Said(_number(prefix + key, value["value"], where), value["kind"], str(value["source"]))
        elif isinstance(value, dict):
            yield from _facts(value, f"{prefix}{key}.", where)


def _number(key: str, value: Any, where: str) -> float | int:
    """The value in SI units."""
    if key.endswith(("bandwidth", "latency")):
        return parse_quantity(value, "rate" if key.endswith("bandwidth") else "time")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{where}: {key} got {str(value)[:40]!r}, not a number")
    return value
