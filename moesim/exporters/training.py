"""Training: what the exporters of training stacks share: the permutation file, the degrees, the capacity factor."""

from moesim.exporters.expert_order import permutation_file
from moesim.exporters.export import Check, Export, ExportRequest
from moesim.exporters.refusals import refuse_replicas, refuse_uneven_experts


def permuted(request: ExportRequest, flags: tuple[str, ...], notes: tuple[str, ...] = ()) -> Export:
    """The permutation in `out` with the flags of a stack that places experts in their order, equally many a rank."""
    content, checks = training_permutation(request)
    notes += ("the file is a permutation: apply it to the checkpoint, its optimizer state and its router alike",)
    return Export(files={request.out.name: content}, launch_flags=flags, checks=checks, notes=notes)


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
    """The one factor these stacks take: the largest of the plan's layers, with a remark; None for dropless."""
    factors = request.plan.capacity_factors
    if not factors:
        return None, ()
    largest = max(factors)
    if min(factors) == largest:
        return largest, ()
    return largest, (
        f"the plan's capacity factors are {min(factors):g} to {largest:g} by layer; {request.target} takes one, and the "
        "largest drops nothing that the plan keeps",
    )
