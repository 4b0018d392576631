"""InfiniBand fabrics: from ports and cables to nodes, leaves, spines and how far they are oversubscribed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moesim.errors import InputError
from moesim.topology.claims import Claims, Said, by_node

LANE_GBIT_S = {
    **{"SDR": 2.5, "DDR": 5.0, "QDR": 10.0, "FDR10": 10.0, "FDR": 14.0, "EDR": 25.0},
    **{"HDR": 50.0, "NDR": 100.0, "XDR": 200.0},
}
_UNNAMED = re.compile(r"MT\d+|ConnectX|Mellanox|HCA-?\d*$|Quantum|localhost", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Cable:
    """A cable between two ends, each a guid, and its bytes/s in one direction."""

    ends: tuple[str, str]
    rate: float


@dataclass(frozen=True, slots=True)
class Fabric:
    """Names of switches and of adapters ("node01 mlx5_0") by guid, and every cable once."""

    switches: Mapping[str, str]
    adapters: Mapping[str, str]
    cables: Sequence[Cable]


def link_rate(width: str, speed: str, place: str) -> float:
    """Bytes/s of `4x` and `NDR`; raises InputError for a width or speed that is not known."""
    lanes = width.lower().removesuffix("x")
    if lanes not in ("1", "2", "4", "8", "12") or speed not in LANE_GBIT_S:
        raise InputError(f"{place}: a link of {width[:8]} {speed[:12]!r} is not known; expected for example 4x and HDR")
    return int(lanes) * LANE_GBIT_S[speed] * 1e9 / 8


def fabric_claims(source: str, fabric: Fabric) -> Claims:
    """Nodes and their leaves, rails, ports, and the oversubscription of leaves and spines. Raises InputError."""
    host_of = {guid: _host(guid, name, source) for guid, name in fabric.adapters.items()}
    ports: list[tuple[str, float]] = []
    leaves_of: dict[str, dict[str, None]] = {}
    down: dict[str, float] = {}
    between: list[Cable] = []
    for cable in fabric.cables:
        one, other = cable.ends if cable.ends[0] in host_of else cable.ends[::-1]
        if one in host_of and other in fabric.switches:
            ports.append((host_of[one], cable.rate))
            leaves_of.setdefault(host_of[one], {})[other] = None
            down[other] = down.get(other, 0.0) + cable.rate
        elif one in fabric.switches and other in fabric.switches:
            between.append(cable)
    if not leaves_of:
        raise InputError(f"{source} has no adapter under a switch; run it on a fabric whose ports are up")
    levels = _levels(between, list(down))
    group_of = _groups(between, levels)
    ways = {}
    for host, leaves in sorted(leaves_of.items()):
        names = sorted(leaves)
        top = ("core",) if max(levels.values()) > 1 else ()
        ways[host] = ("+".join(fabric.switches[guid] for guid in names), group_of[names[0]], *top)
    rails = max(len(leaves) for leaves in leaves_of.values())
    facts = {
        **by_node(source, ports, "cables to adapters"),
        "leaf.rails": Said(rails, "derived", f"{source}: leaves that a node is cabled to"),
        **_oversubscriptions(source, sum(down.values()), between, levels),
    }
    notes = []
    if len({len(leaves) for leaves in leaves_of.values()}) > 1:
        notes.append(f"{source}: nodes are cabled to unequal numbers of leaves; the most is taken")
    return Claims(file=source, facts=facts, switches=ways, notes=tuple(notes))


def _host(guid: str, name: str, source: str) -> str:
    """The node an adapter is in: the first word of its description."""
    words = name.split()
    if not words or _UNNAMED.match(words[0]):
        raise InputError(
            f"{source}: the adapter {guid} is called {name[:60]!r}, which names no node; set node_desc there"
        )
    return words[0]


def _levels(between: Sequence[Cable], leaves: Sequence[str]) -> dict[str, int]:
    """Cables from the nearest leaf, for every switch."""
    neighbours: dict[str, dict[str, None]] = {}
    for cable in between:
        for one, other in (cable.ends, cable.ends[::-1]):
            neighbours.setdefault(one, {})[other] = None
    levels, frontier = dict.fromkeys(leaves, 0), list(leaves)
    while frontier:
        found = [other for one in frontier for other in neighbours.get(one, {}) if other not in levels]
        for other in found:
            levels[other] = min(levels[one] for one in neighbours[other] if one in levels) + 1
        frontier = list(dict.fromkeys(found))
    return levels


def _groups(between: Sequence[Cable], levels: Mapping[str, int]) -> dict[str, str]:
    """A name for the leaves and spines that are joined below the core: the least guid among them."""
    name = {guid: guid for guid, level in levels.items() if level < 2}

    def root(guid: str) -> str:
        while name[guid] != guid:
            name[guid] = name[name[guid]]
            guid = name[guid]
        return guid

    for cable in between:
        if all(end in name for end in cable.ends):
            one, other = sorted(map(root, cable.ends))
            name[other] = one
    return {guid: root(guid) for guid in name}


def _oversubscriptions(
    source: str, rate_down: float, between: Sequence[Cable], levels: Mapping[str, int]
) -> dict[str, Said]:
    """Rate below each tier over its rate upwards, all switches of the tier together."""
    facts = {}
    for level, key in ((0, "spine.oversubscription"), (1, "core.oversubscription")):
        up = sum(cable.rate for cable in between if sorted(levels[end] for end in cable.ends) == [level, level + 1])
        if up > 0:
            facts[key] = Said(rate_down / up, "derived", f"{source}: cables down over cables up")
            rate_down = up
    return facts
