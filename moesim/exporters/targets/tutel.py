"""Tutel: the expert permutation, and the gate and expert settings of moe_layer."""

import json

from moesim.exporters.export import Export, ExportRequest
from moesim.exporters.training import capacity_factor, permuted


def export(request: ExportRequest) -> Export:
    """capacity_factor > 0 is fixed; 0 lets Tutel take what the fullest expert needs, which drops nothing."""
    factor, notes = capacity_factor(request)
    gate: dict[str, object] = {"type": "top", "capacity_factor": 0 if factor is None else factor}
    experts: dict[str, object] = {"type": "ffn", "num_experts_per_device": request.plan.num_experts // request.ranks}
    if request.model is not None:
        gate["k"] = request.model.top_k
        experts["hidden_size_per_expert"] = request.model.expert_d_ff
    flags = (f"gate_type={json.dumps(gate)}", f"experts={json.dumps(experts)}", f"world size {request.ranks}")
    return permuted(request, flags, notes)
