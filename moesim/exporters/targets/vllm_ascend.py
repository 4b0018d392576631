"""vllm-ascend: the expert map JSON; list positions count, so layers are MoE ordinals and devices are ranks in order."""

import json

from moesim.errors import InputError
from moesim.exporters.checks import repeated, slot_checks
from moesim.exporters.export import Check, Export, ExportRequest, TargetRefuses
from moesim.exporters.refusals import refuse_uneven


def export(request: ExportRequest) -> Export:
    """Its loader takes an expert twice on one device and builds a corrupt map: refused here."""
    refuse_uneven(request)
    plan, ranks = request.plan, request.ranks
    if request.out.suffix != ".json":
        raise InputError(f"vllm-ascend reads a map only from a .json file; name {request.out.name!r} so")
    for layer, row in zip(plan.layers, plan.expert_of_slot, strict=True):
        if repeated([row], ranks):
            raise TargetRefuses(
                f"vllm-ascend corrupts its map where a rank holds an expert twice, as in layer {layer} of the plan; the "
                f"nearest plan that it can take has slots={_without_repeats(request)} (--make-fit plans it)",
                slots=_without_repeats(request),
            )
    layers = [
        {"layer_id": ordinal, "device_count": ranks, "device_list": _devices(row, ranks)}
        for ordinal, row in enumerate(plan.expert_of_slot)
    ]
    content = (json.dumps({"moe_layer_count": len(layers), "layer_list": layers}, indent=1) + "\n").encode()
    config = json.dumps({"eplb_config": {"expert_map_path": str(request.out)}})
    flags = (
        f"--additional-config '{config}'",
        "--enable-expert-parallel",
        f"--data-parallel-size {ranks}",
        "--tensor-parallel-size 1",
    )
    notes = ("vllm-ascend reads the map with model runner v1 only; leave dynamic_eplb off",)
    return Export(files={request.out.name: content}, launch_flags=flags, checks=_checks(content, request), notes=notes)


def _without_repeats(request: ExportRequest) -> int:
    """Slots with fewer replicas, down to one slot per expert where ranks divide the experts."""
    experts, ranks = request.plan.num_experts, request.ranks
    return -(-experts // ranks) * ranks


def _devices(row: tuple[int, ...], ranks: int) -> list[dict[str, object]]:
    each = len(row) // ranks
    return [{"device_id": rank, "device_expert": list(row[rank * each : (rank + 1) * each])} for rank in range(ranks)]


def _checks(content: bytes, request: ExportRequest) -> tuple[Check, ...]:
    data, plan = json.loads(content), request.plan
    rows = [
        [expert for device in layer["device_list"] for expert in device["device_expert"]]
        for layer in data["layer_list"]
    ]
    sizes = {len(device["device_expert"]) for layer in data["layer_list"] for device in layer["device_list"]}
    return (
        *slot_checks(
            rows,
            experts=plan.num_experts,
            ranks=request.ranks,
            num_rows=len(plan.layers),
            rows_name="MoE ordinal",
            unlike=True,
        ),
        Check("moe_layer_count is the number of layers", data["moe_layer_count"] == len(data["layer_list"])),
        Check("all device_expert lists are equally long", len(sizes) == 1),
        Check(
            "one device per expert-parallel rank",
            all(len(layer["device_list"]) == layer["device_count"] == request.ranks for layer in data["layer_list"]),
        ),
    )
