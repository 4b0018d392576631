"""MaxText: the expert permutation, and the settings of expert parallelism and capacity."""

from moesim.exporters.export import Export, ExportRequest
from moesim.exporters.training import capacity_factor, permuted

_DROPLESS = -1.0


def export(request: ExportRequest) -> Export:
    """Expert parallelism inside slices is ici_expert_parallelism, across them dcn_expert_parallelism."""
    factor, notes = capacity_factor(request)
    slices = _slices(request)
    flags = [
        f"num_experts={request.plan.num_experts}",
        f"ici_expert_parallelism={request.ranks // slices}",
        f"dcn_expert_parallelism={slices}",
        f"capacity_factor={_DROPLESS if factor is None else factor:g}",
        f"sparse_matmul={'True' if factor is None else 'False'}",
        f"megablox={'True' if factor is None else 'False'}",
    ]
    model = request.model
    if model is not None:
        flags.insert(1, f"num_experts_per_tok={model.top_k}")
        if model.num_groups > 1:
            flags += [f"n_routing_groups={model.num_groups}", f"topk_routing_group={model.moe.top_groups}"]
    return permuted(request, tuple(flags), notes)


def _slices(request: ExportRequest) -> int:
    """Slices that one expert-parallel group spans."""
    slices = 1 if request.site is None else getattr(request.site.cluster.layout, "num_slices", 1)
    per_slice = 1 if request.site is None else max(request.site.cluster.num_devices // slices, 1)
    spanned = -(-request.ranks // per_slice) if request.site is not None else 1
    return spanned if request.ranks % spanned == 0 else 1
