"""Reader of Slurm's topology.yaml (25.05 and later): tree, block, ring, torus3d or flat; the cluster's default is taken."""

import re
from pathlib import Path
from typing import Any

from moesim.errors import InputError
from moesim.topology.claims import Claims, Said
from moesim.topology.foreign_text import hosts, read_text, yaml_documents
from moesim.topology.switch_tree import Switch, block_claims, tree_claims

_FIRST = re.compile(r"^-\s+topology\s*:", re.MULTILINE)
_KINDS = ("tree", "block", "ring", "torus3d", "flat")


def recognises(text: str) -> bool:
    """Whether it is a list whose items start with `topology:`."""
    return _FIRST.search(text) is not None


def read(path: Path) -> Claims:
    """The topology with `cluster_default: true`, else the first. Raises InputError for what Slurm refuses too."""
    documents = yaml_documents(read_text(path), str(path))
    listed = documents[0] if documents else None
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise InputError(f"{path}: Slurm expects a list of topologies at the top, got a {type(listed).__name__}")
    for item in listed:
        given = [kind for kind in _KINDS if kind in item]
        if len(given) != 1:
            raise InputError(f"{path}: {str(item.get('topology'))[:60]!r} must have exactly one of {', '.join(_KINDS)}")
    chosen = next((item for item in listed if item.get("cluster_default") is True), listed[0])
    kind = next(kind for kind in _KINDS if kind in chosen)
    source = f"{path.name} {chosen.get('topology')}"
    return _claims(kind, chosen[kind], source, str(path))


def _claims(kind: str, content: Any, source: str, where: str) -> Claims:
    if kind == "flat":
        return Claims(file=source, notes=(f"{source} is flat: it says neither nodes nor switches",))
    if kind == "tree":
        items = _items(content, "switches", where)
        switches = [
            Switch(str(item.get("switch")), tuple(_hosts(item, "children", where)), tuple(_hosts(item, "nodes", where)))
            for item in items
        ]
        return tree_claims(source, switches)
    if kind == "block":
        sizes = content.get("block_sizes") if isinstance(content, dict) else None
        if not isinstance(sizes, list) or not all(type(size) is int for size in sizes):
            raise InputError(f"{where}: block_sizes must be a list of whole numbers, got {str(sizes)[:60]}")
        blocks = [(str(item.get("block")), _hosts(item, "nodes", where)) for item in _items(content, "blocks", where)]
        return block_claims(source, blocks, sizes)
    if kind == "ring":
        rings = [(str(item.get("ring")), _hosts(item, "nodes", where)) for item in _items(content, "rings", where)]
        return tree_claims(
            source, [Switch(name, (), tuple(nodes)) for name, nodes in rings], ("rings are taken as leaves",)
        )
    return _torus(content, source, where)


def _torus(content: Any, source: str, where: str) -> Claims:
    items = _items(content, "toruses", where)
    dims = items[0].get("dims")
    if len(items) > 1 or not isinstance(dims, dict) or not all(type(dims.get(axis)) is int for axis in "xyz"):
        raise InputError(f"{where}: expected one torus with dims x, y, z in whole numbers, got {str(dims)[:60]}")
    count = dims["x"] * dims["y"] * dims["z"]
    nodes = _hosts(items[0], "nodes", where)
    if nodes and len(nodes) != count:
        raise InputError(f"{where}: the torus has {count} places, but {len(nodes)} nodes")
    facts = {
        f"{axis}.chips": Said(dims[axis], "datasheet", f"{source}: dims, a node taken as a chip") for axis in "xyz"
    }
    return Claims(file=source, facts=facts, is_torus=True)


def _items(content: Any, key: str, where: str) -> list[dict[str, Any]]:
    items = content.get(key) if isinstance(content, dict) else None
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise InputError(f"{where}: {key} must be a list of mappings, got {str(items)[:60]}")
    return items


def _hosts(item: dict[str, Any], key: str, where: str) -> list[str]:
    value = item.get(key)
    return hosts(str(value), f"{where}: {key}") if value is not None else []
