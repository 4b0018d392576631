"""A topology file put together from what several files say: figures merged, the rest of its keys named as missing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from moesim.errors import InputError
from moesim.topology.claims import Claims, Said
from moesim.topology.leaf_counts import switch_facts

_SAME = 1e-6  # relative difference below which two files say the same
_MUST_AGREE = ("accelerator", "scale_up.devices", "nodes")
_NODE = ("accelerator", "nodes", "scale_up.devices", "scale_up.bandwidth", "scale_up.latency")
_TREE = (
    *_NODE,
    *("nic.lanes", "nic.bandwidth", "leaf.nodes", "leaf.rails", "leaf.latency"),
    *("spine.oversubscription", "spine.latency"),
)
_CORE = ("core.oversubscription", "core.latency")
_OPTIONAL = ("spine.units",)
_TORUS_END = ("hop_latency", "wrap.multiple")


@dataclass(frozen=True, slots=True)
class Draft:
    """Keys and values of a topology file, the keys it lacks, a graph that goes beside it, and what was assumed."""

    data: dict[str, Any]
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    graph: Mapping[str, Any] | None = None


def draft_topology(claims: Sequence[Claims], name: str, fill: Claims | None = None) -> Draft:
    """The file that `claims` make together, earlier ones first; `fill` says what none of them does.

    Raises InputError where two files contradict each other, or cannot be merged.
    """
    facts = _merged(claims)
    graphs = [one for one in claims if one.graph is not None]
    if graphs and len(claims) > 1:
        raise InputError(f"{graphs[0].file} is a whole graph; nothing can be merged into it, so import it alone")
    if len({one.is_torus for one in claims if one.facts or one.switches}) > 1:
        raise InputError("a torus and a tree of switches cannot be merged; import them apart")
    is_torus = any(one.is_torus for one in claims)
    ways, of = _switches(claims)
    if ways:
        found = switch_facts(ways, of)
        _check_agree("nodes", facts.get("nodes", found["nodes"]), found["nodes"])
        facts = {**found, **facts}
    facts = _with_device_ports(facts)
    shape, wanted = _shape(facts, is_graph=bool(graphs), is_torus=is_torus, has_switches=bool(ways))
    file = claims[0].file
    if shape == "torus":
        facts = {**dict(_torus_rest(wanted, file)), **facts}
    elif shape == "single_node":
        facts = {"nodes": Said(1, "derived", f"{file}: one node"), **facts}
    if fill is not None:
        facts = {**_assumed(fill, wanted), **facts}
    notes = (*(note for one in claims for note in one.notes), *_left_out(claims), *_unused_ports(facts, wanted))
    missing = tuple(key for key in wanted if key not in facts)
    kept = [key for key in (*wanted, *_OPTIONAL) if key in facts and (shape == "rail_fat_tree" or key not in _OPTIONAL)]
    data = _nested(name, shape, {key: facts[key] for key in kept}, notes)
    if missing:
        data["missing"] = list(missing)
    return Draft(data, missing, notes, graphs[0].graph if graphs else None)


def _shape(
    facts: Mapping[str, Said], *, is_graph: bool, is_torus: bool, has_switches: bool
) -> tuple[str, tuple[str, ...]]:
    """The shape of the file, and the keys it must have."""
    if is_graph:
        return "graph", ("accelerator",)
    if is_torus:
        return "torus", _torus_keys(facts)
    if has_switches or "leaf.nodes" in facts or float(facts.get("nodes", Said(1, "derived", "one")).value) > 1:
        has_core = "spine.units" in facts or any(key in facts for key in _CORE)
        return "rail_fat_tree", (*_TREE, *_CORE) if has_core else _TREE
    return "single_node", _NODE


def _merged(claims: Sequence[Claims]) -> dict[str, Said]:
    """What is said of each key first; others that differ are added to its source, or refused where they must agree."""
    facts: dict[str, Said] = {}
    for one in claims:
        for key, said in one.facts.items():
            first = facts.setdefault(key, said)
            if _agree(first, said):
                continue
            if key in _MUST_AGREE:
                _check_agree(key, first, said)
            facts[key] = replace(first, source=f"{first.source}; {one.file} says {said.shown(key)}")
    return facts


def _check_agree(key: str, first: Said, said: Said) -> None:
    if not _agree(first, said):
        raise InputError(
            f"{key} is {first.shown(key)} ({first.source}) but {said.shown(key)} ({said.source}); "
            f"the files are of different machines, or one is outdated"
        )


def _agree(one: Said, other: Said) -> bool:
    if isinstance(one.value, str) or isinstance(other.value, str):
        return one.value == other.value
    return abs(one.value - other.value) <= _SAME * max(abs(one.value), abs(other.value))


def _switches(claims: Sequence[Claims]) -> tuple[Mapping[str, tuple[str, ...]], str]:
    """The ways up of the first file that has them; InputError where another groups the same nodes differently."""
    known = [one for one in claims if one.switches]
    if not known:
        return {}, ""
    first = known[0]
    for other in known[1:]:
        shared = [node for node in first.switches if node in other.switches]
        pairs = {(first.switches[node][:1], other.switches[node][:1]) for node in shared}
        if len(pairs) != len({one for one, _ in pairs}) or len(pairs) != len({two for _, two in pairs}):
            raise InputError(
                f"{first.file} and {other.file} put the same nodes under different leaves; one is outdated"
            )
        if not shared:
            raise InputError(f"{first.file} and {other.file} have no node in common; they name nodes differently")
    return first.switches, first.file


def _left_out(claims: Sequence[Claims]) -> Iterator[str]:
    """Which file's nodes are taken where several files name others."""
    known = [one for one in claims if one.switches]
    for first, other in ((known[0], other) for other in known[1:]):
        if other.switches.keys() != first.switches.keys():
            shared = sum(node in first.switches for node in other.switches)
            yield (
                f"the {len(first.switches)} nodes of {first.file} are taken; {other.file} has {len(other.switches)}, "
                f"{shared} of them the same"
            )


def _with_device_ports(facts: Mapping[str, Said]) -> dict[str, Said]:
    """`nic.lanes` and `nic.bandwidth` of a device, where the ports of a node and its devices are known."""
    found = dict(facts)
    ports, devices, rate = (facts.get(key) for key in ("node.nic_ports", "scale_up.devices", "node.nic_bandwidth"))
    if ports is None or devices is None:
        return found
    count, shares = int(float(ports.value)), int(float(devices.value))
    source = f"{count} ports of {shares} devices ({ports.source})"
    even = count % shares == 0
    found.setdefault("nic.lanes", Said(count // shares if even else 1, "derived", source))
    if rate is not None:
        value = float(rate.value) * (1 if even else count / shares)
        how = rate.source if even else f"{rate.source}, shared evenly: {source}"
        found.setdefault("nic.bandwidth", Said(value, rate.kind if even else "derived", how))
    return found


def _unused_ports(facts: Mapping[str, Said], wanted: Sequence[str]) -> Iterator[str]:
    """What is known of a node's ports where a device's share of them is not."""
    ports, rate = facts.get("node.nic_ports"), facts.get("node.nic_bandwidth")
    if "nic.lanes" in wanted and "nic.lanes" not in facts and ports is not None:
        at = "" if rate is None else f" of {rate.shown('bandwidth')}"
        yield f"a node has {ports.value} ports{at} ({ports.source}), shared by a number of devices no file says"


def _torus_keys(facts: Mapping[str, Said]) -> tuple[str, ...]:
    axes = [axis for axis in "xyz" if f"{axis}.chips" in facts]
    keys = [key for axis in axes for key in (f"{axis}.chips", f"{axis}.bandwidth")]
    return ("accelerator", *keys, *_TORUS_END, *(f"host.{axis}" for axis in axes))


def _torus_rest(wanted: Sequence[str], file: str) -> Iterator[tuple[str, Said]]:
    """Axes wrap, and a node is one chip, where nothing else is said."""
    yield "wrap.multiple", Said(1, "derived", f"{file}: rings wrap")
    for key in wanted:
        if key.startswith("host."):
            yield key, Said(1, "assumed", f"{file} does not say which chips share a host; each is taken as one")


def _assumed(fill: Claims, wanted: Sequence[str]) -> dict[str, Said]:
    return {
        key: Said(said.value, "assumed", f"as {fill.file}: {said.source}")
        for key, said in fill.facts.items()
        if key in wanted and key != "nodes"
    }


def _nested(name: str, shape: str, facts: Mapping[str, Said], notes: Sequence[str]) -> dict[str, Any]:
    """The file's mapping: dotted keys become sections, quantities text with a unit."""
    data: dict[str, Any] = {"format_version": 1, "name": name, "description": "; ".join(notes), "shape": shape}
    for key, said in facts.items():
        section, _, last = key.rpartition(".")
        place = data.setdefault(section, {}) if section else data
        place[last] = said.value if key == "accelerator" else _fact(key, said)
    return data


def _fact(key: str, said: Said) -> dict[str, Any]:
    value: Any = said.value
    if key.endswith("bandwidth"):
        value = f"{float(value) / 1e9:.10g} GB/s"
    elif key.endswith("latency"):
        value = f"{float(value) * 1e6:.10g} us"
    elif key.endswith("oversubscription"):
        value = float(f"{float(value):.6g}")
    else:
        value = int(value)
    return {"value": value, "kind": said.kind, "source": said.source}
