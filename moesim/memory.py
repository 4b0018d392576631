"""Bytes one device must hold for a step: weights, keys and values, dispatch buffers; pure arithmetic.

Array letters: D device, P slot.
"""

from collections.abc import Sequence

import numpy as np

from moesim.model import MoEModel, dtype_bytes
from moesim.placement import ExpertPlacement


def weight_bytes(model: MoEModel, placements: Sequence[ExpertPlacement], weight_dtype: str) -> float:
    """Weights on the fullest device: its expert slots of every layer, and a whole copy of everything else.

    bytes = max over D of sum over layers (slots of D x expert_params) x expert type
          + (shared experts) x expert type + (attention, routers, dense MLPs, embeddings) x dense type
    """
    slots_D = np.sum([np.bincount(p.device_of_slot_P, minlength=p.num_devices) for p in placements], axis=0)
    parts = model.parameter_breakdown()
    shared = parts.pop("shared_experts")
    del parts["experts"]
    expert = model.expert_params * dtype_bytes(weight_dtype)
    return float(
        slots_D.max() * expert
        + shared * dtype_bytes(weight_dtype)
        + sum(parts.values()) * dtype_bytes(model.dense_dtype)
    )


def cache_bytes(model: MoEModel, tokens_per_rank: float, context_length: int, *, decode: bool) -> float:
    """Keys and values in bf16: of each running sequence's context (decode), or of the rank's own tokens (prefill)."""
    per_layer = [model.attended_tokens(context_length, index) if decode else 1 for index in range(model.num_layers)]
    return float(tokens_per_rank * sum(per_layer) * model.kv_bytes_per_token("bf16"))


def buffer_bytes(model: MoEModel, most_copies: float) -> float:
    """One layer's received tokens and expert outputs, bf16, on the device with `most_copies` (token, expert) pairs."""
    return float(2 * most_copies * model.payload_width * dtype_bytes("bf16"))
