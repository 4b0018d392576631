"""Reader of the expert map that vllm-ascend records: which experts each device holds, layer by layer.

It is a placement and has no load. Its number of copies of each expert is what the balancer made of the load it saw, and
is taken as the load, each copy one token; the notes say so. The position in `layer_list` is the MoE layer ordinal: the
file's own `layer_id` and `device_id` are read by nobody.
Array letters: L MoE layer, G device, E expert.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moesim.errors import InputError
from moesim.routing import RoutedModel
from moesim.trace.count_table import CountTable, count_trace
from moesim.trace.layer_rule import layers_of_rows
from moesim.trace.rows import TraceRows
from moesim.trace.source_files import head_of, origin_of, read_json, whole

_NOTE = "tokens are numbers of copies in a placement, not a measured load"


def recognises(path: Path) -> bool:
    """Whether `path` is JSON whose head has `layer_list` and `device_expert`."""
    head = head_of(path)
    return head.lstrip().startswith(b"{") and b'"layer_list"' in head and b'"device_expert"' in head


def read(
    path: Path, *, model: RoutedModel | None = None, key: str | None = None, layers: Sequence[int] | None = None
) -> TraceRows:
    """Copies of each expert as counts of one step. `model` or `layers` say which layers these are. Raises InputError."""
    if key is not None:
        raise InputError(f"{path} is read whole; leave out --key")
    experts_LG = read_expert_map(path)
    num_experts = 1 + max(expert for experts_G in experts_LG for experts in experts_G for expert in experts)
    if model is not None:
        if num_experts > model.num_experts:
            raise InputError(f"{path} has the expert {num_experts - 1}, but {model.name} has {model.num_experts}")
        num_experts = model.num_experts
    load_LE = np.zeros((len(experts_LG), num_experts), np.int64)
    for load_E, experts_G in zip(load_LE, experts_LG, strict=True):
        for experts in experts_G:
            np.add.at(load_E, experts, 1)
    missing = np.argwhere(load_LE == 0)
    if len(missing):
        layer, expert = missing[0].tolist()
        raise InputError(f"{path}: expert {expert} is on no device in layer_list[{layer}]; the map is damaged")
    asked = None if layers is None else tuple(layers)
    table = CountTable(
        load_SRE=load_LE[None],
        layer_of_row=layers_of_rows(len(load_LE), model=model, asked=asked, stated=None, source=str(path)),
        source=str(path),
        origin=origin_of(path, [path]),
        recorder="vllm-ascend expert map",
        notes=(_NOTE,),
    )
    return count_trace(table, model)


def read_expert_map(path: Path) -> list[list[list[int]]]:
    """Experts of every device of every MoE layer, [layer ordinal][device] -> ids.

    Raises InputError for ragged devices, an expert twice on a device, and a number of layers that is not the stated one.
    """
    data = read_json(path)
    listed = data.get("layer_list") if isinstance(data, dict) else None
    if not isinstance(listed, list) or not listed or not all(isinstance(layer, dict) for layer in listed):
        raise InputError(f"{path} has no layer_list of objects; expected a map of vllm-ascend")
    if whole(data, "moe_layer_count", str(path)) != len(listed):
        raise InputError(f"{path} says moe_layer_count {data['moe_layer_count']}, but lists {len(listed)} layers")
    experts_LG = [_devices(layer, f"{path}: layer_list[{number}]") for number, layer in enumerate(listed)]
    sizes = sorted({(len(experts_G), len(experts)) for experts_G in experts_LG for experts in experts_G})
    if len(sizes) > 1:
        raise InputError(f"{path}: devices hold unequal numbers of experts {sizes[:4]} (devices, slots)")
    return experts_LG


def _devices(layer: dict[str, Any], place: str) -> list[list[int]]:
    devices = layer.get("device_list")
    if not isinstance(devices, list) or not devices:
        raise InputError(f"{place} has no device_list")
    experts_G = []
    for number, device in enumerate(devices):
        experts = device.get("device_expert") if isinstance(device, dict) else None
        where = f"{place}.device_list[{number}].device_expert"
        if not isinstance(experts, list) or not experts:
            raise InputError(f"{where} must be a list of expert ids")
        if not all(type(expert) is int and 0 <= expert < 2**24 for expert in experts):
            raise InputError(f"{where} must be ids >= 0, got {str(experts)[:60]}")
        if len(set(experts)) < len(experts):
            raise InputError(f"{where} names an expert twice: {str(experts)[:60]}")
        experts_G.append(experts)
    return experts_G
