"""Training: what the exporters of training stacks share: the permutation file, the degrees, the capacity factor."""

from pathlib import Path

from moesim.checkpoint import permute_checkpoint
from moesim.exporters.expert_order import permutation_file, read_permutation
from moesim.exporters.export import Check, Content, Export, ExportRequest
from moesim.exporters.refusals import refuse_replicas, refuse_uneven_experts


def permuted(request: ExportRequest, flags: tuple[str, ...], notes: tuple[str, ...] = ()) -> Export:
    """The permutation in `out` with the flags of a stack that places experts in their order, equally many a rank.

    With a checkpoint, `out` is the permuted checkpoint and the permutation lies beside it.
    """
    content, checks = training_permutation(request)
    files, remark = permuted_files(request, content)
    return Export(files=files, launch_flags=flags, checks=checks, notes=(*notes, remark))


def permuted_files(request: ExportRequest, permutation: bytes) -> tuple[dict[str, Content], str]:
    """`out` and what lies beside it, and what the user must know of them."""
    checkpoint = request.take_checkpoint()
    if checkpoint is None:
        return {request.out.name: permutation}, (
            "the file is a permutation: apply it to the checkpoint, its optimizer state and its router alike "
            "(--checkpoint IN does so for safetensors)"
        )
    order_LE, layers = read_permutation(permutation)
    groups = 1 if request.model is None else request.model.num_groups
    orders = dict(zip(layers, order_LE, strict=True))

    def write(path: Path) -> None:
        permute_checkpoint(checkpoint, path, orders, num_experts=request.plan.num_experts, num_groups=groups)

    return {request.out.name: write, request.beside(".permutation.json"): permutation}, (
        "optimizer state is not in a safetensors checkpoint: permute it with the same file"
    )


def training_permutation(request: ExportRequest) -> tuple[bytes, tuple[Check, ...]]:
    """The permutation file of a plan without replicas whose ranks hold equally many experts; others are refused."""
    refuse_replicas(request, "trains one copy of every expert")
    refuse_uneven_experts(request)
    return permutation_file(request)


def degrees(request: ExportRequest) -> dict[str, int]:
    """tp, pp, etp and world of the site; 1, 1, 1 and the ranks where no site is known."""
    if request.site is None:
        return {"tp": 1, "pp": 1, "etp": 1, "world": request.ranks}
    dims = request.site.dims
    return {"tp": dims.tp, "pp": dims.pp, "etp": dims.etp, "world": dims.world}


def capacity_factor(request: ExportRequest) -> tuple[float | None, tuple[str, ...]]:
    """The one factor these stacks take: the largest of the plan's layers, with a remark; None for dropless.

    A plan that has none takes the scenario's.
    """
    factors, rule = request.plan.capacity_factors, request.capacity
    if not factors and rule is not None and not rule.is_dropless and rule.factor is not None:
        factors = (rule.factor,)
    if not factors:
        return None, ()
    largest = max(factors)
    if min(factors) == largest:
        return largest, ()
    return largest, (
        f"the plan's capacity factors are {min(factors):g} to {largest:g} by layer; {request.target} takes one, and the "
        "largest drops nothing that the plan keeps",
    )
