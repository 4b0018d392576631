"""DeepSpeed: AutoEP placement descriptors, the expert permutation, and the settings of its MoE layers."""

import json
from typing import Any

from moesim.exporters.export import Check, Content, Export, ExportRequest
from moesim.exporters.training import capacity_factor, permuted_files, training_permutation

_VERSION = 1  # of the placement descriptor, deepspeed/checkpoint/autoep_affine.py


def export(request: ExportRequest) -> Export:
    """`out` is the descriptor where all layers agree; else the permutation, with a descriptor per layer beside it.

    With a checkpoint, `out` is the permuted checkpoint; a descriptor beside it would place its experts twice.
    """
    plan = request.plan
    permutation, checks = training_permutation(request)
    files, remark = permuted_files(request, permutation)
    factor, notes = capacity_factor(request)
    if request.checkpoint is None:
        described = [_descriptor(request, ordinal) for ordinal in range(len(plan.layers))]
        files = _described(request, described, permutation)
        checks += tuple(_checks(described, request))
        remark = (
            "AutoEP reads the descriptor as expert_placement of each layer in a checkpoint's metadata, not from its "
            "config; take the descriptor or the permutation, never both"
        )
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
    return Export(files=files, launch_flags=flags, checks=checks, notes=(*notes, remark))


def _described(request: ExportRequest, described: list[dict[str, Any]], permutation: bytes) -> dict[str, Content]:
    """Files of the descriptors and the permutation."""
    contents = [(json.dumps(descriptor) + "\n").encode() for descriptor in described]
    if len(set(contents)) == 1:
        return {request.out.name: contents[0], request.beside(".permutation.json"): permutation}
    layers = zip(request.plan.layers, contents, strict=True)
    return {
        request.out.name: permutation,
        **{request.beside(f".layer_{layer}.json"): content for layer, content in layers},
    }


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
