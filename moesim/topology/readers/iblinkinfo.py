"""Reader of `iblinkinfo` (without --line): ports of adapters and switches with the speed of a lane and their state."""

import re
from pathlib import Path

from moesim.errors import InputError
from moesim.topology.claims import Claims
from moesim.topology.fabric import Cable, Fabric, fabric_claims, link_rate
from moesim.topology.foreign_text import read_text

_NODE = re.compile(r"(Switch|CA|Router): (?:(0x[0-9a-f]+) )?(.*):\s*$")
_PORT = re.compile(
    r"\s+(?:0x[0-9a-f]+\s+)?(\d+)\s+(\d+)\[..\]\s*==\(\s*(\d+X)\s+([\d.]+) Gbps(?: \(FDR10\))?\s+(\w+)/\s*\w+\)==>\s+"
    r'(\d+)\s+(\d+)\[..\]\s+"([^"]*)"'
)
_DOWN = re.compile(r"==\(\s*(Down|Initialize|Init|Armed)/")
_SPEEDS = {  # Gbit/s of a lane as signalled -> the speed's name
    **{"2.5": "SDR", "5.0": "DDR", "5": "DDR", "10.0": "QDR", "10": "QDR", "10.3125": "FDR10", "14.0625": "FDR"},
    **{"25.78125": "EDR", "53.125": "HDR", "106.25": "NDR", "212.5": "XDR"},
}


def recognises(text: str) -> bool:
    """Whether nodes and arrows of port states are there."""
    return "==(" in text and ")==>" in text and re.search(r"^(Switch|CA): ", text, re.MULTILINE) is not None


def read(path: Path) -> Claims:
    """The fabric of ports that are up; others are counted. Raises InputError naming the line that is not whole."""
    switches: dict[str, str] = {}
    adapters: dict[str, str] = {}
    cables: dict[tuple[str, str], Cable] = {}
    current, num_down = "", 0
    for number, line in enumerate(read_text(path).splitlines(), 1):
        place = f"{path} line {number}"
        node, port = _NODE.match(line), _PORT.match(line)
        if node:
            current = node[3]
            (switches if node[1] == "Switch" else adapters)[current] = current
        elif port and port[5] == "Active":
            speed = _SPEEDS.get(port[4], port[4])
            ends = sorted((f"{port[1]}[{port[2]}]", f"{port[6]}[{port[7]}]"))  # by lid and port
            cables.setdefault((ends[0], ends[1]), Cable((current, port[8]), link_rate(port[3], speed, place)))
        elif _DOWN.search(line) or (port and port[5] != "Active"):
            num_down += 1
        elif line.strip() and not line.startswith("#"):
            raise InputError(f"{place} is no whole line of iblinkinfo: {line.strip()[:60]!r}")
    remote = [end for cable in cables.values() for end in cable.ends if end not in switches]
    adapters |= {name: name for name in remote}
    fabric = Fabric(switches, adapters, tuple(cables.values()))
    claims = fabric_claims(path.name, fabric)
    note = (f"{path.name}: {num_down} ports are not up and are left out",) if num_down else ()
    return Claims(file=claims.file, facts=claims.facts, switches=claims.switches, notes=(*claims.notes, *note))
