"""Shape graph: a user's own wiring, from a file that networkx writes (node-link JSON or GraphML).

A vertex is a device, or a switch with `kind: switch`. Devices may say `node` (a whole number; absent: each device is a
node of its own) and `speed`. An edge is a link: `bandwidth` ("400 Gbit/s" or bytes/s) and, optionally, `latency` ("1 us"
or s), `tier`, `lanes` and `name`; in an undirected graph it is one link each way. Devices are numbered node by node in
the order of the file. Traffic takes the fewest links, also through devices.

A link's tier, where it does not say one, is `scale_up` between devices, `nic` between a device and a switch, `leaf`
between switches. Two links from one vertex to the same other one are refused unless they have different `key`s.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from moesim.cluster import TIERS, Accelerator, Cluster, Device, GraphLayout, Link
from moesim.errors import InputError, unknown_name
from moesim.topology.facts import Section, Seed
from moesim.topology.graph_file import GraphRecords, read_graph
from moesim.topology.header import Header
from moesim.topology.scale_up import LARGEST_CLUSTER
from moesim.units import parse_quantity

LARGEST_NUM_LINKS = 2_000_000


class Spec(Header):
    """A topology file of this shape: `file` is the graph, beside it."""

    shape: Literal["graph"]
    file: str
    path_policy: str = "minimal_adaptive"


class Parameters(Section):
    """What may be asked for beside the file."""

    hash_seed: Seed | None = None
    path_policy: str | None = None


def build(spec: Spec, parameters: Parameters, accelerator: Accelerator, sources: tuple[str, ...]) -> Cluster:
    """The graph in `spec.file` as a cluster; raises InputError for what is not a cluster, a disconnected graph included."""
    path = Path(spec.file)
    records = read_graph(path)
    where = path.name
    if len(records.vertices) > LARGEST_CLUSTER or len(records.edges) > LARGEST_NUM_LINKS // 2:
        raise InputError(
            f"{where} has {len(records.vertices)} vertices and {len(records.edges)} edges; "
            f"at most {LARGEST_CLUSTER} and {LARGEST_NUM_LINKS // 2} are read"
        )
    devices, place_of_id = _vertices(records, accelerator, where)
    names = [device.name for device in devices]
    names += [str(vertex_id) for vertex_id, place in place_of_id.items() if place >= len(devices)]
    links, ends = _links(records, place_of_id, names, len(devices), where)
    source, target = (np.array(column, dtype=np.int32) for column in zip(*ends, strict=True)) if ends else (_EMPTY,) * 2
    _check_connected(source, target, names, len(devices), where)
    order = np.argsort(source, kind="stable").astype(np.int32)
    layout = GraphLayout(
        vertex_names=tuple(names),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(source, minlength=len(names)))]).astype(np.int32),
        links=order,
        targets=target[order],
        hash_seed=parameters.hash_seed or 0,
    )
    lines = (*sources, f"every device and link (assumed): as {where} says it")
    return Cluster(spec.name, devices, tuple(links), layout, lines, parameters.path_policy or spec.path_policy)


_EMPTY = np.zeros(0, dtype=np.int32)


def _vertices(records: GraphRecords, accelerator: Accelerator, where: str) -> tuple[tuple[Device, ...], dict[Any, int]]:
    """Devices node by node, and each vertex id's number: devices first, then switches."""
    known: dict[Any, dict[str, Any]] = {}
    for vertex in records.vertices:
        vertex_id = vertex.get("id")
        if not isinstance(vertex_id, (str, int)) or isinstance(vertex_id, bool):
            raise InputError(f"{where}: the id of a vertex must be text or a whole number, got {str(vertex_id)[:40]!r}")
        if vertex_id in known:
            raise InputError(f"{where} has two vertices with the id {str(vertex_id)[:40]!r}")
        if vertex.get("kind", "device") not in ("device", "switch"):
            raise unknown_name(f"kind of vertex {str(vertex_id)[:40]!r}", str(vertex["kind"]), ("device", "switch"))
        known[vertex_id] = vertex
    chips = [vertex_id for vertex_id, vertex in known.items() if vertex.get("kind", "device") == "device"]
    if not chips:
        raise InputError(f"{where} has no devices; a vertex is a device unless it says kind: switch")
    node_of = _nodes(chips, known, where)
    chips.sort(key=node_of.__getitem__)
    devices: list[Device] = []
    for index, vertex_id in enumerate(chips):
        node = node_of[vertex_id]
        local = devices[-1].local_index + 1 if devices and devices[-1].node == node else 0
        speed = _number(known[vertex_id].get("speed", 1.0), f"speed of vertex {str(vertex_id)[:40]!r}", where)
        devices.append(Device(f"node{node}.dev{local}", index, node, local, accelerator, speed))
    switches = [vertex_id for vertex_id, vertex in known.items() if vertex.get("kind", "device") == "switch"]
    return tuple(devices), {vertex_id: place for place, vertex_id in enumerate([*chips, *switches])}


def _nodes(chips: list[Any], known: dict[Any, dict[str, Any]], where: str) -> dict[Any, int]:
    """The node of each device, renumbered 0.. in the order of the numbers the file gives."""
    given = [known[vertex_id].get("node") for vertex_id in chips]
    if all(node is None for node in given):
        return {vertex_id: place for place, vertex_id in enumerate(chips)}
    for vertex_id, node in zip(chips, given, strict=True):
        if not isinstance(node, int) or isinstance(node, bool):
            raise InputError(
                f"{where}: node of vertex {str(vertex_id)[:40]!r} must be a whole number, on all devices or on none, "
                f"got {str(node)[:40]!r}"
            )
    dense = {node: place for place, node in enumerate(sorted({int(node) for node in given if node is not None}))}
    return {vertex_id: dense[int(node)] for vertex_id, node in zip(chips, given, strict=True) if node is not None}


def _links(
    records: GraphRecords, place_of_id: dict[Any, int], names: list[str], num_devices: int, where: str
) -> tuple[list[Link], list[tuple[int, int]]]:
    """Every link and the vertices it joins; an undirected edge is two."""
    links: list[Link] = []
    ends: list[tuple[int, int]] = []
    seen: dict[tuple[int, int, str], None] = {}
    for edge in records.edges:
        source, target = (_place(edge.get(end), place_of_id, where) for end in ("source", "target"))
        for one, other in _directions(source, target, records.directed):
            key = "" if edge.get("key") is None else str(edge["key"])
            pair = f"{names[one]} to {names[other]}"
            if one == other:
                raise InputError(f"{where}: {names[one]} has a link to itself")
            if (one, other, key) in seen or ((one, other, "") in seen):
                raise InputError(f"{where} has two links from {pair}; give parallel links different keys")
            seen[one, other, key] = None
            links.append(
                _link(edge, f"{pair}{'.' + key if key else ''}".replace(" ", "."), (one, other), num_devices, where)
            )
            ends.append((one, other))
    return links, ends


def _directions(source: int, target: int, directed: bool) -> Iterator[tuple[int, int]]:
    yield source, target
    if not directed:
        yield target, source


def _link(edge: dict[str, Any], name: str, ends: tuple[int, int], num_devices: int, where: str) -> Link:
    if "bandwidth" not in edge:
        raise InputError(f"{where}: the link {name} has no bandwidth")
    try:
        bandwidth = parse_quantity(edge["bandwidth"], "rate")
        latency_s = parse_quantity(edge.get("latency", 0.0), "time")
    except InputError as error:
        raise InputError(f"{where}: link {name}: {error}") from None
    own = ("leaf", "nic", "scale_up")[sum(end < num_devices for end in ends)]
    tier, lanes = edge.get("tier", own), edge.get("lanes", 1)
    if tier not in TIERS:
        raise unknown_name(f"tier of link {name}", str(tier), TIERS)
    if not isinstance(lanes, int) or isinstance(lanes, bool):
        raise InputError(f"{where}: lanes of link {name} must be a whole number, got {str(lanes)[:40]!r}")
    return Link(name, bandwidth, latency_s, tier, lanes)


def _place(vertex_id: Any, place_of_id: dict[Any, int], where: str) -> int:
    if not isinstance(vertex_id, (str, int)) or vertex_id not in place_of_id:
        raise InputError(f"{where}: a link ends at {str(vertex_id)[:40]!r}, which is no vertex of the graph")
    return place_of_id[vertex_id]


def _number(value: Any, what: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < math.inf:
        raise InputError(f"{where}: {what} must be a number above 0, got {str(value)[:40]!r}")
    return float(value)


def _check_connected(source: Any, target: Any, names: list[str], num_devices: int, where: str) -> None:
    """Raise InputError where some device cannot reach another."""
    graph = csr_array((np.ones(len(source), dtype=np.int8), (source, target)), shape=(len(names),) * 2)
    _, part = connected_components(graph, directed=True, connection="strong")
    apart = np.flatnonzero(part[:num_devices] != part[0])
    if len(apart):
        raise InputError(
            f"{where} is not connected: {len(apart)} of its {num_devices} devices, {names[apart[0]]} the first, "
            f"cannot reach {names[0]} and be reached from it"
        )
