"""Reader of .npz files with the expert ids of every token: `topk_ids [layers, tokens, K]`.

Optional: `seq_len` cuts the token axis into sequences (absent: one), `layers` (model layer indices), gate weights as
 `topk_weights`, `topk_weights_x1e4` (ten-thousandths) or `topk_scores`. Other arrays are not read.
Array letters: L layer row of the file, T token, W row of the trace, K top-k.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.routing import RoutedModel, TraceInfo
from moesim.trace.heads import merge_heads
from moesim.trace.layer_rule import check_model, layers_of_rows
from moesim.trace.npz import file_origin, is_npz, read_array, read_headers, read_integers, read_layers
from moesim.trace.rows import TokenRows, TraceRows

_WEIGHTS = {"topk_weights": 1.0, "topk_weights_x1e4": 1e-4, "topk_scores": 1.0}  # name -> its unit
_ROWS_PER_BATCH = 2**16


def recognises(path: Path) -> bool:
    """Whether `path` is an .npz file with an array `topk_ids`."""
    return is_npz(path) and "topk_ids" in read_headers(path)


def read(
    path: Path, *, model: RoutedModel | None = None, key: str | None = None, layers: Sequence[int] | None = None
) -> TraceRows:
    """The file's routing as one step of one rank, its order kept; `key` names the array of ids when not `topk_ids`.

    Without `model` the number of experts is the largest id + 1, and the notes say so. Raises InputError.
    """
    ids_LTK = read_integers(path, key or "topk_ids", 3)
    if 0 in ids_LTK.shape:
        raise InputError(f"{path}: {key or 'topk_ids'} of shape {ids_LTK.shape} holds no routing")
    weights_LTK, unit = _weights(path, ids_LTK.shape)
    asked = None if layers is None else tuple(layers)
    layer_L = layers_of_rows(len(ids_LTK), model=model, asked=asked, stated=read_layers(path), source=str(path))
    kept = [row for row in np.argsort(layer_L) if not _is_dense(path, ids_LTK[row], layer_L[row], model)]
    sequence_T = _sequences(path, ids_LTK.shape[1])
    info = _info(
        path, model, ids_LTK, tuple(layer_L[row] for row in kept), weights_LTK is not None, sequence_T is not None
    )
    if model is not None:
        check_model(info, model, str(path))
    merges = model is not None and model.has_heads_merged
    return TraceRows(info, _rows(info, ids_LTK, weights_LTK, unit, sequence_T, kept, merges))


def _is_dense(path: Path, ids_TK: NDArray[Any], layer: int, model: RoutedModel | None) -> bool:
    """Whether this row stands for a dense layer of the model: it must then be empty, -1 or 0 throughout."""
    if model is None or layer in model.moe_layer_indices:
        return False
    if (ids_TK > 0).any():
        raise InputError(f"{path} has routing for layer {layer}, which is not a MoE layer of {model.name}")
    return True


def _weights(path: Path, shape: tuple[int, ...]) -> tuple[NDArray[Any] | None, float]:
    names = [name for name in _WEIGHTS if name in read_headers(path)]
    if len(names) > 1:
        raise InputError(f"{path} holds gate weights under {' and '.join(names)}; keep one")
    if not names:
        return None, 1.0
    weights_LTK = read_array(path, names[0])
    if weights_LTK.shape != shape or weights_LTK.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: {names[0]} must be numbers of shape {shape}, got {weights_LTK.dtype} {weights_LTK.shape}"
        )
    return weights_LTK, _WEIGHTS[names[0]]


def _sequences(path: Path, num_tokens: int) -> NDArray[np.int32] | None:
    if "seq_len" not in read_headers(path):
        return None
    lengths = read_integers(path, "seq_len", 1)
    total = sum(lengths.tolist())
    if (lengths < 1).any() or total != num_tokens:
        raise InputError(f"{path}: seq_len must be >= 1 and sum to its {num_tokens} tokens, got a sum of {total}")
    return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths.astype(np.int64))


def _info(
    path: Path,
    model: RoutedModel | None,
    ids_LTK: NDArray[Any],
    layers: tuple[int, ...],
    has_weights: bool,
    has_sequences: bool,
) -> TraceInfo:
    notes: tuple[str, ...] = ()
    top_k = ids_LTK.shape[2]
    num_experts = 0 if model is None else model.num_experts
    if model is None:
        num_experts = max(int(ids_LTK.max()) + 1, top_k)
        notes = (f"num_experts {num_experts} is inferred from the largest expert id; no model was named",)
    if model is not None and top_k != model.top_k:
        raise InputError(
            f"{path} has top-{top_k} rows, but {model.name} is top-{model.top_k}; it is another model's trace"
        )
    return TraceInfo(
        level="token",
        model=None if model is None else model.name,
        num_experts=num_experts,
        top_k=top_k,
        layers=layers,
        num_tokens=ids_LTK.shape[1],
        has_weights=has_weights,
        has_sequences=has_sequences,
        origin=file_origin(path),
        recorder="moesim trace convert, format npz_topk",
        notes=notes,
    )


def _rows(
    info: TraceInfo,
    ids_LTK: NDArray[Any],
    weights_LTK: NDArray[Any] | None,
    unit: float,
    sequence_T: NDArray[np.int32] | None,
    kept: Sequence[int],
    merges_heads: bool,
) -> Iterator[TokenRows]:
    for layer, row in zip(info.layers, kept, strict=True):
        for start in range(0, info.num_tokens, _ROWS_PER_BATCH):
            at = slice(start, min(start + _ROWS_PER_BATCH, info.num_tokens))
            count = at.stop - at.start
            experts_WK = _fitting(ids_LTK[row, at])
            weights_WK = None if weights_LTK is None else weights_LTK[row, at].astype(np.float64) * unit
            if merges_heads:
                experts_WK, weights_WK = merge_heads(experts_WK, weights_WK)
            yield TokenRows(
                step_W=np.zeros(count, np.int32),
                layer_W=np.full(count, layer, np.int16),
                rank_W=np.zeros(count, np.int32),
                token_W=np.arange(at.start, at.stop, dtype=np.int64),
                experts_WK=experts_WK,
                weights_WK=None if weights_WK is None else _half(weights_WK),
                sequence_W=None if sequence_T is None else sequence_T[at],
            )


def _fitting(ids_WK: NDArray[Any]) -> NDArray[np.int32]:
    """As int32, an id that does not fit as the largest one: above every bound, so the row's check refuses it."""
    return np.clip(ids_WK.astype(np.int64), -(2**31), 2**31 - 1).astype(np.int32)


def _half(weights_WK: NDArray[np.float64]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and the row's check refuses it by name
        return weights_WK.astype(np.float16)
