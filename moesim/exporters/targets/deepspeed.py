"""DeepSpeed: AutoEP placement descriptors, the expert permutation, and the settings of its MoE layers."""

import json
from typing import Any

from moesim.exporters.export import Check, Export, ExportRequest
from moesim.exporters.training import capacity_factor, training_permutation

_VERSION = 1  # of the placement descriptor, deepspeed/checkpoint/autoep_affine.py


def export(request: ExportRequest) -> Export:
    """`out` is the descriptor where all layers agree; else the permutation, with a descriptor per layer beside it."""
    plan = request.plan
    permutation, checks = training_permutation(request)
    described = {layer: _descriptor(request, ordinal) for ordinal, layer in enumerate(plan.layers)}
    contents = {layer: (json.dumps(value) + "\n").encode() for layer, value in described.items()}
    if len(set(contents.values())) == 1:
        files = {request.out.name: contents[plan.layers[0]], request.beside(".permutation.json"): permutation}
    else:
        files = {request.out.name: permutation}
        files |= {request.beside(f".layer_{layer}.json"): content for layer, content in contents.items()}
    factor, notes = capacity_factor(request)
    rule = request.capacity
    least = rule.min_capacity if rule is not None and rule.rule == "deepspeed" else 4
    flags = (
        f'config: {{"expert_parallel": {{"enabled": true, "autoep_size": {request.ranks}}}}}',
        f"MoE(num_experts={plan.num_experts}, ep_size={request.ranks}"
        + (f", k={request.model.top_k}" if request.model is not None else "")
        + (
            ", drop_tokens=False)"
            if factor is None
            else f", capacity_factor={factor:g}, eval_capacity_factor={factor:g}, min_capacity={least}, drop_tokens=True)"
        ),
    )
    notes += (
        "AutoEP reads the descriptor as expert_placement of each layer in a checkpoint's metadata, not from its config",
    )
    checks += tuple(_checks([json.loads(content) for content in contents.values()], request))
    return Export(files=files, launch_flags=flags, checks=checks, notes=notes)


def _descriptor(request: ExportRequest, ordinal: int) -> dict[str, Any]:
    row, ranks = request.plan.expert_of_slot[ordinal], request.ranks
    each = len(row) // ranks
    held = [{"rank": rank, "experts": list(row[rank * each : (rank + 1) * each])} for rank in range(ranks)]
    return {"version": _VERSION, "num_experts": request.plan.num_experts, "ep_size": ranks, "ranks": held}


def _checks(descriptors: list[dict[str, Any]], request: ExportRequest) -> list[Check]:
    """AutoEP's own rules: version, sizes, each rank once, ids in range, none twice on a rank, all covered."""
    experts, ranks = request.plan.num_experts, request.ranks
    held = [[entry["experts"] for entry in one["ranks"]] for one in descriptors]
    return [
        Check(
            "version 1 and the plan's sizes",
            all((one["version"], one["num_experts"], one["ep_size"]) == (1, experts, ranks) for one in descriptors),
        ),
        Check(
            "every rank once, in order",
            all([entry["rank"] for entry in one["ranks"]] == list(range(ranks)) for one in descriptors),
        ),
        Check("no expert twice on one rank", all(len(set(part)) == len(part) for parts in held for part in parts)),
        Check(
            "every expert is on some rank",
            all({expert for part in parts for expert in part} == set(range(experts)) for parts in held),
        ),
    ]
