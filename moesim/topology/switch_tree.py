"""Switches of schedulers and fabrics as a tree: checked, and each node's way up, nearest switch first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moesim.errors import InputError
from moesim.topology.claims import Claims

_LONGEST_NAME = 64
_DEEPEST = 16


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch with switches below it, or with nodes."""

    name: str
    children: tuple[str, ...]
    nodes: tuple[str, ...]


def tree_claims(source: str, switches: Sequence[Switch], notes: tuple[str, ...] = ()) -> Claims:
    """The way up of every node; raises InputError where the switches are no tree."""
    by_name: dict[str, Switch] = {}
    for switch in switches:
        if switch.name in by_name:
            raise InputError(f"{source}: the switch {switch.name} is defined twice")
        if bool(switch.children) == bool(switch.nodes):
            raise InputError(f"{source}: the switch {switch.name[:80]} must have switches or nodes, and not both")
        if len(switch.name) > _LONGEST_NAME:
            raise InputError(f"{source}: the name {switch.name[:40]}.. is longer than {_LONGEST_NAME} letters")
        by_name[switch.name] = switch
    parent = _parents(source, by_name)
    ways: dict[str, tuple[str, ...]] = {}
    for switch in by_name.values():
        if switch.nodes:
            way = _way_up(source, switch.name, parent)
            for node in switch.nodes:
                if node in ways:
                    raise InputError(f"{source}: the node {node} is under {ways[node][0]} and under {switch.name}")
                ways[node] = way
    if not ways:
        raise InputError(f"{source} has no nodes under its switches")
    return Claims(file=source, switches=ways, notes=notes)


def block_claims(source: str, blocks: Sequence[tuple[str, Sequence[str]]], sizes: Sequence[int]) -> Claims:
    """Blocks as leaves; raises InputError for sizes that are not base x 2^k, and blocks smaller than the base."""
    base = sizes[0] if sizes else 0
    if base < 1 or any(size % base or (size // base).bit_count() != 1 for size in sizes):
        raise InputError(f"{source}: block sizes {list(sizes)[:8]} must be the first one times a power of two")
    small = [name for name, nodes in blocks if len(nodes) < base]
    if small:
        raise InputError(f"{source}: the block {small[0]} has fewer nodes than the base block of {base}")
    claims = tree_claims(source, [Switch(name, (), tuple(nodes)) for name, nodes in blocks])
    return Claims(file=source, switches=claims.switches, notes=(f"{source}: blocks are taken as leaves",))


def _parents(source: str, by_name: Mapping[str, Switch]) -> dict[str, str]:
    parent: dict[str, str] = {}
    for switch in by_name.values():
        for child in switch.children:
            if child not in by_name:
                raise InputError(f"{source}: the switch {switch.name} has the child {child[:80]}, which is not defined")
            if child in parent:
                raise InputError(f"{source} is not a tree: {child} is under {parent[child]} and under {switch.name}")
            parent[child] = switch.name
    return parent


def _way_up(source: str, leaf: str, parent: Mapping[str, str]) -> tuple[str, ...]:
    way = [leaf]
    while way[-1] in parent:
        way.append(parent[way[-1]])
        if len(way) > _DEEPEST:
            raise InputError(f"{source} is not a tree: the way up from {leaf} does not end")
    return tuple(way)
