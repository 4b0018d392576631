"""From the name or path of a topology file, and that shape's parameters, to a Cluster."""

from pathlib import Path
from typing import Any

from moesim.cluster import Accelerator, Cluster
from moesim.errors import InputError, unknown_name
from moesim.provenance import data_folder
from moesim.topology.accelerators import load_accelerator, read_accelerator
from moesim.topology.facts import Section, source_lines
from moesim.topology.header import Header
from moesim.topology.shapes import parameter_sets, shapes, specs
from moesim.yaml_file import read_yaml, validate


def list_topologies() -> list[str]:
    """Names of the machines in topologies/, sorted."""
    return sorted(path.stem for path in data_folder("topologies").glob("*.yaml"))


# Parameters are Any because each shape has its own; its `Parameters` model checks them.
def load_topology(name_or_path: str | Path, *, accelerator: str | None = None, **parameters: Any) -> Cluster:
    """The cluster a topology file describes.

    `name_or_path` is a name in topologies/ or the path of a YAML file. `parameters` are those of its shape, for
    example `nodes=4`; `accelerator` puts another kind of device into the same network.

    >>> load_topology("dgx-h100-superpod", nodes=4).num_devices
    32

    Raises UnknownName or InputError, in one sentence, for a name, key or number that cannot be used.
    """
    path = _find(name_or_path)
    data = read_yaml(path)
    shape = data.get("shape")
    if not isinstance(shape, str):
        got = "is missing" if shape is None else f"got {str(shape)[:40]!r}"
        raise InputError(f"{path}: the key shape {got}; name one of {', '.join(shapes.names())}")
    build = shapes.get(shape)
    spec: Header = validate(specs.get(shape), data, str(path))  # type: ignore[arg-type]  # a Spec is a Header
    where = f"parameters of {spec.name}"
    checked: Section = validate(parameter_sets.get(shape), parameters, where)  # type: ignore[arg-type]  # a model class
    device, device_sources = _accelerator(accelerator or spec.accelerator, path.parent)
    sources = (*_asked_for(checked), *source_lines(spec), *device_sources)
    cluster: Cluster = build(spec, checked, device, sources)
    return cluster


def _find(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith((".yaml", ".yml")):
        return Path(text)
    if text not in list_topologies():
        raise unknown_name("topology", text, list_topologies())
    return data_folder("topologies") / f"{text}.yaml"


def _asked_for(parameters: Section) -> tuple[str, ...]:
    """A source line for each parameter that takes the place of the file's value."""
    given = parameters.model_dump(exclude_none=True)
    return tuple(
        f"{name} = {value} (assumed): asked for, in place of the file's value" for name, value in given.items()
    )


def _accelerator(name: str, folder: Path) -> tuple[Accelerator, tuple[str, ...]]:
    """An accelerator by name, or by path from the topology file's folder."""
    return read_accelerator(folder / name) if name.endswith((".yaml", ".yml")) else load_accelerator(name)
