"""Reader of `rocm-smi --showtopo`: devices of one node and whether xGMI or PCIe joins them; no rates stand in it."""

import re
from pathlib import Path

from moesim.errors import InputError
from moesim.topology.claims import Claims, Said
from moesim.topology.foreign_text import read_text

_SECTION = re.compile(r"=+ Link Type between two GPUs =+")
_TYPES = ("XGMI", "PCIE", "0")


def recognises(text: str) -> bool:
    """Whether a section on link types between GPUs is there."""
    return _SECTION.search(text) is not None


def read(path: Path) -> Claims:
    """Devices, and as a note what joins them. Raises InputError for a table that is cut off."""
    text = read_text(path)
    parts = _SECTION.split(text)
    lines = [line.split() for line in parts[1].splitlines() if line.strip()] if len(parts) > 1 else []
    names = lines[0] if lines else []
    if not names or not all(re.fullmatch(r"GPU\d+", name) for name in names):
        raise InputError(f"{path} has no table of link types between GPUs; expected `rocm-smi --showtopo`")
    kinds: dict[str, None] = {}
    for name, words in zip(names, [*lines[1:], *[[]] * len(names)], strict=False):
        if words[:1] != [name] or len(words) != len(names) + 1 or not set(words[1:]) <= set(_TYPES):
            raise InputError(f"{path}: the row of {name} in the table of link types is missing or cut off")
        kinds |= dict.fromkeys(word for word in words[1:] if word != "0")
    note = f"{path.name}: devices are joined by {' and '.join(kinds) or 'nothing'}, whose rate it does not say"
    facts = {"scale_up.devices": Said(len(names), "datasheet", f"{path.name}: GPUs in the table of link types")}
    return Claims(file=path.name, facts=facts, notes=(note,))
