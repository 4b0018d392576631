"""Counts of a tree from the ways up of its nodes: nodes, nodes of a leaf, leaves that share their spines."""

from collections import Counter
from collections.abc import Mapping

from moesim.topology.claims import Said


def switch_facts(ways: Mapping[str, tuple[str, ...]], file: str) -> dict[str, Said]:
    """`nodes`, `leaf.nodes`, `leaf.rails` (one, as one leaf is named), `spine.units` and what one leaf alone settles.

    Leaves of unequal size are built as the largest; the source says so.
    """
    facts = {"nodes": Said(len(ways), "datasheet", f"{file}: nodes under switches")}
    if not all(ways.values()):
        return facts
    leaves = Counter(way[0] for way in ways.values())
    sizes = sorted(set(leaves.values()), reverse=True)
    uneven = "" if len(sizes) == 1 else f", of unequal sizes {sizes[:6]}, built as the largest"
    facts["leaf.nodes"] = Said(sizes[0], "datasheet", f"{file}: {len(leaves)} leaves{uneven}")
    facts["leaf.rails"] = Said(1, "derived", f"{file}: it names one leaf for a node")
    if len(leaves) == 1:
        facts["spine.oversubscription"] = Said(1.0, "derived", f"{file}: one leaf, nothing above it")
    groups = Counter(spine for _, spine in sorted({way[:2] for way in ways.values() if len(way) > 1}))
    if len(groups) > 1 and all(len(way) > 2 for way in ways.values()):
        facts["spine.units"] = Said(max(groups.values()), "datasheet", f"{file}: leaves under a spine")
    return facts
