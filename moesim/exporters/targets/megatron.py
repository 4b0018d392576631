"""Megatron-Core: the expert permutation, and the flags of degrees, rank order, capacity and drop policy."""

from moesim.exporters.export import Export, ExportRequest
from moesim.exporters.training import capacity_factor, degrees, permuted

_DROP = {"drop_by_position": "position"}  # every other policy drops by probability, which is Megatron's default


def export(request: ExportRequest) -> Export:
    """Ranks are numbered as by Megatron's default order tp-cp-ep-dp-pp: expert ranks are consecutive devices."""
    sizes = degrees(request)
    flags = [
        f"--num-experts {request.plan.num_experts}",
        f"--tensor-model-parallel-size {sizes['tp']}",
        f"--pipeline-model-parallel-size {sizes['pp']}",
        f"--expert-model-parallel-size {request.ranks}",
        f"--expert-tensor-parallel-size {sizes['etp']}",
        "--moe-token-dispatcher-type alltoall",
    ]
    model = request.model
    if model is not None:
        flags.append(f"--moe-router-topk {model.top_k}")
        if model.num_groups > 1:
            flags.append(f"--moe-router-num-groups {model.num_groups}")
            flags.append(f"--moe-router-group-topk {model.moe.top_groups}")
    factor, notes = capacity_factor(request)
    policy = "drop_by_probability" if request.capacity is None else request.capacity.policy
    if factor is not None:
        flags.append(f"--moe-expert-capacity-factor {factor:g}")
        flags.append(f"--moe-token-drop-policy {_DROP.get(policy, 'probs')}")
        if policy == "pad":
            flags.append("--moe-pad-expert-input-to-capacity")
    notes += ("leave --use-tp-pp-dp-mapping off: the plan's ranks follow the order tp-cp-ep-dp-pp",)
    return permuted(request, tuple(flags), notes)
