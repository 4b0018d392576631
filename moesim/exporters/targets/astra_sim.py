"""ASTRA-sim: network.yml of the analytical backend, and communicator groups where there are several."""

import json
import math

import yaml

from moesim.exporters.astra import dimensions, npu_of_device
from moesim.exporters.export import Check, Export, ExportRequest

_GIGA = 1e9
_NANO = 1e-9


def export(request: ExportRequest) -> Export:
    """`out` is network.yml (GB/s, ns); expert-parallel groups are named 1, 2, ... since 0 means all ranks."""
    site = request.need_site()
    parts, notes = dimensions(site.cluster)
    network = {
        "topology": [part.kind for part in parts],
        "npus_count": [part.count for part in parts],
        "bandwidth": [round(part.bandwidth_bytes_per_s / _GIGA, 6) for part in parts],
        "latency": [round(part.latency_s / _NANO, 3) for part in parts],
    }
    content = yaml.safe_dump(network, sort_keys=False, default_flow_style=None).encode()
    files, flags = {request.out.name: content}, [f"--network-configuration={request.out}"]
    size = request.ranks * site.dims.etp
    if site.cluster.num_devices > size:
        name, npu_D = request.beside(".comm_group.json"), npu_of_device(site.cluster)
        groups = {
            str(1 + first // size): sorted(npu_D[first : first + size].tolist())
            for first in range(0, site.cluster.num_devices, size)
        }
        files[name] = (json.dumps(groups) + "\n").encode()
        flags.append(f"--comm-group-configuration={request.out.with_name(name)}")
    return Export(
        files=files, launch_flags=tuple(flags), checks=_checks(content, site.cluster.num_devices), notes=notes
    )


def _checks(content: bytes, devices: int) -> tuple[Check, ...]:
    data = yaml.safe_load(content)
    known = {"Ring", "FullyConnected", "Switch"}
    return (
        Check("four lists of equal length", len({len(value) for value in data.values()}) == 1 and len(data) == 4),
        Check("topologies ASTRA-sim knows", set(data["topology"]) <= known),
        Check("more than one NPU in every dimension", min(data["npus_count"]) > 1),
        Check("dimensions times out to all devices", math.prod(data["npus_count"]) == devices),
        Check("bandwidth above 0 and latency 0 or more", min(data["bandwidth"]) > 0 and min(data["latency"]) >= 0),
    )
