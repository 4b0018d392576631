"""Bytes one device must hold for a step: weights, keys and values, dispatch buffers, activations; pure arithmetic.

Array letters: D device, P slot.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.model import MoEModel, dtype_bytes
from moesim.placement import ExpertPlacement
from moesim.units import format_bytes

# Algorithms that send a copy per (token, expert); the others bring a token to a device once.
_COPY_PER_EXPERT = ("direct", "torus")


def check_fit(parts: Mapping[str, float], capacity_bytes: float, where: str) -> None:
    """Raise InputError with the arithmetic when the sum of `parts` (bytes, by name) is above `capacity_bytes`.

    >>> check_fit({"expert_weights": 60 * 2**30, "kv_cache": 30 * 2**30}, 80 * 2**30, "node0.dev0")
    Traceback (most recent call last):
    ...
    moesim.errors.InputError: node0.dev0 does not fit: expert weights 60 GiB + kv cache 30 GiB = 90 GiB of 80 GiB; \
take more devices or smaller types, or let it run with memory: {check: warn}
    """
    needed = sum(parts.values())
    if needed <= capacity_bytes:
        return
    raise InputError(
        f"{where} does not fit: {sum_of(parts)} = {format_bytes(needed)} of {format_bytes(capacity_bytes)}; "
        "take more devices or smaller types, or let it run with memory: {check: warn}"
    )


def sum_of(parts: Mapping[str, float]) -> str:
    """The parts that are not zero, as a sum of bytes: "expert weights 60 GiB + kv cache 30 GiB"."""
    return " + ".join(f"{name.replace('_', ' ')} {format_bytes(size)}" for name, size in parts.items() if size > 0)


def slot_bytes(model: MoEModel, weight_dtype: str) -> float:
    """Weights of one expert slot of one layer; where all layers share a pool, its share of that pool."""
    return model.expert_params * dtype_bytes(weight_dtype) * model.num_expert_sets / model.num_moe_layers


def slots_of_devices(placements: Sequence[ExpertPlacement]) -> NDArray[np.int64]:
    """Expert slots of each device of a group over all layers [D]."""
    slots_D: NDArray[np.int64] = np.sum([placement.slots_of_devices for placement in placements], axis=0)
    return slots_D


def tightest_device(slots_D: NDArray[np.int64], bytes_per_slot: float, memory_D: NDArray[np.float64]) -> int:
    """The device with least memory left beside its expert slots, the lowest of several; groups repeat `slots_D`."""
    slots = np.tile(slots_D, len(memory_D) // len(slots_D))
    return int(np.argmin(memory_D - slots * bytes_per_slot))


def other_weight_bytes(model: MoEModel, weight_dtype: str) -> float:
    """A whole copy of everything but routed experts.

    (shared experts) x expert type + (attention, routers, dense MLPs, embeddings) x dense type
    """
    parts = model.parameter_breakdown()
    shared = parts.pop("shared_experts")
    del parts["experts"]
    return float(shared * dtype_bytes(weight_dtype) + sum(parts.values()) * dtype_bytes(model.dense_dtype))


def cache_bytes(model: MoEModel, tokens_per_rank: float, context_length: int, *, decode: bool) -> float:
    """Keys and values in bf16: of each running sequence's context (decode), or of the rank's own tokens (prefill)."""
    layers = range(model.num_layers)
    if decode:
        return float(tokens_per_rank * sum(model.cache_bytes(context_length, layer) for layer in layers))
    return float(tokens_per_rank * sum(model.kv_bytes_per_token("bf16", layer) for layer in layers))


def most_copies(
    algorithm: str, group_tokens: float, top_k: int, layer_slots: int, capacity_tokens: float | None = None
) -> float:
    """Token copies that the buffers of one device must take in one layer.

    The worst case, since buffers are allocated before routing is known: every token of the group comes here, once, or
    once per expert where the algorithm sends a copy per (token, expert). `capacity_tokens` per expert slot limit it.

    >>> most_copies("direct", 1024, 8, 4), most_copies("node_dedup", 1024, 8, 4), most_copies("direct", 1024, 8, 4, 16)
    (4096, 1024, 64)
    """
    worst = group_tokens * (min(top_k, layer_slots) if algorithm in _COPY_PER_EXPERT else 1)
    return worst if capacity_tokens is None else min(worst, layer_slots * capacity_tokens)


def activation_bytes(model: MoEModel, tokens_per_rank: float) -> float:
    """What a rank's tokens need inside the layer that needs most, bf16; nothing outlives its layer when serving.

    tokens x (4 x d_model + widest hidden layer): residual stream, normalised input, input and output of the block. Hidden
    layers: the dense MLP's, the shared experts', the routed experts' of an even load (a fuller device works in pieces).
    """
    gate = 2 if model.gated else 1
    dense = (model.dense_d_ff or 0) * (2 if model.dense_gated else 1)
    routed = (model.top_k * model.expert_d_ff + model.shared_d_ff) * gate
    return float(tokens_per_rank * (4 * model.d_model + max(dense, routed)) * dtype_bytes("bf16"))
