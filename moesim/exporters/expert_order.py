"""The order of experts that makes a contiguous stack place them as the plan does.

Array letters: L MoE ordinal, E expert. new position s of a layer holds old expert p[s]; rank r of G then holds the
positions [r * E / G, (r + 1) * E / G).
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.exporters.export import Check, ExportRequest, TargetRefuses
from moesim.plan_file import Plan

_LARGEST_BYTES = 2**30


def expert_permutation(plan: Plan, *, num_groups: int = 1) -> NDArray[np.int32]:
    """The old expert at every new position, int32 [L, E]; a bijection in every layer.

    With `num_groups` > 1 (group-limited routing) experts that share a group must still share one afterwards. Raises
    TargetRefuses (an InputError) for a plan with replicas, and for one that mixes groups.

    >>> plan = Plan(model="m", topology="t", strategy="s", replica_policy="nearest", num_experts=4, num_devices=2,
    ...             layers=(1,), expert_of_slot=((2, 0, 3, 1),))
    >>> expert_permutation(plan).tolist()
    [[2, 0, 3, 1]]
    """
    experts = plan.num_experts
    for layer, row in zip(plan.layers, plan.expert_of_slot, strict=True):
        if len(row) > experts:
            raise TargetRefuses(
                f"a permutation gives every expert one place, and the plan has slots={len(row)} for experts={experts} in "
                f"layer {layer}; the nearest plan that it can take has slots={experts} (--make-fit plans it)",
                slots=experts,
            )
    order_LE = np.array(plan.expert_of_slot, dtype=np.int32)
    if num_groups > 1:
        mixed = np.flatnonzero(~groups_kept(order_LE, num_groups))
        if mixed.size:
            raise TargetRefuses(
                f"the router of {plan.model} chooses among {num_groups} groups of experts, and the plan mixes groups in layer "
                f"{plan.layers[int(mixed[0])]}, so that a permuted model would route otherwise; the nearest plan keeps each "
                "group whole, as strategy contiguous does (--make-fit moves as few experts as that takes)",
                slots=experts,
            )
    return order_LE


def groups_kept(order_LE: NDArray[np.int32], num_groups: int) -> NDArray[np.bool_]:
    """For each layer, whether positions of one group hold experts of one group [L]."""
    group_LGS = (order_LE // (order_LE.shape[1] // num_groups)).reshape(len(order_LE), num_groups, -1)
    kept: NDArray[np.bool_] = (group_LGS == group_LGS[:, :, :1]).all(axis=(1, 2))
    return kept


def permutation_file(request: ExportRequest) -> tuple[bytes, tuple[Check, ...]]:
    """The permutation of the plan as the ending of `out` asks (.npz, else JSON), and the checks of what was written."""
    plan = request.plan
    num_groups = 1 if request.model is None else request.model.num_groups
    order_LE = expert_permutation(plan, num_groups=num_groups)
    content = _content(request, order_LE)
    written_LE, layers = read_permutation(content)
    bijective = bool((np.sort(written_LE, axis=1) == np.arange(plan.num_experts)).all())
    return content, (
        Check("expert ids are integers in [0, E)", bool(((written_LE >= 0) & (written_LE < plan.num_experts)).all())),
        Check("every layer is a bijection of the experts", bijective),
        Check(
            "one row per MoE layer, named by model layer index",
            layers == list(plan.layers) and len(written_LE) == len(layers),
        ),
        Check("experts that share a routing group still do", bool(groups_kept(written_LE, num_groups).all())),
    )


def _content(request: ExportRequest, order_LE: NDArray[np.int32]) -> bytes:
    plan = request.plan
    if request.out.suffix == ".npz":
        stream = io.BytesIO()
        np.savez(stream, layers=np.array(plan.layers, dtype=np.int32), permutation=order_LE)
        return stream.getvalue()
    head = {
        "format_version": 1,
        "meaning": "new position s of a layer holds old expert permutation[layer][s]",
        "model": plan.model,
        "num_experts": plan.num_experts,
        "ep_size": plan.num_devices,
        "layers": list(plan.layers),
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    rows = ",\n".join("  " + json.dumps(row) for row in order_LE.tolist())
    return ("{\n" + "\n".join(lines) + '\n "permutation": [\n' + rows + "\n ]\n}\n").encode()


def read_permutation(content: bytes) -> tuple[NDArray[np.int32], list[int]]:
    """The permutation [L, E] and the model layer indices in a file of `permutation_file`; raises InputError."""
    try:
        if content[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if sum(part.file_size for part in archive.infolist()) > _LARGEST_BYTES:
                    raise InputError(f"it claims more than {_LARGEST_BYTES} bytes, which no expert permutation has")
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                order_LE, layers = arrays["permutation"], arrays["layers"].tolist()
        else:
            data = json.loads(content)
            order_LE, layers = np.array(data["permutation"], dtype=np.int32), list(data["layers"])
    except (ValueError, KeyError, TypeError, OSError, OverflowError, RecursionError, zipfile.BadZipFile) as error:
        raise InputError(f"this is no expert permutation: {str(error)[:100]}") from None
    if order_LE.ndim != 2 or order_LE.dtype.kind not in "iu" or len(order_LE) != len(layers):
        raise InputError("this is no expert permutation: it must have a list of experts for every layer")
    return order_LE, layers


def read_orders(path: Path) -> dict[int, NDArray[np.int32]]:
    """The old expert at every position [E], by model layer index; raises InputError for any other file."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise InputError(f"{path} is larger than {_LARGEST_BYTES} bytes, which no expert permutation is")
        order_LE, layers = read_permutation(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read permutation {path}: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    experts = order_LE.shape[1]
    if (np.sort(order_LE, axis=1) != np.arange(experts)).any():
        raise InputError(f"{path}: every layer's permutation must name each of {experts} experts once")
    return dict(zip(layers, order_LE, strict=True))
