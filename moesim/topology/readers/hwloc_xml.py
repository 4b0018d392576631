"""Reader of hwloc XML (lstopo): devices and ports of one node, and NVLink or xGMI rates where hwloc knows them."""

import re
from pathlib import Path

from moesim.errors import InputError
from moesim.topology.claims import Claims, Said
from moesim.topology.device_names import by_pci
from moesim.topology.foreign_text import read_text
from moesim.topology.xml_tree import Element, parse_xml

_START = re.compile(r"(?:<\?xml[^>]*>|<!DOCTYPE[^>\[]*>|\s)*<topology[\s>]")
_PCI_TYPE = re.compile(r"(03\d\d|12\d\d) \[([0-9a-f]{4}):([0-9a-f]{4})\]")
_FABRICS = ("NVLinkBandwidth", "XGMIBandwidth")
_OPENFABRICS = ("3", "OpenFabrics")
_MEGABYTE = 1e6


def recognises(text: str) -> bool:
    """Whether the first element is <topology>."""
    return _START.match(text) is not None


def read(path: Path) -> Claims:
    """One node. Raises InputError for XML of hwloc 1.x or a node without an accelerator."""
    root = parse_xml(read_text(path), str(path))
    if root.tag != "topology" or not root.get("version").startswith(("2.", "3.")):
        version = root.get("version") or "1.x"
        raise InputError(
            f"{path} is hwloc XML of version {version}; export it again with hwloc 2: lstopo --of xml out.xml"
        )
    machine = next((element for element in root.walk() if element.get("type") == "Machine"), None)
    if machine is None:
        raise InputError(f"{path} has no Machine; it is truncated")
    devices = [element for element in machine.walk() if element.get("type") == "PCIDev"]
    gpus = [match for device in devices if (match := _PCI_TYPE.match(device.get("pci_type")))]
    gpus = [match for match in gpus if match[2] in ("10de", "1002")]
    if not gpus:
        raise InputError(f"{path} has no PCI device of NVIDIA or AMD that is an accelerator; export with --whole-io")
    ports = sum(element.get("osdev_type") in _OPENFABRICS for element in machine.walk())
    facts = {
        "scale_up.devices": Said(len(gpus), "datasheet", f"{path.name}: PCI display and processing devices"),
        **by_pci(gpus[0][2], gpus[0][3], path.name),
    }
    if ports:
        facts["node.nic_ports"] = Said(ports, "datasheet", f"{path.name}: OpenFabrics devices")
    rate = _fabric_rate(root, str(path))
    if rate is not None:
        facts["scale_up.bandwidth"] = Said(
            rate, "derived", f"{path.name}: a device's row of its matrix of fabric rates"
        )
    return Claims(file=path.name, facts=facts)


def _fabric_rate(root: Element, where: str) -> float | None:
    """Bytes/s of one device to all others, from the matrix of MB/s between them; None without such a matrix."""
    for matrix in root.children:
        if matrix.tag == "distances2" and matrix.get("name") in _FABRICS:
            words = " ".join(child.text for child in matrix.children if child.tag == "u64values").split()
            count = int(matrix.get("nbobjs")) if matrix.get("nbobjs").isdecimal() else 0
            if count < 2 or len(words) != count * count or not all(word.isdecimal() for word in words):
                raise InputError(f"{where}: its matrix of fabric rates has {len(words)} values for {count} devices")
            rows = [[int(word) for word in words[row * count : (row + 1) * count]] for row in range(count)]
            sums = [sum(row) - row[place] for place, row in enumerate(rows)]
            return min(sums) * _MEGABYTE or None
    return None
