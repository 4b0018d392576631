"""Reader of `nvidia-smi topo -m`: devices and NICs of one node and how many NVLinks join them; no rates stand in it."""

import re
from pathlib import Path

from moesim.errors import InputError
from moesim.topology.claims import Claims, Said
from moesim.topology.foreign_text import read_text

_HEADER = re.compile(r"^\s*GPU0\s", re.MULTILINE)
_GPU = re.compile(r"GPU\d+")
_NIC = re.compile(r"NIC\d+|(?:mlx\d+|bnxt_re|efa|hns|irdma)\S*")
_CELL = re.compile(r"X|NV\d+|PIX|PXB|PHB|NODE|SYS|SOC")


def recognises(text: str) -> bool:
    """Whether a header of GPUs is followed by a row of connections."""
    return _HEADER.search(text) is not None and re.search(r"^GPU0\s+X\s", text, re.MULTILINE) is not None


def read(path: Path) -> Claims:
    """Devices, NICs and, as a note, NVLinks of a device. Raises InputError for a matrix that is cut off."""
    lines = read_text(path).splitlines()
    start = next(
        (number for number, line in enumerate(lines) if line.split()[:1] == ["GPU0"] and " X" not in line), None
    )
    if start is None:
        raise InputError(f"{path} has no header line of GPU0, GPU1, ..; expected `nvidia-smi topo -m`")
    columns = [word for word in lines[start].split() if _GPU.fullmatch(word) or _NIC.fullmatch(word)]
    rows = _rows(lines[start + 1 :], columns)
    missing = [column for column in columns if column not in rows]
    if missing:
        raise InputError(f"{path} has no whole row of {missing[0]}; it is truncated or its columns are cut off")
    gpus = [column for column in columns if _GPU.fullmatch(column)]
    links = sorted({_nvlinks(cell) for gpu in gpus for cell in rows[gpu][: len(gpus)] if cell != "X"})
    notes = [f"{path.name}: devices are joined by NV{max(links)}, whose rate it does not say"] if any(links) else []
    if len(links) > 1:
        notes.append(f"{path.name}: not all devices are joined alike ({', '.join(map(str, links))} NVLinks)")
    facts = {"scale_up.devices": Said(len(gpus), "datasheet", f"{path.name}: GPU columns")}
    if len(columns) > len(gpus):
        facts["node.nic_ports"] = Said(len(columns) - len(gpus), "datasheet", f"{path.name}: NIC columns")
    return Claims(file=path.name, facts=facts, notes=tuple(notes))


def _rows(lines: list[str], columns: list[str]) -> dict[str, list[str]]:
    """Connections of each device or NIC to all columns."""
    rows = {}
    for line in lines:
        words = line.split()
        if words and words[0] in columns and len(words) > len(columns):
            cells = words[1 : len(columns) + 1]
            if all(_CELL.fullmatch(cell) for cell in cells):
                rows[words[0]] = cells
    return rows


def _nvlinks(cell: str) -> int:
    return int(cell[2:]) if cell.startswith("NV") else 0
