"""Original experts: routing recorded on a model with permuted experts, as that of the model before.

Array letters: L layer of the trace, E expert, W row, K top-k.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.trace.rows import CountRows, TokenRows, TraceRows

_NOTE = "experts were permuted when this was recorded; their ids are the original model's again"


def original_experts(trace: TraceRows, orders: Mapping[int, NDArray[np.int32]], source: str) -> TraceRows:
    """The trace with old ids: expert s of layer l was expert `orders[l][s]`; ids out of range stay for later checks.

    Raises InputError where a layer of the trace has no order, or one of another number of experts.
    """
    info = trace.info
    for layer in info.layers:
        if layer not in orders or len(orders[layer]) != info.num_experts:
            held = f"{len(orders[layer])} experts" if layer in orders else "no order"
            raise InputError(
                f"{source} has {info.num_experts} experts in layer {layer}, and the permutation has {held} for it; name the "
                "permutation of the model that was recorded"
            )
    row_of_layer = np.full(2**15, -1)
    row_of_layer[list(info.layers)] = np.arange(len(info.layers))
    order_LE = np.stack([orders[layer] for layer in info.layers]).astype(np.int32)
    rows = _token_rows if info.level == "token" else _count_rows
    note = info.model_copy(update={"notes": (*info.notes, _NOTE)})
    return TraceRows(info=note, rows=rows(trace.rows, row_of_layer, order_LE))


def _token_rows(
    rows: Iterable[TokenRows | CountRows], row_of_layer: NDArray[np.int64], order_LE: NDArray[np.int32]
) -> Iterator[TokenRows | CountRows]:
    for batch in rows:
        assert isinstance(batch, TokenRows)
        place_W = row_of_layer[batch.layer_W]
        yield dataclasses.replace(batch, experts_WK=_renamed(order_LE, place_W[:, None], batch.experts_WK))


def _count_rows(
    rows: Iterable[TokenRows | CountRows], row_of_layer: NDArray[np.int64], order_LE: NDArray[np.int32]
) -> Iterator[TokenRows | CountRows]:
    """All rows at once, since a layer's experts are sorted by their new ids."""
    batches = [batch for batch in rows if isinstance(batch, CountRows) and len(batch)]
    if not batches:
        return
    step_W, layer_W, expert_W, tokens_W = (
        np.concatenate([getattr(batch, field.name) for batch in batches]) for field in dataclasses.fields(CountRows)
    )
    expert_W = _renamed(order_LE, row_of_layer[layer_W], expert_W)
    sorted_W = np.lexsort((expert_W, layer_W, step_W))
    yield CountRows(step_W[sorted_W], layer_W[sorted_W], expert_W[sorted_W], tokens_W[sorted_W])


def _renamed(order_LE: NDArray[np.int32], place: NDArray[np.int64], ids: NDArray[np.int32]) -> NDArray[np.int32]:
    known = (ids >= 0) & (ids < order_LE.shape[1]) & (place >= 0)
    return np.where(known, order_LE[place, np.where(known, ids, 0)], ids).astype(np.int32)
