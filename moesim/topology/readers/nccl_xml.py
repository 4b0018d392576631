"""Reader of the XML that NCCL and RCCL dump (NCCL_TOPO_DUMP_FILE): devices, NVLink or xGMI, NICs of one node.

Rates are NCCL's own constants per link, which are what it expects to reach, not the signalling rate.
"""

import re
from pathlib import Path

from moesim.errors import InputError
from moesim.topology.claims import Claims, Said, by_node
from moesim.topology.device_names import by_pci
from moesim.topology.foreign_text import read_text
from moesim.topology.xml_tree import Element, parse_xml

_START = re.compile(r"(?:<\?xml[^>]*>|\s|<!--.*?-->)*<system[\s>]", re.DOTALL)
_NVLINK_GB_S = {60: 18.0, 70: 20.0, 80: 20.0, 86: 12.0, 90: 20.6}  # NCCL src/graph/topo.h, by compute capability
_NVLINK_NEWEST_GB_S = 40.1  # from 100 on
_XGMI_GB_S = {"gfx90a": 36.0, "gfx942": 48.0, "gfx950": 48.0}  # RCCL topo.h; older: 24
_XGMI_OLD_GB_S = 24.0
_PCI_UNITS = {"2.5": 15, "5": 30, "8": 60, "16": 120, "32": 240, "64": 480}
_GEN3_UNITS = 60


def recognises(text: str) -> bool:
    """Whether the first element is <system>."""
    return _START.match(text) is not None


def read(path: Path) -> Claims:
    """One node: its devices with a rank, the rate of a device into the node, and its ports. Raises InputError."""
    root = parse_xml(read_text(path), str(path))
    if root.tag != "system" or root.get("version") != "1":
        raise InputError(
            f'{path}: expected <system version="1">, got <{root.tag[:40]} version={root.get("version")!r}>'
        )
    name, notes = path.name, []
    gpus = [(pci, gpu) for pci, gpu in _pairs(root, "gpu") if gpu.get("rank")]
    if not gpus:
        raise InputError(f"{path} has no gpu with a rank; NCCL skips those without")
    rates = [_rate(pci, gpu, str(path)) for pci, gpu in gpus]
    if len({rate for rate, _ in rates}) > 1:
        notes.append(f"devices of {name} have unequal links; the slowest is taken for all")
    rate, how = min(rates)
    nets = [net for net in root.walk() if net.tag == "net" and net.get("dev")]
    ports = [("node", (_number(net, "speed", str(path), 0.0) or 10_000.0) * 1e6 / 8) for net in nets]
    facts = {
        "scale_up.devices": Said(len(gpus), "datasheet", f"{name}: gpu elements"),
        "scale_up.bandwidth": Said(rate, "derived", f"{name}: {how}"),
        **by_node(name, ports, "net elements"),
        **by_pci(gpus[0][0].get("vendor"), gpus[0][0].get("device"), name),
    }
    return Claims(file=name, facts=facts, notes=tuple(notes))


def _pairs(root: Element, tag: str) -> list[tuple[Element, Element]]:
    """(parent, element) of every element called `tag`."""
    return [(parent, child) for parent in root.walk() for child in parent.children if child.tag == tag]


def _rate(pci: Element, gpu: Element, where: str) -> tuple[float, str]:
    """Bytes/s of one device to the others, one direction, and how it comes about."""
    nvlinks = sum(_count(child, where) for child in gpu.children if child.tag == "nvlink" and _is_peer(child))
    if nvlinks:
        capability = int(_number(gpu, "sm", where))
        known = max((known for known in _NVLINK_GB_S if known <= capability), default=60)
        each = _NVLINK_NEWEST_GB_S if capability >= 100 else _NVLINK_GB_S[known]
        return nvlinks * each * 1e9, f"{nvlinks} NVLinks of {each:g} GB/s (NCCL's figure for sm {capability})"
    xgmi = sum(_count(child, where) for child in gpu.children if child.tag == "xgmi" and _is_peer(child))
    if xgmi:
        each = _XGMI_GB_S.get(gpu.get("arch").partition(":")[0], _XGMI_OLD_GB_S)
        return xgmi * each * 1e9, f"{xgmi} xGMI links of {each:g} GB/s (RCCL's figure for {gpu.get('arch') or 'Vega'})"
    width = int(_number(pci, "link_width", where, 0.0)) or 16
    speed = pci.get("link_speed").partition(" ")[0].removesuffix(".0")
    rate = width * _PCI_UNITS.get(speed, _GEN3_UNITS) / 80
    return rate * 1e9, f"PCIe x{width} at {speed or 'unknown'} GT/s, no NVLink or xGMI"


def _is_peer(link: Element) -> bool:
    """Whether a link leads to another device or a switch of devices, not to a CPU."""
    return not link.get("tclass").startswith("0x068001")


def _count(link: Element, where: str) -> int:
    return int(_number(link, "count", where))


def _number(element: Element, name: str, where: str, absent: float | None = None) -> float:
    text = element.get(name)
    if not text and absent is not None:
        return absent
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1e9:
        raise InputError(f"{where}: {name} of <{element.tag}> is {text[:40]!r}; expected a number >= 0")
    return value
