"""Refusals: what a target cannot express, said with the nearest plan that it can."""

from moesim.exporters.export import ExportRequest, TargetRefuses
from moesim.parallelism import divisors
from moesim.placement import slots_per_device


def refuse_replicas(request: ExportRequest, why: str) -> None:
    """Refuse a plan with more slots than experts; the nearest plan has one slot per expert."""
    plan = request.plan
    slots = max(map(len, plan.expert_of_slot))
    if slots > plan.num_experts:
        raise TargetRefuses(
            f"{request.target} {why}, and the plan has slots={slots} for experts={plan.num_experts}; the nearest plan that "
            f"it can take has slots={plan.num_experts} (--make-fit plans it)",
            slots=plan.num_experts,
        )


def refuse_uneven(request: ExportRequest) -> None:
    """Refuse layers with unlike numbers of slots, and ranks with unlike numbers of slots."""
    plan, ranks = request.plan, request.ranks
    counts = sorted({len(experts) for experts in plan.expert_of_slot})
    uneven = plan.slots_per_device is not None and len(set(plan.slots_per_device)) > 1
    if len(counts) == 1 and counts[0] % ranks == 0 and not uneven:
        return
    nearest = nearest_even(plan.num_experts, ranks, counts[-1])
    what = f"slots={counts[-1]}" if len(counts) == 1 else f"slots={counts[0]} to {counts[-1]}"
    raise TargetRefuses(
        f"{request.target} gives every rank equally many slots, and the plan has {what} on {ranks} ranks"
        f"{' of unlike memory' if uneven else ''}; the nearest plan that it can take has slots={nearest} (--make-fit plans it)",
        slots=nearest,
    )


def refuse_uneven_experts(request: ExportRequest) -> None:
    """Refuse experts that the ranks do not divide, where there is no slot for more."""
    plan, ranks = request.plan, request.ranks
    if plan.num_experts % ranks:
        raise TargetRefuses(
            f"{request.target} gives every rank equally many experts, and ranks={ranks} does not divide experts="
            f"{plan.num_experts}; plan for ep in {divisors(plan.num_experts)}"
        )
    refuse_uneven(request)


def refuse_own_slots(request: ExportRequest) -> None:
    """Refuse numbers of slots per rank that are not the usual ones (equal, the first ranks one more)."""
    plan = request.plan
    if plan.slots_per_device is None:
        return
    usual = slots_per_device(len(plan.expert_of_slot[0]), request.ranks).tolist()
    if list(plan.slots_per_device) != usual:
        raise TargetRefuses(
            f"{request.target} deals experts to ranks equally, and the plan gives rank "
            f"{next(r for r, own in enumerate(plan.slots_per_device) if own != usual[r])} another number for its memory; plan "
            "for devices of equal memory"
        )


def nearest_even(num_experts: int, ranks: int, slots: int) -> int:
    """The multiple of `ranks` nearest to `slots` that holds all experts, the smaller of two equally near.

    >>> nearest_even(64, 6, 64), nearest_even(8, 4, 11), nearest_even(8, 4, 9)
    (66, 12, 8)
    """
    least = -(-num_experts // ranks)
    return max(least, (2 * slots + ranks - 1) // (2 * ranks)) * ranks
