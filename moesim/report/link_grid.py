"""Links of a cluster arranged as small grids (tier and direction; node by local index), and how busy each was."""

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.result import SimulationResult

_DIRECTIONS = ("out", "up", "in", "down")
_TIERS = ("scale_up", "nic", "leaf", "pod", "core")
_WORDS = {"dev": "device", "nic": "NIC", "node": "node", "unit": "unit", "leaf": "leaf", "rail": "rail", "pod": "pod"}
_WRAP = 32


@dataclass(frozen=True, slots=True)
class LinkGrid:
    """Links of one tier and direction: `use` [rows, columns] is the share of the time they would need at full rate.

    NaN where the grid has a place but the cluster no link; `row_word` and `column_word` say what counts along them.
    """

    tier: str
    direction: str
    row_word: str
    column_word: str
    use: NDArray[np.float64]


def link_use(result: SimulationResult) -> NDArray[np.float64]:
    """Bytes over what the link could have carried in all steps, per link; 0 where no time passed."""
    tables = result.tables
    assert tables is not None
    seconds = sum(step.time_s for step in result.steps)
    possible = tables.link_bandwidth * seconds
    return np.divide(tables.link_bytes, possible, out=np.zeros(possible.shape), where=possible > 0)


def link_grids(result: SimulationResult) -> list[LinkGrid]:
    """All links in grids, from the devices outwards, outgoing before incoming."""
    tables = result.tables
    assert tables is not None
    use = link_use(result)
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for link, (name, tier) in enumerate(zip(tables.link_names, tables.link_tier, strict=True)):
        last = name.rsplit(".", 1)[-1]
        members[tier, last if last in _DIRECTIONS else ""].append(link)
    grids = [
        _grid(tier, direction, [tables.link_names[link] for link in links], use[links])
        for (tier, direction), links in members.items()
    ]
    return sorted(grids, key=_rank)


def _rank(grid: LinkGrid) -> tuple[int, int, str]:
    tier = _TIERS.index(grid.tier) if grid.tier in _TIERS else len(_TIERS)
    return tier, _DIRECTIONS.index(grid.direction) if grid.direction else len(_DIRECTIONS), grid.tier


def _grid(tier: str, direction: str, names: list[str], use: NDArray[np.float64]) -> LinkGrid:
    """By the two numbers in the names where every name has two ("node3.nic2.up"), else in order, wrapped."""
    found = [re.findall(r"([a-z_]*?)(\d{1,9})(?![\d])", name.rsplit(".", 1)[0]) for name in names]
    if all(len(parts) == 2 for parts in found):
        rows, columns = (_rank_of([int(parts[place][1]) for parts in found]) for place in (0, 1))
        shape = (int(rows.max()) + 1, int(columns.max()) + 1)
        filled = np.full(shape, np.nan) if shape[0] * shape[1] <= 4 * len(names) else None
        if filled is not None and len(np.unique(rows * shape[1] + columns)) == len(names):
            filled[rows, columns] = use
            words = [_WORDS.get(found[0][place][0], found[0][place][0]) for place in (0, 1)]
            if shape[0] > shape[1]:
                filled, words = filled.T, words[::-1]
            return LinkGrid(tier, direction, words[0], words[1], filled)
    width = min(_WRAP, len(names))
    wrapped = np.full(-(-len(names) // width) * width, np.nan)
    wrapped[: len(names)] = use
    return LinkGrid(tier, direction, "", "link", wrapped.reshape(-1, width))


def _rank_of(numbers: list[int]) -> NDArray[np.int64]:
    """Place of each number among the distinct ones: a name with a huge number asks for no huge grid."""
    return np.asarray(np.unique(np.array(numbers, dtype=np.int64), return_inverse=True)[1], dtype=np.int64)
