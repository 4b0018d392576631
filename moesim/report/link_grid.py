"""Links of a cluster arranged as small grids (tier and direction; node by local index), and how busy each was."""

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.result import SimulationResult

_DIRECTIONS = ("out", "up", "in", "down", "x+", "x-", "y+", "y-", "z+", "z-")
_TIERS = ("scale_up", "ici", "nic", "leaf", "pod", "core", "local", "global", "dcn", "copy_engine")  # outwards
_WORDS = {"dev": "device", "nic": "NIC"}  # where a name's own word is not a reader's
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
        _grid(tier, direction, [_place(tables.link_names[link], direction) for link in links], use[links])
        for (tier, direction), links in members.items()
    ]
    return sorted(grids, key=_rank)


def _rank(grid: LinkGrid) -> tuple[int, int, str]:
    tier = _TIERS.index(grid.tier) if grid.tier in _TIERS else len(_TIERS)
    return tier, _DIRECTIONS.index(grid.direction) if grid.direction else len(_DIRECTIONS), grid.tier


def _place(name: str, direction: str) -> str:
    """What of a link's name says where it is: all but the direction."""
    return name.rsplit(".", 1)[0] if direction else name


def _grid(tier: str, direction: str, names: list[str], use: NDArray[np.float64]) -> LinkGrid:
    """By the numbers in the names where all have as many ("node3.nic2", "group0.switch1.to2"), else in order, wrapped.

    The first number is the row, the others together the column.
    """
    found = [re.findall(r"([a-z_]*?)(\d{1,9})(?![\d])", name) for name in names]
    if len({len(parts) for parts in found}) == 1 and len(found[0]) in (2, 3):
        rows = _rank_of([(int(parts[0][1]),) for parts in found])
        columns = _rank_of([tuple(int(number) for _, number in parts[1:]) for parts in found])
        shape = (int(rows.max()) + 1, int(columns.max()) + 1)
        filled = np.full(shape, np.nan) if shape[0] * shape[1] <= 4 * len(names) else None
        if filled is not None and len(np.unique(rows * shape[1] + columns)) == len(names):
            filled[rows, columns] = use
            words = [_WORDS.get(found[0][place][0], found[0][place][0]) for place in (0, 1)]
            if len(found[0]) > 2:
                words[1] = "link"
            if shape[0] > shape[1]:
                filled, words = filled.T, words[::-1]
            return LinkGrid(tier, direction, words[0], words[1], filled)
    width = min(_WRAP, len(names))
    wrapped = np.full(-(-len(names) // width) * width, np.nan)
    wrapped[: len(names)] = use
    return LinkGrid(tier, direction, "", "link", wrapped.reshape(-1, width))


def _rank_of(numbers: list[tuple[int, ...]]) -> NDArray[np.int64]:
    """Place of each tuple among the distinct ones: a name with a huge number asks for no huge grid."""
    keys = np.array(numbers, dtype=np.int64)
    return np.asarray(np.unique(keys, axis=0, return_inverse=True)[1], dtype=np.int64).ravel()
