"""Reader of `ibnetdiscover`: adapters, switches and their cables, each of which stands in it once from either end."""

import re
from pathlib import Path

from moesim.errors import InputError
from moesim.topology.claims import Claims
from moesim.topology.fabric import Cable, Fabric, fabric_claims, link_rate
from moesim.topology.foreign_text import read_text

_NODE = re.compile(r'(Switch|Ca|Rt)\s+(\d+)\s+"([SHR]-[0-9a-f]+)"\s*#\s*"([^"]*)"')
_PORT = re.compile(r'\[(\d+)\](?:\[[^\]]*\])?(?:\([0-9a-f]+\))?\s+"([SHR]-[0-9a-f]+)"\[(\d+)\][^#]*#(.*)')
_RATE = re.compile(r"(\d+x)(\w+|\?\?\?)\s*$")


def recognises(text: str) -> bool:
    """Whether blocks of `vendid=` and nodes with quoted guids are there."""
    return "vendid=" in text and _NODE.search(text) is not None


def read(path: Path) -> Claims:
    """The fabric. Raises InputError naming the line that is cut off or whose speed is not known."""
    names: dict[str, str] = {}
    cables: dict[tuple[str, str], Cable] = {}
    current = ""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        place = f"{path} line {number}"
        node, port = _NODE.match(line), _PORT.match(line)
        if node:
            current = node[3]
            names[current] = node[4]
        elif port:
            rate = _RATE.search(port[4].rstrip())
            if not current or rate is None:
                raise InputError(
                    f"{place} is a port without a node or without a speed such as 4xNDR; the file is cut off"
                )
            ends = sorted((f"{current}[{port[1]}]", f"{port[2]}[{port[3]}]"))
            cables.setdefault((ends[0], ends[1]), Cable((current, port[2]), link_rate(rate[1], rate[2], place)))
        elif line.startswith("["):
            raise InputError(f"{place} is no whole line of a port: {line[:60]!r}")
    absent = [end for cable in cables.values() for end in cable.ends if end not in names]
    if absent:
        raise InputError(f"{path} has cables to {absent[0]}, which it does not describe; it is truncated")
    fabric = Fabric(
        switches={guid: name for guid, name in names.items() if guid[0] == "S"},
        adapters={guid: name for guid, name in names.items() if guid[0] == "H"},
        cables=tuple(cables.values()),
    )
    return fabric_claims(path.name, fabric)
