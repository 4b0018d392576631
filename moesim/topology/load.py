"""From the name or path of a topology file, and that shape's parameters, to a Cluster."""

import re
from pathlib import Path
from typing import Any

from moesim.cluster import Accelerator, Cluster
from moesim.errors import InputError, unknown_name
from moesim.provenance import data_folder
from moesim.topology.accelerators import load_accelerator, read_accelerator
from moesim.topology.facts import Section, source_lines
from moesim.topology.graph_file import read_graph
from moesim.topology.header import Header
from moesim.topology.partial import refuse_partial
from moesim.topology.shapes import parameter_sets, shapes, specs
from moesim.yaml_file import read_yaml, validate

GRAPH_SUFFIXES = (".json", ".graphml")
_SLICE = re.compile(
    r"(?:tpu-?)?(?P<version>v\d{1,2}[a-z]{0,8}|7x)(?:-(?P<size>\d{1,9})|:(?P<shape>[\dx]{1,40}(?:_\w{1,20})?))",
    re.ASCII,
)
_SAME_TPU = {"v5litepod": "v5e", "7x": "v7", "v7x": "v7"}


def list_topologies() -> list[str]:
    """Names of the machines in topologies/, sorted."""
    return sorted(path.stem for path in data_folder("topologies").glob("*.yaml"))


# Parameters are Any because each shape has its own; its `Parameters` model checks them.
def load_topology(name_or_path: str | Path, *, accelerator: str | None = None, **parameters: Any) -> Cluster:
    """The cluster a topology file describes.

    `name_or_path` is a name in topologies/, the path of a YAML file, the path of a graph (.json, .graphml: see the shape
    graph), or the name of a TPU slice: `v5p:8x8x16` is tpu-v5p-pod with that shape, `v4-256` as Google counts, which is
    TensorCores for v2 to v5p and v7 (two a chip) and chips for v5e and v6e (one core each). `parameters` are those of its
    shape, for example `nodes=4`; `accelerator` puts another kind of device into the same network.

    >>> load_topology("dgx-h100-superpod", nodes=4).num_devices
    32
    >>> load_topology("v4-256").num_devices
    128

    Raises UnknownName or InputError, in one sentence, for a name, key or number that cannot be used.
    """
    path, named = _find(name_or_path)
    if path.suffix in GRAPH_SUFFIXES:
        data = _graph_data(path, accelerator)
    else:
        data = read_yaml(path)
        refuse_partial(data, path)
        data.pop("missing", None)
        if isinstance(data.get("file"), str):
            data["file"] = str(path.parent / data["file"])
    twice = sorted(named.keys() & parameters.keys())
    if twice:
        raise InputError(
            f"{name_or_path} already says its size, got {twice[0]}={str(parameters[twice[0]])[:40]!r} as well"
        )
    parameters = {**named, **parameters}
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


def _find(name_or_path: str | Path) -> tuple[Path, dict[str, Any]]:
    """The file, and the parameters that a slice's name stands for."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith((".yaml", ".yml", *GRAPH_SUFFIXES)):
        return Path(text), {}
    named: dict[str, Any] = {}
    match = _SLICE.fullmatch(text)
    if match:
        text = f"tpu-{_SAME_TPU.get(match['version'], match['version'])}-pod"
        named = {"shape": match["shape"]} if match["shape"] else {"slice": int(match["size"])}
    if text not in list_topologies():
        raise unknown_name("topology", str(name_or_path), list_topologies())
    return data_folder("topologies") / f"{text}.yaml", named


def _graph_data(path: Path, accelerator: str | None) -> dict[str, Any]:
    """What the YAML file of a graph would say: its own `name` and `accelerator` where it has them."""
    attributes = read_graph(path).attributes
    device = accelerator or attributes.get("accelerator")
    if not isinstance(device, str):
        raise InputError(
            f"{path} names no accelerator; give one, such as accelerator: h100-sxm, or set it on the graph"
        )
    name = attributes.get("name") or path.stem
    return {"format_version": 1, "name": name, "shape": "graph", "accelerator": device, "file": str(path)}


def _asked_for(parameters: Section) -> tuple[str, ...]:
    """A source line for each parameter that takes the place of the file's value."""
    given = parameters.model_dump(exclude_none=True)
    return tuple(
        f"{name} = {value} (assumed): asked for, in place of the file's value" for name, value in given.items()
    )


def _accelerator(name: str, folder: Path) -> tuple[Accelerator, tuple[str, ...]]:
    """An accelerator by name, or by path from the topology file's folder."""
    return read_accelerator(folder / name) if name.endswith((".yaml", ".yml")) else load_accelerator(name)
