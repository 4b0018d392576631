"""Which tensors of a checkpoint belong to experts, and what another order of the experts does to each.

Known by the words in their names, as Hugging Face, Megatron-Core, DeepSpeed, Tutel and TorchTitan write them:
- one tensor per expert (`...experts.7.w1.weight`, `...experts.linear_fc1.weight7`): renamed;
- all experts stacked (`...experts.gate_up_proj`, granite's `input_linear`): rows of axis 0 in another order;
- router weights and biases: rows (or, in JAX's [hidden, experts], columns) in another order;
- tables of expert ids (`tid2eid`): the ids themselves replaced.
Shared experts, attention and dense layers stay as they are. `order[s]` is the old expert at the new position s.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError

Order = NDArray[np.int64]
_LAYER_WORDS = ("layers", "layer", "h", "blocks", "block")
_EXPERT_WORDS = ("experts", "local_experts", "deepspeed_experts", "routed_experts", "inner_experts")
_STACKED_WORDS = ("input_linear", "output_linear")  # granite's names under block_sparse_moe
_ROUTER_WORDS = ("gate", "router", "gates", "moe_statics", "expert_bias", "expert_bias_E", "e_score_correction_bias")
_MOE_WORDS = ("mlp", "moe", "block_sparse_moe", "feed_forward", "ffn", "deepspeed_moe", "moe_layer", "mixer")
_OTHER_TOWERS = ("vision", "visual", "audio")
_INDEXED = re.compile(r"(weight|bias)(\d+)")


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one tensor of a layer: its new name, the axis whose entries change places, or ids to replace."""

    layer: int
    name: str
    axis: int | None = None
    replaces_ids: bool = False


@dataclass(slots=True)
class Found:
    """What was seen of one layer: router tensors, stacked expert tensors, and which experts have tensors of their own."""

    routers: int = 0
    stacked: int = 0
    experts: set[int] = field(default_factory=set)


def change_of(
    name: str, shape: tuple[int, ...], orders: Mapping[int, Order], num_experts: int, found: Mapping[int, Found]
) -> Change | None:
    """The change to tensor `name`, or None where it stays; what was seen is added to `found[layer]`.

    Raises InputError where a tensor is an expert's or a router's by name but no axis has `num_experts` entries.
    """
    words = name.split(".")
    layer = _layer(words)
    if layer is None or layer not in orders or any(word.startswith("shared_expert") for word in words):
        return None
    if any(tower in word for word in words for tower in _OTHER_TOWERS):
        return None
    position_of = np.argsort(orders[layer])
    at = next((i for i, word in enumerate(words) if word in _EXPERT_WORDS), None)
    if at is not None:
        return _expert_tensor(layer, words, at, shape, position_of, num_experts, found[layer])
    if any(word in _STACKED_WORDS for word in words) and any(word in _MOE_WORDS for word in words):
        return _stacked(layer, name, shape, num_experts, found[layer])
    if "tid2eid" in words:
        return Change(layer, name, replaces_ids=True)
    if any(word in _ROUTER_WORDS for word in words) and _in_moe(words):
        found[layer].routers += 1
        return Change(layer, name, axis=_router_axis(name, shape, num_experts))
    return None


def _layer(words: list[str]) -> int | None:
    """Model layer index: the number behind the first word that names a stack of layers."""
    for word, following in pairwise(words):
        if word in _LAYER_WORDS and following.isdecimal():
            return int(following)
    return None


def _in_moe(words: list[str]) -> bool:
    return any(word in _MOE_WORDS for word in words) and not any("attn" in word for word in words)


def _expert_tensor(
    layer: int, words: list[str], at: int, shape: tuple[int, ...], position_of: Order, num_experts: int, found: Found
) -> Change:
    """A tensor below a word that means experts: numbered by the next word, by its last word, or stacked."""
    numbered = next(
        (i for i in range(at + 1, len(words)) if words[i].isdecimal() and words[i - 1] in _EXPERT_WORDS), None
    )
    if numbered is not None:
        expert = _known_expert(".".join(words), int(words[numbered]), num_experts)
        found.experts.add(expert)
        return Change(layer, ".".join([*words[:numbered], str(position_of[expert]), *words[numbered + 1 :]]))
    indexed = _INDEXED.fullmatch(words[-1])
    if indexed:
        expert = _known_expert(".".join(words), int(indexed[2]), num_experts)
        found.experts.add(expert)
        return Change(layer, ".".join([*words[:-1], f"{indexed[1]}{position_of[expert]}"]))
    return _stacked(layer, ".".join(words), shape, num_experts, found)


def _known_expert(name: str, expert: int, num_experts: int) -> int:
    if expert >= num_experts:
        raise InputError(f"tensor {name!r} is of expert {expert}, but the plan has experts 0..{num_experts - 1}")
    return expert


def _stacked(layer: int, name: str, shape: tuple[int, ...], num_experts: int, found: Found) -> Change:
    if not shape or shape[0] != num_experts:
        raise InputError(
            f"tensor {name!r} of shape {shape} should have the plan's {num_experts} experts as its first axis"
        )
    found.stacked += 1
    return Change(layer, name, axis=0)


def _router_axis(name: str, shape: tuple[int, ...], num_experts: int) -> int:
    """The first axis with as many entries as experts: 0 for [experts, hidden], 1 for [hidden, experts] and [1, experts]."""
    if num_experts not in shape:
        raise InputError(f"router tensor {name!r} of shape {shape} has no axis of the plan's {num_experts} experts")
    return shape.index(num_experts)


def check_complete(layer: int, found: Found, num_experts: int) -> None:
    """Raise InputError unless a router and all experts of the layer were seen: half a permutation changes the model."""
    if not found.routers:
        raise InputError(
            f"layer {layer} has no router tensor this program knows; a permutation without it would be wrong"
        )
    if not found.stacked and len(found.experts) != num_experts:
        raise InputError(
            f"layer {layer} has tensors of {len(found.experts)} of its {num_experts} experts; merge the shards of all "
            f"expert-parallel ranks into one checkpoint first"
        )
