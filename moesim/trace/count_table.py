"""Count-level traces from tables of foreign recordings: steps x layer rows x experts, rows of zeros being dense layers.

Array letters: S step, R layer row of the recording, L layer kept, E expert.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.routing import RoutedModel, TraceInfo
from moesim.trace.layer_rule import check_model
from moesim.trace.rows import CountRows, TraceRows


@dataclass(frozen=True, slots=True, kw_only=True)
class CountTable:
    """What was counted: tokens that chose each logical expert, >= 0, with the model layer index of each row.

    `top_k` is what the recording says of it, 0 where it says nothing. `recorder` names the format.
    """

    load_SRE: NDArray[Any]
    layer_of_row: tuple[int, ...]
    source: str
    origin: str
    recorder: str
    top_k: int = 0
    notes: tuple[str, ...] = ()


def count_trace(table: CountTable, model: RoutedModel | None) -> TraceRows:
    """The table as a trace, layers ascending, dense layers left out; raises InputError where it is not the model's."""
    load_SRE, source = table.load_SRE, table.source
    if not load_SRE.any():
        raise InputError(f"{source}: every count is zero; there is no routing in it")
    if (load_SRE < 0).any():
        raise InputError(f"{source} holds the count {int(load_SRE.min())}; counts are >= 0")
    total_R = load_SRE.sum(axis=(0, 2), dtype=np.int64)
    order = [int(row) for row in np.argsort(table.layer_of_row)]
    kept = [row for row in order if not _is_dense(source, int(total_R[row]), table.layer_of_row[row], model)]
    top_k, notes = _top_k(table, model)
    info = TraceInfo(
        level="count",
        model=None if model is None else model.name,
        num_experts=load_SRE.shape[2],
        top_k=top_k,
        layers=tuple(table.layer_of_row[row] for row in kept),
        num_tokens=-(-int(total_R.max()) // top_k) if top_k else 0,
        num_steps=load_SRE.shape[0],
        origin=table.origin,
        recorder=table.recorder,
        notes=notes,
    )
    if model is not None:
        check_model(info, model, source)
    return TraceRows(info, _rows(info, load_SRE, kept))


def _is_dense(source: str, total: int, layer: int, model: RoutedModel | None) -> bool:
    """A row of zeros is a dense layer; where the model is known, it must say the same."""
    if model is not None and (total == 0) == (layer in model.moe_layer_indices):
        row, kind = ("is all zero", "a MoE layer") if total == 0 else ("has counts", "not a MoE layer")
        raise InputError(f"{source}: the row of layer {layer} {row}, but that is {kind} of {model.name}")
    return total == 0


def _top_k(table: CountTable, model: RoutedModel | None) -> tuple[int, tuple[str, ...]]:
    if model is None:
        unknown = () if table.top_k else ("top_k and num_tokens are unknown (0); no model was named",)
        return table.top_k, (*table.notes, *unknown)
    if table.top_k not in (0, model.top_k):
        raise InputError(
            f"{table.source} has top-k {table.top_k}, but {model.name} has {model.top_k}; it is another model's trace"
        )
    return model.top_k, table.notes


def _rows(info: TraceInfo, load_SRE: NDArray[Any], kept: Sequence[int]) -> Iterator[CountRows]:
    layers, num_experts = np.array(info.layers, np.int16), info.num_experts
    for step in range(info.num_steps):
        load_LE = load_SRE[step][np.array(kept)].astype(np.int64)
        yield CountRows(
            step_W=np.full(load_LE.size, step, np.int32),
            layer_W=np.repeat(layers, num_experts),
            expert_W=np.tile(np.arange(num_experts, dtype=np.int32), len(layers)),
            tokens_W=load_LE.reshape(-1),
        )
