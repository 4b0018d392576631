"""What one file says about a cluster: sourced figures by their key in a topology file, and which switches nodes share.

Keys are those of the shapes rail_fat_tree, single_node and torus (`scale_up.devices`, `leaf.latency`, ...), and two of a
whole node, from which the figures of a device follow: `node.nic_ports` and `node.nic_bandwidth` (of one port).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moesim.provenance import Kind
from moesim.units import format_rate

Value = float | int | str


@dataclass(frozen=True, slots=True)
class Said:
    """One figure (SI: bytes/s, seconds, counts) or name, with how it was come by and where it was read."""

    value: Value
    kind: Kind
    source: str

    def shown(self, key: str) -> str:
        """The value as people write it."""
        return format_rate(float(self.value)) if key.endswith("bandwidth") else str(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What one file says. `switches`: node -> names of the groups it is in, the nearest (leaf) first.

    `graph` is a whole graph as networkx node-link data, which stands alone. `is_torus`: the keys are a torus's.
    `notes` are what the reader assumed or left out.
    """

    file: str
    facts: Mapping[str, Said] = field(default_factory=dict)
    switches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    graph: Mapping[str, Any] | None = None
    is_torus: bool = False
    notes: tuple[str, ...] = ()


def by_node(source: str, ports: list[tuple[str, float]], what: str) -> dict[str, Said]:
    """`node.nic_ports` and `node.nic_bandwidth` from (node, bytes/s) of every port: most ports, their mean rate."""
    if not ports:
        return {}
    per_node: dict[str, int] = {}
    for node, _ in ports:
        per_node[node] = per_node.get(node, 0) + 1
    rates = [rate for _, rate in ports]
    return {
        "node.nic_ports": Said(max(per_node.values()), "derived", f"{source}: {what} of a node"),
        "node.nic_bandwidth": Said(sum(rates) / len(rates), "datasheet", f"{source}: rate of its {what}"),
    }
