"""omni-infer: the 0/1 pattern [rank, MoE ordinal, expert] as int32 .npy, and the YAML that names it.

Array letters: D rank, L MoE ordinal, E expert. Slots of a rank are in ascending order of their expert.
"""

import io

import numpy as np
import yaml
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.exporters.checks import repeated
from moesim.exporters.export import Check, Export, ExportRequest, TargetRefuses
from moesim.exporters.refusals import refuse_uneven


def export(request: ExportRequest) -> Export:
    """`out` is the pattern, the YAML lies beside it."""
    refuse_uneven(request)
    plan, ranks = request.plan, request.ranks
    if request.out.suffix != ".npy":
        raise InputError(f"omni-infer's pattern is a .npy file; name {request.out.name!r} so")
    if repeated(plan.expert_of_slot, ranks):
        slots = -(-plan.num_experts // ranks) * ranks
        raise TargetRefuses(
            "omni-infer's pattern says whether a rank holds an expert, not how often, and the plan holds one twice on a "
            f"rank; the nearest plan that it can take has slots={slots} (--make-fit plans it)",
            slots=slots,
        )
    pattern_DLE = _pattern(request)
    stream = io.BytesIO()
    np.save(stream, pattern_DLE)
    slots = len(plan.expert_of_slot[0])
    config = {
        "pattern_path": str(request.out),
        "max_moe_layer_num": len(plan.layers),
        "enable_dynamic": False,
        "max_redundant_per_expert": int(pattern_DLE.sum(axis=0).max()),
        "max_redundant_per_rank": (slots - plan.num_experts) // ranks,
        "enable_dump": False,
        "dump_dir": str(request.out.parent / "dump"),
        "Optimizers": [],
    }
    settings = yaml.safe_dump(config, sort_keys=False).encode()
    name = request.beside(".yaml")
    return Export(
        files={request.out.name: stream.getvalue(), name: settings},
        launch_flags=(f"omni placement config: {request.out.with_name(name)}", f"world_size {ranks}"),
        checks=_checks(stream.getvalue(), settings, request),
        notes=("the order of slots inside a rank is by expert in omni-infer; the plan's times do not depend on it",),
    )


def _pattern(request: ExportRequest) -> NDArray[np.int32]:
    plan = request.plan
    pattern_DLE = np.zeros((request.ranks, len(plan.layers), plan.num_experts), dtype=np.int32)
    for ordinal, placement in enumerate(request.placements):
        pattern_DLE[placement.device_of_slot_P, ordinal, placement.expert_of_slot_P] = 1
    return pattern_DLE


def _checks(pattern: bytes, settings: bytes, request: ExportRequest) -> tuple[Check, ...]:
    plan = request.plan
    pattern_DLE = np.load(io.BytesIO(pattern), allow_pickle=False)
    config = yaml.safe_load(settings)
    slots_DL = pattern_DLE.sum(axis=2)
    shape = (request.ranks, config["max_moe_layer_num"], plan.num_experts)
    return (
        Check(
            "the pattern is int32 of 0 and 1", pattern_DLE.dtype == np.int32 and set(np.unique(pattern_DLE)) <= {0, 1}
        ),
        Check("the pattern is [ranks, MoE ordinals, experts]", pattern_DLE.shape == shape),
        Check("every expert has a slot in every layer", bool((pattern_DLE.sum(axis=0) >= 1).all())),
        Check("all ranks have equally many slots", bool((slots_DL == slots_DL[0, 0]).all())),
        Check("the pattern has all the plan's slots", int(slots_DL.sum()) == sum(map(len, plan.expert_of_slot))),
    )
