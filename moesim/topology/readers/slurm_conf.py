"""Reader of Slurm's topology.conf, tree or block: which nodes share a leaf and which leaves a spine; no rates, no devices."""

import re
from collections.abc import Iterator
from pathlib import Path

from moesim.errors import InputError
from moesim.topology.claims import Claims
from moesim.topology.foreign_text import hosts, read_text
from moesim.topology.switch_tree import Switch, block_claims, tree_claims

_FIRST = re.compile(r"^\s*(SwitchName|BlockName)\s*=", re.IGNORECASE | re.MULTILINE)
_WORD = re.compile(r"(\w+)\s*=\s*(\S+)")


def recognises(text: str) -> bool:
    """Whether a line starts with SwitchName= or BlockName=."""
    return _FIRST.search(text) is not None


def read(path: Path) -> Claims:
    """The tree or the blocks. Raises InputError for what Slurm refuses too, naming the switch."""
    lines = list(_lines(read_text(path), str(path)))
    if any("blockname" in line for _, line in lines):
        blocks = [
            (line["blockname"], hosts(line.get("nodes", ""), place)) for place, line in lines if "blockname" in line
        ]
        sizes = [line["blocksizes"] for _, line in lines if "blocksizes" in line]
        return block_claims(path.name, blocks, _sizes(sizes, str(path)))
    switches = []
    for place, line in lines:
        if "switchname" not in line:
            raise InputError(f"{place} names neither a switch nor a block")
        children = hosts(line.get("switches", ""), place)
        switches.append(Switch(line["switchname"], tuple(children), tuple(hosts(line.get("nodes", ""), place))))
    return tree_claims(path.name, switches)


def _lines(text: str, where: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, key -> value) of every line that is not empty or a comment, keys in small letters."""
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        if content:
            words = {match[1].lower(): match[2] for match in _WORD.finditer(content)}
            if not words:
                raise InputError(f"{where} line {number} is not key=value: {content[:60]!r}")
            yield f"{where} line {number}", words


def _sizes(lines: list[str], where: str) -> list[int]:
    if len(lines) != 1 or not all(part.isdecimal() for part in lines[0].split(",")):
        raise InputError(f"{where} must have one line BlockSizes=a,b,.. of whole numbers, got {lines[:2]}")
    return [int(part) for part in lines[0].split(",")]
