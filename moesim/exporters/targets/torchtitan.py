"""TorchTitan: the expert permutation, and the parallelism settings of the launch."""

from moesim.exporters.export import Export, ExportRequest
from moesim.exporters.training import capacity_factor, degrees, permuted


def export(request: ExportRequest) -> Export:
    """Expert ranks are innermost in its mesh [pp, dp_replicate, efsdp, ep], as the plan numbers them."""
    sizes = degrees(request)
    shard = sizes["world"] // (sizes["tp"] * sizes["pp"])
    flags = (
        f"--parallelism.expert_parallel_degree {request.ranks}",
        f"--parallelism.tensor_parallel_degree {sizes['tp']}",
        f"--parallelism.pipeline_parallel_degree {sizes['pp']}",
        f"--parallelism.data_parallel_shard_degree {shard}",
    )
    notes = ["leave debug.moe_force_load_balance off, which routes tokens by their position"]
    if capacity_factor(request)[0] is not None:
        notes.append("TorchTitan is dropless: the plan's capacity factor has no setting there")
    return permuted(request, flags, tuple(notes))
