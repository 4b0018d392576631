"""Reader of .npz files with counts: 2-D integer arrays `[layers, experts]`, tokens that chose each expert.

A row of zeros is a dense layer. An optional array `layers` (1-D) names the rows' model layer indices.
Array letters: L layer row of the file, E expert.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError, unknown_name
from moesim.routing import RoutedModel, TraceInfo
from moesim.trace.layer_rule import check_model, layers_of_rows
from moesim.trace.npz import file_origin, is_npz, read_headers, read_integers, read_layers
from moesim.trace.rows import CountRows, TraceRows

_ROWS_PER_BATCH = 2**16


def recognises(path: Path) -> bool:
    """Whether `path` is an .npz file without `topk_ids` but with a 2-D integer array."""
    return is_npz(path) and "topk_ids" not in read_headers(path) and bool(_candidates(path))


def _candidates(path: Path) -> list[str]:
    headers = read_headers(path).items()
    return [name for name, header in headers if len(header.shape) == 2 and header.dtype.kind in "iu"]


def read(
    path: Path, *, model: RoutedModel | None = None, key: str | None = None, layers: Sequence[int] | None = None
) -> TraceRows:
    """The counts under `key`, which may be left out where the file has one such array, as one step.

    Without `model` the top-k and the number of tokens are unknown, and the notes say so. Raises InputError.
    """
    name = _chosen(path, key)
    load_LE = read_integers(path, name, 2)
    asked = None if layers is None else tuple(layers)
    layer_L = layers_of_rows(len(load_LE), model=model, asked=asked, stated=read_layers(path), source=f"{path} {name}")
    kept = [row for row in np.argsort(layer_L) if not _is_dense(path, load_LE[row], layer_L[row], model)]
    if not kept:
        raise InputError(f"{path}: every row of {name} is zero; there is no routing in it")
    info = _info(path, name, model, load_LE[kept], tuple(layer_L[row] for row in kept))
    if model is not None:
        check_model(info, model, str(path))
    return TraceRows(info, _rows(info, load_LE[kept]))


def _chosen(path: Path, key: str | None) -> str:
    names = _candidates(path)
    if key is None and len(names) == 1:
        return names[0]
    if key is None:
        raise InputError(f"{path} has {len(names)} arrays of counts; pick one with --key: {', '.join(names)}")
    if key not in names:
        raise unknown_name(f"array of counts in {path}", key, names)
    return key


def _is_dense(path: Path, load_E: NDArray[Any], layer: int, model: RoutedModel | None) -> bool:
    """A row of zeros is a dense layer; where the model is known, it must say the same."""
    is_dense = not load_E.any()
    if model is not None and is_dense == (layer in model.moe_layer_indices):
        row = "is all zero" if is_dense else "has counts"
        kind = "a MoE layer" if is_dense else "not a MoE layer"
        raise InputError(f"{path}: the row of layer {layer} {row}, but that is {kind} of {model.name}")
    return is_dense


def _info(
    path: Path, name: str, model: RoutedModel | None, load_LE: NDArray[Any], layers: tuple[int, ...]
) -> TraceInfo:
    if (load_LE < 0).any():
        raise InputError(f"{path}: {name} holds the count {int(load_LE.min())}; counts are >= 0")
    largest = max(sum(load_E) for load_E in load_LE.tolist())
    unknown = ("top_k and num_tokens are unknown (0); no model was named",)
    return TraceInfo(
        level="count",
        model=None if model is None else model.name,
        num_experts=load_LE.shape[1],
        top_k=0 if model is None else model.top_k,
        layers=layers,
        num_tokens=0 if model is None else -(-largest // model.top_k),
        origin=f"{file_origin(path)} {name}",
        recorder="moesim trace convert, format npz_counts",
        notes=unknown if model is None else (),
    )


def _rows(info: TraceInfo, load_LE: NDArray[Any]) -> Iterator[CountRows]:
    per_batch = max(1, _ROWS_PER_BATCH // info.num_experts)
    for start in range(0, info.num_layers, per_batch):
        layers = np.array(info.layers[start : start + per_batch], np.int16)
        yield CountRows(
            step_W=np.zeros(len(layers) * info.num_experts, np.int32),
            layer_W=np.repeat(layers, info.num_experts),
            expert_W=np.tile(np.arange(info.num_experts, dtype=np.int32), len(layers)),
            tokens_W=load_LE[start : start + per_batch].astype(np.int64).reshape(-1),
        )
