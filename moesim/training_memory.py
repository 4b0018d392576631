"""Bytes one device must hold for a training step: weights, gradients, optimizer, activations, buffers; pure arithmetic.

State per weight and its cut by ZeRO stage: Rajbhandari et al. 2020 (arXiv:1910.02054, section 3). Expert weights are cut
over the expert-data-parallel group, all others over the data-parallel one. Left out: workspace of libraries,
fragmentation, buckets of gradients in flight, the gathered weights of the layer at hand under stage 3.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from moesim.errors import InputError, unknown_name
from moesim.memory import check_fit
from moesim.model import MoEModel, dtype_bytes
from moesim.parallelism import ParallelDims
from moesim.training_activations import KeptTensors, Recompute, head_bytes, layer_bytes

__all__ = ["check_fit"]  # the same refusal as serving's: InputError with the sum that does not fit

Schedule = Literal["gpipe", "1f1b", "interleaved", "zero_bubble", "dualpipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerTypes:
    """Types of what is kept beside each weight: its gradient, its master copy (None: no copy), each of its moments."""

    gradient: str
    master: str | None
    moment: str
    num_moments: int
    source: str

    @property
    def gradient_bytes(self) -> float:
        """Bytes of the gradient of one weight."""
        return dtype_bytes(self.gradient)

    @property
    def state_bytes(self) -> float:
        """Bytes of master copy and moments of one weight."""
        master = 0.0 if self.master is None else dtype_bytes(self.master)
        return master + self.num_moments * dtype_bytes(self.moment)


OPTIMIZERS: Mapping[str, OptimizerTypes] = MappingProxyType(
    {
        "adam": OptimizerTypes(
            gradient="fp32",
            master="fp32",
            moment="fp32",
            num_moments=2,
            source="Megatron-LM distributed optimizer: 18 B a bf16 weight, 6 + 12/d when cut over d ranks",
        ),
        "adam_bf16_gradients": OptimizerTypes(
            gradient="bf16",
            master="fp32",
            moment="fp32",
            num_moments=2,
            source="arXiv:1910.02054, 3.1: 2 + 2 + 12 B a weight",
        ),
        "adam_bf16_moments": OptimizerTypes(
            gradient="fp32",
            master="fp32",
            moment="bf16",
            num_moments=2,
            source="DeepSeek-V3, arXiv:2412.19437, 3.3.2: moments in bf16, master weights and gradients in fp32",
        ),
    }
)


def optimizer_types(name: str) -> OptimizerTypes:
    """The types of an optimizer by name; raises UnknownName."""
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldWeights:
    """Weights (counts) that one device holds before ZeRO cuts anything: routed experts, shared ones, all others."""

    experts: float
    shared: float
    dense: float

    def __add__(self, other: "HeldWeights") -> "HeldWeights":
        """Both together, as a stage that holds two parts of the model does (dualpipe)."""
        return HeldWeights(
            experts=self.experts + other.experts, shared=self.shared + other.shared, dense=self.dense + other.dense
        )


def held_weights(
    model: MoEModel,
    dims: ParallelDims,
    layers: Sequence[int],
    *,
    first: bool,
    last: bool,
    expert_slots: int | None = None,
) -> HeldWeights:
    """Weights of a device whose pipeline part has the model layers `layers`; the first embeds, the last has the head.

    `expert_slots` of one MoE layer: num_experts / ep rounded up where not given. Tied embeddings are held at both ends.
    A pool that all MoE layers share is held whole by every part with one. Sums over a world of parts, ep, tp and etp
    ranks give the whole model (with tied embeddings twice where pp > 1).
    """
    moe = set(model.moe_layer_indices)
    moe_layers = sum(layer in moe for layer in layers)
    slots = math.ceil(model.num_experts / dims.ep) if expert_slots is None else expert_slots
    sets = min(moe_layers, 1) if model.moe.shared_pool else moe_layers
    others = sum(model.attention_held_params(layer) for layer in layers)
    others += moe_layers * model.router_params + (len(layers) - moe_layers) * model.dense_params
    others += len(layers) * model.layers.modulation * model.d_model**2
    ends = int(first) + int(last) if not (model.tied_embeddings and first and last) else 1
    table = ends * (model.vocab_size or 0) * model.d_model + int(last) * (model.num_classes or 0) * model.d_model
    return HeldWeights(
        experts=sets * slots * model.expert_params / dims.etp,
        shared=moe_layers * model.shared_params / dims.tp,
        dense=(others + table) / dims.tp,
    )


def state_parts(
    held: HeldWeights,
    dims: ParallelDims,
    *,
    zero: int,
    optimizer: OptimizerTypes,
    weight_dtype: str,
    dense_dtype: str = "bf16",
    copies: int = 1,
) -> dict[str, float]:
    """Bytes of weights, gradients and optimizer state on one device under a ZeRO stage 0..3.

    Stage 1 cuts the optimizer's state over the ranks that hold the same weights, 2 gradients too, 3 weights too.
    `copies`: how often the model lies in one pipeline (dualpipe: 2), which has as many more ranks to cut over.
    """
    if zero not in (0, 1, 2, 3):
        raise InputError(f"train.zero={zero} is no ZeRO stage; take 0, 1, 2 or 3")
    cut_experts, cut_dense = copies * dims.edp, copies * dims.dp
    dense = held.shared + held.dense
    weights = held.experts * dtype_bytes(weight_dtype), _other_bytes(held, weight_dtype, dense_dtype)
    experts_w, others_w = (weights[0] / cut_experts, weights[1] / cut_dense) if zero >= 3 else weights
    return {
        "expert_weights": experts_w,
        "other_weights": others_w,
        "gradients": optimizer.gradient_bytes * _cut(held.experts, cut_experts, dense, cut_dense, zero >= 2),
        "optimizer": optimizer.state_bytes * _cut(held.experts, cut_experts, dense, cut_dense, zero >= 1),
    }


def in_flight(schedule: str, *, stages: int, micro_batches: int, stage: int, chunks: int = 1) -> float:
    """Micro-batches whose activations a stage keeps at most, each for all the layers that the stage computes of it.

    gpipe m; 1f1b p - stage; interleaved (2 (p - stage - 1) + (v - 1) p + 1) / v, which is p (1 + (p - 1) / (p v)) at stage
    0 (arXiv:2205.05198, 4.2.3); zero_bubble p (ZB-H1, arXiv:2401.10241); dualpipe p + 1 (arXiv:2412.19437, table 2), each
    of one of the two parts that the stage holds. Never more than m.
    """
    ahead = 2 * (stages - stage - 1) + (chunks - 1) * stages + 1
    known = {
        "gpipe": float(micro_batches),
        "1f1b": float(stages - stage),
        "interleaved": ahead / chunks,
        "zero_bubble": float(stages),
        "dualpipe": float(stages + 1),
    }
    if schedule not in known:
        raise unknown_name("train.schedule", schedule, known)
    return min(known[schedule], float(micro_batches))


def model_copies(schedule: str) -> int:
    """How often the model lies in one pipeline: twice under dualpipe, whose micro-batches enter at both ends."""
    return 2 if schedule == "dualpipe" else 1


def kept_bytes(
    model: MoEModel,
    layers: Sequence[int],
    tokens: float,
    sequence_length: int,
    *,
    micro_batches: float,
    recompute: Recompute = "none",
    tp: int = 1,
    last: bool = False,
    kept: KeptTensors | None = None,
) -> float:
    """Activations of one device: `micro_batches` in flight of `tokens` tokens each through `layers`, divided by tp.

    With recomputation, the layer at hand is there once in full beside them; the last part has the head's once.
    """
    each = sum(layer_bytes(model, layer, sequence_length, recompute, kept) for layer in layers)
    at_hand = 0.0
    if recompute != "none":
        full = (layer_bytes(model, layer, sequence_length, "none", kept) for layer in layers)
        at_hand = max(full, default=0.0)
    head = head_bytes(model, kept) if last else 0.0
    return tokens * (micro_batches * each + at_hand + head) / tp


def checkpoint_bytes(
    model: MoEModel, weight_dtype: str, optimizer: OptimizerTypes, *, dense_dtype: str = "bf16"
) -> float:
    """Bytes of a checkpoint one can go on training from: weights, master copies and moments, each once; no gradients."""
    parts = model.parameter_breakdown()
    experts = parts["experts"] + parts["shared_experts"]
    weights = experts * dtype_bytes(weight_dtype) + (model.total_params - experts) * dtype_bytes(dense_dtype)
    return weights + model.total_params * optimizer.state_bytes


def checkpoint_time(num_bytes: float, bytes_per_s: float) -> float:
    """Seconds to write a checkpoint at the rate the storage takes from all ranks together."""
    if not 0.0 < bytes_per_s < math.inf:
        raise InputError(f"checkpoint rate is {bytes_per_s!r} bytes/s; it must be more than 0 and finite")
    return num_bytes / bytes_per_s


def _other_bytes(held: HeldWeights, weight_dtype: str, dense_dtype: str) -> float:
    return held.shared * dtype_bytes(weight_dtype) + held.dense * dtype_bytes(dense_dtype)


def _cut(experts: float, cut_experts: int, dense: float, cut_dense: int, is_cut: bool) -> float:
    return experts / cut_experts + dense / cut_dense if is_cut else experts + dense
