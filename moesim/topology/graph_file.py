"""Files of users' own graphs: networkx node-link JSON and GraphML, read as plain records and nothing more.

No class is looked up, no reference followed: JSON gives records, GraphML is read element by element, and a file with a
document type or entities is refused.
"""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.errors import InputError

LARGEST_FILE_BYTES = 64_000_000
_GRAPHML = "{http://graphml.graphdrawing.org/xmlns}"
_CASTS: dict[str, Any] = {"int": int, "long": int, "float": float, "double": float, "string": str}


@dataclass(frozen=True, slots=True)
class GraphRecords:
    """Attributes of the graph, of each vertex (with its `id`) and each edge (with `source` and `target`)."""

    attributes: dict[str, Any]
    vertices: list[dict[str, Any]]
    edges: list[dict[str, Any]]
    directed: bool


def read_graph(path: Path) -> GraphRecords:
    """The records of a .json or .graphml file of at most 64 MB.

    Raises InputError, in one sentence, for a file that is missing, too large, of another kind or not what it says.
    """
    content = _content(path)
    return _from_graphml(content, path) if path.suffix == ".graphml" else _from_json(content, path)


def _content(path: Path) -> bytes:
    if path.suffix not in (".json", ".graphml"):
        raise InputError(f"{path} is neither .json (networkx node-link) nor .graphml")
    try:
        if not path.is_file():
            raise InputError(f"{path} does not exist or is not a file; expected a graph")
        with open(path, "rb") as stream:
            content = stream.read(LARGEST_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {str(path)[:200]!r}: {error}") from None
    if len(content) > LARGEST_FILE_BYTES:
        raise InputError(f"{path} is larger than {LARGEST_FILE_BYTES} bytes, the most a graph may hold")
    return content


def _from_json(content: bytes, path: Path) -> GraphRecords:
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {' '.join(str(error).split())[:100]}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path} holds a {type(data).__name__} at its top; expected networkx node-link data")
    edges = data.get("edges", data.get("links"))
    vertices, attributes = data.get("nodes"), data.get("graph", {})
    if isinstance(attributes, list):  # written by networkx 1
        attributes = {}
    for name, records in (("nodes", vertices), ("edges (or links)", edges)):
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise InputError(f"{path}: {name} must be a list of records, as networkx.node_link_data writes them")
    if not isinstance(attributes, dict) or not isinstance(data.get("directed", False), bool):
        raise InputError(f"{path}: graph must be a record and directed true or false")
    assert isinstance(vertices, list) and isinstance(edges, list)
    return GraphRecords(attributes, vertices, edges, data.get("directed", False))


def _from_graphml(content: bytes, path: Path) -> GraphRecords:
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content or b"\0" in content:
        raise InputError(
            f"{path} has a document type, entities or a wide encoding; GraphML is read without them, as UTF-8"
        )
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{path} is not XML: {error}") from None
    graphs = root.findall(f"{_GRAPHML}graph")
    if root.tag != f"{_GRAPHML}graphml" or len(graphs) != 1:
        raise InputError(f"{path} must be GraphML with one graph, got {root.tag[:60]!r} with {len(graphs)} graphs")
    keys = _keys(root, path)
    graph = graphs[0]
    directed = graph.get("edgedefault") == "directed"
    vertices = [{**_data(node, keys, path), "id": node.get("id")} for node in graph.findall(f"{_GRAPHML}node")]
    edges = []
    for edge in graph.findall(f"{_GRAPHML}edge"):
        ends = {"source": edge.get("source"), "target": edge.get("target"), "key": edge.get("id")}
        edges.append({**ends, **_data(edge, keys, path)})
    return GraphRecords(_data(graph, keys, path), vertices, edges, directed)


def _keys(root: ElementTree.Element, path: Path) -> dict[str, tuple[str, Any]]:
    """Name and type of each declared attribute, by its id."""
    keys = {}
    for key in root.findall(f"{_GRAPHML}key"):
        name, kind = key.get("attr.name"), key.get("attr.type", "string")
        if not name or not key.get("id"):
            raise InputError(f"{path}: a key of it has no id or no attr.name")
        keys[str(key.get("id"))] = (name, _CASTS.get(kind, str))
    return keys


def _data(element: ElementTree.Element, keys: dict[str, tuple[str, Any]], path: Path) -> dict[str, Any]:
    values = {}
    for data in element.findall(f"{_GRAPHML}data"):
        key = data.get("key", "")
        if key not in keys:
            raise InputError(f"{path}: data names the key {key[:40]!r}, which is not declared")
        name, cast = keys[key]
        try:
            values[name] = cast((data.text or "").strip())
        except ValueError:
            raise InputError(f"{path}: {name} is {str(data.text)[:40]!r}, not a {cast.__name__}") from None
    return values
