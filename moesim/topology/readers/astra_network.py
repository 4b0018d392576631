"""Reader of ASTRA-sim's network.yml (analytical backend): dimensions of NPUs, each a ring, a full mesh or a switch.

One to three rings are a torus. Else the first dimension is the inside of a node, the next the network between nodes.
"""

import re
from pathlib import Path
from typing import Any

from moesim.errors import InputError
from moesim.topology.claims import Claims, Said
from moesim.topology.foreign_text import read_text, yaml_documents

_FIRST = re.compile(r"^\s*npus_count\s*:", re.MULTILINE)
_KEYS = ("topology", "npus_count", "bandwidth", "latency")
_KINDS = ("Ring", "FullyConnected", "Switch")


def recognises(text: str) -> bool:
    """Whether a key npus_count is there."""
    return _FIRST.search(text) is not None


def read(path: Path) -> Claims:
    """All but the accelerator. Raises InputError for lists of unequal length and what no shape here expresses."""
    kinds, counts, rates, latencies = _columns(path)
    source = path.name
    if all(kind == "Ring" for kind in kinds) and len(kinds) <= 3:
        return _torus(source, counts, rates, latencies)
    if "Ring" in kinds or len(kinds) > 3 or (len(kinds) == 3 and kinds[1:] != ["Switch", "Switch"]):
        raise InputError(
            f"{path} has dimensions {', '.join(kinds)}, which no topology here expresses; rings only, or switches"
        )
    facts = {
        "scale_up.devices": Said(counts[0], "datasheet", f"{source}: npus_count"),
        "scale_up.bandwidth": Said(
            _rate(kinds[0], counts[0], rates[0]), "datasheet", f"{source}: {kinds[0]} of {rates[0]:g} GB/s"
        ),
        "scale_up.latency": Said(
            _latency(kinds[0], latencies[0]), "datasheet", f"{source}: latency, both ways of a switch"
        ),
    }
    notes = []
    if len(kinds) > 1:
        nodes, leaf = counts[1] * (counts[2] if len(counts) > 2 else 1), _latency(kinds[1], latencies[1])
        one = "one switch joins its nodes"
        facts |= {
            "nodes": Said(nodes, "datasheet", f"{source}: npus_count"),
            "nic.lanes": Said(1, "assumed", f"{source} does not count ports"),
            "nic.bandwidth": Said(_rate(kinds[1], counts[1], rates[1]), "datasheet", f"{source}: bandwidth"),
            "leaf.nodes": Said(counts[1], "datasheet", f"{source}: npus_count"),
            "leaf.rails": Said(counts[0], "derived", f"{source}: a dimension joins NPUs of equal place in their nodes"),
            "leaf.latency": Said(leaf, "datasheet", f"{source}: latency, both ways of a switch"),
            "spine.oversubscription": Said(1.0, "derived", f"{source}: {one}"),
            "spine.latency": Said(leaf, "derived", f"{source}: {one}"),
        }
        notes.append(
            f"{source}: traffic between NPUs of different place in different nodes goes through a node, in ASTRA-sim"
        )
    if len(kinds) > 2:
        up = Said(facts["nic.bandwidth"].value / (rates[2] * 1e9), "datasheet", f"{source}: bandwidths")  # type: ignore[operator]
        latency = Said(max(_latency("Switch", latencies[2]), leaf), "datasheet", f"{source}: latency")
        facts |= {"spine.oversubscription": up, "spine.latency": latency}
    return Claims(file=source, facts=facts, notes=tuple(notes))


def _columns(path: Path) -> tuple[list[str], list[int], list[float], list[float]]:
    documents = yaml_documents(read_text(path), str(path))
    data: Any = documents[0] if documents else None
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in _KEYS):
        raise InputError(f"{path} must have the lists {', '.join(_KEYS)}")
    kinds, counts, rates, latencies = (data[key] for key in _KEYS)
    if not kinds or len({len(kinds), len(counts), len(rates), len(latencies)}) > 1:
        raise InputError(f"{path}: {', '.join(_KEYS)} must be of one length, got {[len(data[key]) for key in _KEYS]}")
    for kind, count, rate, latency in zip(kinds, counts, rates, latencies, strict=True):
        if kind not in _KINDS or type(count) is not int or not 1 < count <= 1_000_000:
            raise InputError(
                f"{path}: a dimension is {str(kind)[:40]} of {str(count)[:20]}; expected {', '.join(_KINDS)} of > 1"
            )
        if not _is_number(rate) or rate <= 0 or not _is_number(latency) or latency < 0:
            raise InputError(
                f"{path}: bandwidth must be > 0 GB/s and latency >= 0 ns, got {str(rate)[:20]}, {str(latency)[:20]}"
            )
    return kinds, counts, [float(rate) for rate in rates], [float(latency) for latency in latencies]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15


def _rate(kind: str, count: int, rate: float) -> float:
    """Bytes/s of one NPU into its dimension: a full mesh has a link to each other NPU."""
    return rate * 1e9 * (count - 1 if kind == "FullyConnected" else 1)


def _latency(kind: str, nanoseconds: float) -> float:
    """Seconds end to end: a switch is two links away."""
    return nanoseconds * 1e-9 * (2 if kind == "Switch" else 1)


def _torus(source: str, counts: list[int], rates: list[float], latencies: list[float]) -> Claims:
    facts = {}
    for axis, count, rate in zip("xyz", counts, rates, strict=False):
        facts[f"{axis}.chips"] = Said(count, "datasheet", f"{source}: npus_count")
        facts[f"{axis}.bandwidth"] = Said(rate * 1e9, "datasheet", f"{source}: bandwidth")
    facts["hop_latency"] = Said(max(latencies) * 1e-9, "datasheet", f"{source}: latency, the largest of its dimensions")
    return Claims(file=source, facts=facts, is_torus=True)
