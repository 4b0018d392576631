"""JAX: devices in the order of the plan's ranks, as mesh axes and coordinates, and a function that makes the Mesh.

Array letters: D device.
"""

import json
import math
from typing import Any

from moesim.cluster import Cluster, TorusLayout
from moesim.exporters.export import Check, Export, ExportRequest, Site

AXES = ("stage", "expert_data", "expert", "expert_tensor")

_SCRIPT = '''"""The mesh of the plan: make_mesh("{name}") gives jax.sharding.Mesh with devices in the plan's order."""

import json

import numpy as np


def make_mesh(path="{name}", devices=None):
    """A Mesh over jax.devices(); raises ValueError where a device of the plan is not there."""
    import jax

    with open(path) as stream:
        order = json.load(stream)
    known = {{}}
    for device in jax.devices() if devices is None else devices:
        known.setdefault(_place(device, order["key"]), device)
    wanted = [tuple(place) for place in order["devices"]]
    missing = [place for place in wanted if place not in known]
    if missing:
        raise ValueError(f"no device at {{order['key']}} = {{missing[0]}}; the plan is for {{len(wanted)}} devices")
    array = np.empty(len(wanted), dtype=object)
    array[:] = [known[place] for place in wanted]
    return jax.sharding.Mesh(array.reshape(order["mesh_shape"]), order["axis_names"])


def _place(device, key):
    if key[-1] == "local_hardware_id":
        return (device.process_index, device.local_hardware_id)
    return (getattr(device, "slice_index", None) or 0, *device.coords[: len(key) - 1])
'''


def export(request: ExportRequest) -> Export:
    """`out` lists (slice_index, coordinates) of chips, or (process_index, local_hardware_id) of GPUs, in rank order."""
    site = request.need_site()
    key, places = device_places(site.cluster)
    content = (json.dumps(_order(site, key, places)) + "\n").encode()
    script = request.beside("_mesh.py")
    return Export(
        files={request.out.name: content, script: _SCRIPT.format(name=request.out.name).encode()},
        launch_flags=(f"mesh = make_mesh({str(request.out)!r})", f"axis_names={list(AXES)}"),
        checks=_checks(json.loads(content), site),
        notes=("chips with two cores give one device here: the first that JAX lists at a coordinate",),
    )


def device_places(cluster: Cluster) -> tuple[list[str], list[list[int]]]:
    """How JAX tells devices apart, and those values for every device of the cluster in order."""
    layout = cluster.layout
    if isinstance(layout, TorusLayout):
        names = [f"coords[{axis}]" for axis in range(len(layout.lengths))]
        coordinates = layout.coordinate_DA.tolist()
        slices = layout.slice_of_device_D.tolist()
        return ["slice_index", *names], [[piece, *point] for piece, point in zip(slices, coordinates, strict=True)]
    return ["process_index", "local_hardware_id"], [[device.node, device.local_index] for device in cluster.devices]


def _order(site: Site, key: list[str], places: list[list[int]]) -> dict[str, Any]:
    dims = site.dims
    return {
        "axis_names": list(AXES),
        "mesh_shape": [dims.pp, dims.edp, dims.ep, dims.etp],
        "key": key,
        "devices": places,
    }


def _checks(data: dict[str, Any], site: Site) -> tuple[Check, ...]:
    places = [tuple(place) for place in data["devices"]]
    return (
        Check("mesh shape times out to the number of devices", math.prod(data["mesh_shape"]) == len(places)),
        Check("every device exactly once", len(set(places)) == len(places) == site.cluster.num_devices),
    )
