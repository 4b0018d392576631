"""Reader of Hugging Face `router_logits` saved as safetensors: scores of every expert, of which the top-k are the choice.

Tensors are named `router_logits.0`, `.1`, .. by MoE layer ordinal, [tokens, experts] each, or are one `router_logits`
[MoE layers, tokens, experts]. An optional `attention_mask` (as many numbers as tokens) marks padding with 0. Only routers
that take the largest logits can be read: sigmoid scores with a bias, groups or noise choose by more than the logits.
Array letters: R MoE layer ordinal, T token, E expert, K top-k.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.model import MoEModel
from moesim.routing import RoutedModel
from moesim.trace.layer_rule import layers_of_rows
from moesim.trace.pass_recording import Recording, token_trace
from moesim.trace.rows import TraceRows
from moesim.trace.safetensors_file import is_safetensors, read_entries, read_tensor
from moesim.trace.source_files import head_of, origin_of

_NAME = re.compile(r"(?:[\w.]*\.)?router_logits[._](\d{1,5})")
_WHOLE, _MASK = "router_logits", "attention_mask"
_BY_LOGITS = ("softmax_top_k", "top_k_softmax", "top_k_sigmoid")  # their scores keep the order of the logits
_TOKENS_AT_ONCE = 2**14


def recognises(path: Path) -> bool:
    """Whether `path` is a safetensors file with tensors called `router_logits`."""
    return is_safetensors(path) and b"router_logits" in head_of(path, 2**20)


def read(
    path: Path, *, model: RoutedModel | None = None, key: str | None = None, layers: Sequence[int] | None = None
) -> TraceRows:
    """The experts of the top-k logits as one step; equal logits: the smaller id. Raises InputError.

    `model` is needed: it says the top-k, and whether the logits decide.
    """
    if key is not None:
        raise InputError(f"{path} names its layers itself; leave out --key")
    if model is None:
        raise InputError(f"{path} has logits, from which experts follow only for a known router; give --model NAME")
    _check_router(path, model)
    logits = _logits(path)
    if any(table.shape != logits[0].shape for table in logits) or logits[0].shape[1] != model.num_experts:
        shapes = sorted({table.shape for table in logits})
        raise InputError(
            f"{path} has logits of shapes {shapes[:4]}; expected [tokens, {model.num_experts}] in every layer"
        )
    asked = None if layers is None else tuple(layers)
    is_token_T = _mask(path, len(logits[0]))
    ids_RTK = np.stack([_largest(table, model.top_k, path) for table in logits])
    ids_RTK[:, ~is_token_T] = -1
    recording = Recording(
        passes={0: {0: ids_RTK}},
        layer_of_row=layers_of_rows(len(logits), model=model, asked=asked, stated=None, source=str(path)),
        num_experts=model.num_experts,
        source=str(path),
        origin=origin_of(path, [path]),
        recorder="Hugging Face router_logits",
        notes=("experts are recomputed from router_logits",),
    )
    return token_trace(recording, model)


def _check_router(path: Path, model: RoutedModel) -> None:
    """Refuse routers whose choice is not that of the largest logits."""
    if not isinstance(model, MoEModel):
        raise InputError(f"{path}: {model.name} does not say how it routes, so indices cannot be recomputed")
    kind, num_groups = model.moe.router.kind, model.num_groups
    if kind not in _BY_LOGITS or num_groups > 1 or model.has_heads_merged:
        raise InputError(
            f"{path}: indices cannot be recomputed from router_logits for {model.name} (router {kind}, {num_groups} "
            f"groups); capture the indices: moesim trace capture"
        )


def _logits(path: Path) -> list[NDArray[Any]]:
    """Tables [T, E] by MoE layer ordinal."""
    entries = read_entries(path)
    if _WHOLE in entries:
        tables = read_tensor(path, _WHOLE, entries[_WHOLE])
        if tables.ndim != 3 or not tables.size:
            raise InputError(f"{path}: {_WHOLE} must be [MoE layers, tokens, experts], got {tables.shape}")
        return list(tables)
    named = {int(match[1]): name for name in entries if (match := _NAME.fullmatch(name))}
    missing = [ordinal for ordinal in range(max(named, default=0) + 1) if ordinal not in named]
    if missing:
        raise InputError(f"{path} misses router_logits of MoE layer ordinals {missing[:8]}; they count from 0")
    tables_R = [read_tensor(path, named[ordinal], entries[named[ordinal]]) for ordinal in sorted(named)]
    if any(table.ndim != 2 or not table.size or table.dtype.kind != "f" for table in tables_R):
        raise InputError(f"{path}: router_logits must be floats [tokens, experts] in every layer")
    return tables_R


def _mask(path: Path, num_tokens: int) -> NDArray[np.bool_]:
    entries = read_entries(path)
    if _MASK not in entries:
        return np.ones(num_tokens, np.bool_)
    mask = read_tensor(path, _MASK, entries[_MASK]).reshape(-1)
    if len(mask) != num_tokens:
        raise InputError(f"{path}: {_MASK} has {len(mask)} numbers for {num_tokens} tokens")
    return np.asarray(mask != 0)


def _largest(logits_TE: NDArray[Any], top_k: int, path: Path) -> NDArray[np.int32]:
    """Ids of the `top_k` largest of each row, best first."""
    ids_TK = np.empty((len(logits_TE), top_k), np.int32)
    for start in range(0, len(logits_TE), _TOKENS_AT_ONCE):
        part_TE = np.asarray(logits_TE[start : start + _TOKENS_AT_ONCE], np.float32)
        if not np.isfinite(part_TE).all():
            raise InputError(f"{path}: router_logits hold NaN or infinity after token {start}; the file is damaged")
        ids_TK[start : start + len(part_TE)] = np.argsort(-part_TE, axis=1, kind="stable")[:, :top_k]
    return ids_TK
