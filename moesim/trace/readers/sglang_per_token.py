"""Reader of SGLang's expert-distribution dumps in mode per_token: physical slots of every token, per pass and rank.

Slots become experts by the map in the dump. A pass is a step; while all passes are prefills, requests are sequences.
Array letters: R layer row (every layer), P physical slot, T token, W recorded width (8 in SGLang).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.routing import RoutedModel
from moesim.trace.layer_rule import layers_of_all_rows
from moesim.trace.pass_recording import Recording, token_trace
from moesim.trace.rows import TraceRows
from moesim.trace.sglang_records import ANY_PT, Record, decoder, experts_of, mode_of, read_records, slot_map
from moesim.trace.source_files import files_in, origin_of
from moesim.trace.torch_file import integers, whole_numbers


def recognises(path: Path) -> bool:
    """Whether `path` is a torch file with `topk_ids_of_layer`, or a folder of such."""
    return mode_of(path) == "per_token"


def read(
    path: Path, *, model: RoutedModel | None = None, key: str | None = None, layers: Sequence[int] | None = None
) -> TraceRows:
    """The tokens of all passes and ranks; rows of dense layers and padding tokens go. Raises InputError."""
    if key is not None:
        raise InputError(f"{path} has one array of ids a pass; leave out --key")
    passes: dict[int, dict[int, NDArray[Any]]] = {}
    lengths: dict[tuple[int, int], Sequence[int]] | None = {}
    slots_RP: NDArray[np.int64] | None = None
    for record in read_records(path, "per_token"):
        ids_RTW = integers(record.fields.get("topk_ids_of_layer"), 3, f"{record.place}: topk_ids_of_layer")
        own_RP = slot_map(record, len(ids_RTW), _num_slots(record), model)
        if slots_RP is not None and not np.array_equal(own_RP, slots_RP):
            raise InputError(f"{record.place}: its slot map is another one than before; convert each dump by itself")
        slots_RP = own_RP
        passes.setdefault(record.forward_pass, {})[record.rank] = ids_RTW
        length = _lengths(record, ids_RTW.shape[1])
        if lengths is not None and length is not None:
            lengths[record.forward_pass, record.rank] = length
        else:
            lengths = None
    assert slots_RP is not None  # read_records yields at least one
    asked = None if layers is None else tuple(layers)
    recording = Recording(
        passes=passes,
        layer_of_row=layers_of_all_rows(len(slots_RP), model=model, asked=asked, source=str(path)),
        num_experts=experts_of(slots_RP, model, str(path)),
        source=str(path),
        origin=origin_of(path, files_in(path, ANY_PT)),
        recorder="SGLang expert-distribution recorder, per_token",
        decode=decoder(slots_RP, str(path)),
        lengths=lengths,
    )
    return token_trace(recording, model)


def _num_slots(record: Record) -> int | None:
    count = record.fields.get("global_physical_count")
    return None if count is None else integers(count, 2, f"{record.place}: global_physical_count").shape[1]


def _lengths(record: Record, num_tokens: int) -> list[int] | None:
    """Tokens of each request of a prefill; None for a decoding pass, or where they are not all of the tokens."""
    given = record.fields.get("extend_seq_lens")
    if given is None:
        return None if num_tokens else []
    lengths = whole_numbers(given, f"{record.place}: extend_seq_lens")
    return lengths.tolist() if (lengths >= 1).all() and sum(lengths.tolist()) == num_tokens else None
