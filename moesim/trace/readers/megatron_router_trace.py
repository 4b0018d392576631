"""Reader of Megatron-Core's router traces: JSON lines of every (step, layer, rank) with the expert ids of its tokens.

Ids of a token ascend there: the order of their scores is lost. Multi-token-prediction blocks are left out. Layers are
those Megatron writes, counted in the decoder of a rank: with pipeline stages convert the ranks of one stage at a time.
Array letters: R layer row, T token, K top-k.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.routing import RoutedModel
from moesim.trace.layer_rule import layers_of_rows
from moesim.trace.pass_recording import Recording, token_trace
from moesim.trace.rows import TraceRows
from moesim.trace.source_files import check_ranks, files_in, head_of, json_lines, listed, origin_of, whole

_FILES = re.compile(r".*\.jsonl")


def recognises(path: Path) -> bool:
    """Whether the first line of `path`, or of the first .jsonl of a folder, has `top_indices`."""
    heads = [head_of(file) for file in files_in(path, _FILES)[:1]]
    return any(head.lstrip().startswith(b"{") and b'"top_indices"' in head for head in heads)


def read(
    path: Path, *, model: RoutedModel | None = None, key: str | None = None, layers: Sequence[int] | None = None
) -> TraceRows:
    """The decoder's tokens of all ranks. `layers` renames the file's layers, ascending. Raises InputError."""
    if key is not None:
        raise InputError(f"{path} is read whole; leave out --key")
    files = files_in(path, _FILES)
    found = _Found()
    for file in files:
        for place, record in json_lines(file):
            found.take(record, place)
    if not found.ids:
        raise InputError(f"{path} holds no routing of a decoder")
    ranks = {rank: None for _, rank in found.ids}
    if path.is_dir():
        check_ranks(ranks, str(path))
    stated = sorted({layer for layers_of_pass in found.ids.values() for layer in layers_of_pass})
    passes = _passes(path, found.ids, stated)
    asked = None if layers is None else tuple(layers)
    largest = max(int(ids.max(initial=0)) for ranks_of in passes.values() for ids in ranks_of.values()) + 1
    notes = ["experts of a token ascend by id, the order of their scores is not recorded"]
    if found.num_skipped:
        notes.append(f"{found.num_skipped} lines of multi-token-prediction blocks were left out")
    if model is None:
        notes.append(f"num_experts {largest} is inferred from the largest expert id; no model was named")
    recording = Recording(
        passes=passes,
        layer_of_row=layers_of_rows(len(stated), model=model, asked=asked, stated=tuple(stated), source=str(path)),
        num_experts=largest if model is None else model.num_experts,
        source=str(path),
        origin=origin_of(path, files),
        recorder="Megatron-Core RouterTracer",
        decode=_without_sentinel(None if model is None else model.num_experts),
        notes=tuple(notes),
    )
    return token_trace(recording, model)


@dataclass(slots=True)
class _Found:
    """(step, rank) -> layer -> ids [T, K] of the microbatches in their order; lines left out."""

    ids: dict[tuple[int, int], dict[int, list[NDArray[np.int32]]]] = field(default_factory=dict)
    num_skipped: int = 0

    def take(self, record: Mapping[str, Any], place: str) -> None:
        """Add one line; raises InputError where it is not what the tracer writes."""
        if "top_indices" not in record:
            raise InputError(
                f"{place} has the keys {', '.join(sorted(record)[:8])}; expected top_indices of RouterTracer"
            )
        if record.get("block") != "decoder":
            self.num_skipped += 1
            return
        step, layer = whole(record, "step", place), whole(record, "layer", place, most=2**15 - 1)
        rank = whole(record, "rank", place, most=2**24 - 1)
        ids_TK = _ids(record, place)
        self.ids.setdefault((step, rank), {}).setdefault(layer, []).append(ids_TK)


def _ids(record: Mapping[str, Any], place: str) -> NDArray[np.int32]:
    num_tokens, top_k = whole(record, "num_tokens", place), whole(record, "topk", place, 1, 2**16)
    try:
        ids_TK = np.array(record["top_indices"])
    except (ValueError, OverflowError):
        raise InputError(f"{place}: top_indices must be {num_tokens} lists of {top_k} ids, got other lengths") from None
    if num_tokens == 0 and ids_TK.size == 0:
        return np.zeros((0, top_k), np.int32)
    if ids_TK.shape != (num_tokens, top_k) or ids_TK.dtype.kind != "i":
        raise InputError(
            f"{place}: top_indices must be {num_tokens} lists of {top_k} whole numbers, got {ids_TK.dtype} {ids_TK.shape}"
        )
    clipped_TK: NDArray[np.int32] = np.clip(ids_TK, -1, 2**31 - 1).astype(np.int32)
    return clipped_TK


def _passes(
    path: Path, found: Mapping[tuple[int, int], Mapping[int, Sequence[NDArray[np.int32]]]], stated: Sequence[int]
) -> dict[int, dict[int, NDArray[np.int32]]]:
    """Step -> rank -> ids [R, T, K]; InputError where a layer is missing or has other tokens than the rest."""
    passes: dict[int, dict[int, NDArray[np.int32]]] = {}
    for (step, rank), parts in found.items():
        missing = [layer for layer in stated if layer not in parts]
        if missing:
            raise InputError(
                f"{path}: step {step} of rank {rank} misses {listed('layer', missing)}; the recording is truncated, "
                f"or the ranks are of several pipeline stages: convert one stage at a time"
            )
        rows = [np.concatenate(parts[layer]) if len(parts[layer]) > 1 else parts[layer][0] for layer in stated]
        shapes = sorted({ids_TK.shape for ids_TK in rows})
        if len(shapes) > 1:
            raise InputError(f"{path}: step {step} of rank {rank} has layers of shapes {shapes[:4]} [tokens, top-k]")
        passes.setdefault(step, {})[rank] = np.stack(rows)
    return passes


def _without_sentinel(num_experts: int | None) -> Any:
    """A function that turns the id `num_experts` (not routed) into -1."""

    def decode(ids_RTK: NDArray[Any]) -> NDArray[Any]:
        return ids_RTK if num_experts is None else np.where(ids_RTK == num_experts, -1, ids_RTK)

    return decode
