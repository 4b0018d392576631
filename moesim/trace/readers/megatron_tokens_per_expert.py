"""Reader of Megatron-Core's tokens_per_expert: JSON lines with the counts of a rank's own experts per microbatch.

A rank's file is known by the number in its name. Expert-parallel rank r holds the experts from r * (E / ranks) on; with
more ranks than expert-parallel ones the ranks repeat (data parallelism) and their counts are summed.
Array letters: S iteration, L layer, M microbatch, X expert of a rank, E expert.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.routing import RoutedModel
from moesim.trace.count_table import CountTable, count_trace
from moesim.trace.layer_rule import layers_of_rows
from moesim.trace.rows import TraceRows
from moesim.trace.source_files import check_ranks, files_in, head_of, json_lines, listed, origin_of, rank_files, whole

_FILES = re.compile(r"rank(\d{1,7})\.jsonl")
_MOST_CELLS = 2**27
Counts = dict[tuple[int, int], NDArray[np.int64]]


def recognises(path: Path) -> bool:
    """Whether the first line of `path`, or of the first rank<r>.jsonl of a folder, has `tpe`."""
    heads = [head_of(file) for file in files_in(path, _FILES)[:1]]
    return any(head.lstrip().startswith(b"{") and b'"tpe"' in head for head in heads)


def read(
    path: Path, *, model: RoutedModel | None = None, key: str | None = None, layers: Sequence[int] | None = None
) -> TraceRows:
    """Counts of all ranks and microbatches of an iteration, which is a step. Raises InputError.

    Without `model` the ranks are taken as one expert-parallel group. One file alone has the counts of that rank's
    experts only, and the notes say so.
    """
    if key is not None:
        raise InputError(f"{path} is read whole; leave out --key")
    files = rank_files(path, _FILES, what="rank<r>.jsonl with tokens_per_expert")
    counts = {rank: _counts(file) for rank, file in files.items()}
    iterations = sorted({iteration for found in counts.values() for iteration, _ in found})
    stated = sorted({layer for found in counts.values() for _, layer in found})
    _check_complete(path, counts, iterations, stated)
    sizes = sorted({len(load_X) for found in counts.values() for load_X in found.values()})
    if len(sizes) != 1:
        raise InputError(f"{path}: ranks and layers have {sizes[:4]} experts; expected the same number everywhere")
    num_experts, num_groups, notes = _experts(path, list(files), sizes[0], model)
    if len(iterations) * len(stated) * num_experts > _MOST_CELLS:
        raise InputError(f"{path}: {len(iterations)} iterations x {len(stated)} layers x {num_experts} are too many")
    load_SLE = np.zeros((len(iterations), len(stated), num_experts), np.int64)
    place_S, place_L = ({value: place for place, value in enumerate(values)} for values in (iterations, stated))
    for rank, found in counts.items():
        first = rank % num_groups * sizes[0]
        for (iteration, layer), load_X in found.items():
            load_SLE[place_S[iteration], place_L[layer], first : first + sizes[0]] += load_X
    asked = None if layers is None else tuple(layers)
    table = CountTable(
        load_SRE=load_SLE,
        layer_of_row=layers_of_rows(len(stated), model=model, asked=asked, stated=tuple(stated), source=str(path)),
        source=str(path),
        origin=origin_of(path, list(files.values())),
        recorder="Megatron-Core tokens_per_expert",
        notes=notes,
    )
    return count_trace(table, model)


def _counts(file: Path) -> Counts:
    """(iteration, layer) -> counts [X], microbatches summed; blocks beside the decoder left out."""
    found: Counts = {}
    for place, record in json_lines(file):
        if "tpe" not in record:
            raise InputError(f"{place} has the keys {', '.join(sorted(record)[:8])}; expected tpe of tokens_per_expert")
        if record.get("block") == "decoder":
            at = (whole(record, "iter", place), whole(record, "layer", place, most=2**15 - 1))
            load_X = _load(record["tpe"], place)
            if at in found and found[at].shape != load_X.shape:
                raise InputError(f"{place} has {len(load_X)} experts, earlier lines {len(found[at])}")
            found[at] = found.get(at, np.zeros_like(load_X)) + load_X
    if not found:
        raise InputError(f"{file} holds no counts of a decoder")
    return found


def _load(value: Any, place: str) -> NDArray[np.int64]:
    try:
        load_MX = np.array(value)
    except (ValueError, OverflowError):
        load_MX = np.zeros(0)
    if load_MX.ndim != 2 or load_MX.dtype.kind != "i" or load_MX.size == 0 or load_MX.min() < 0:
        raise InputError(f"{place}: tpe must be a list a microbatch of counts >= 0, got {str(value)[:60]}")
    total_X: NDArray[np.int64] = load_MX.sum(axis=0, dtype=np.int64)
    return total_X


def _check_complete(path: Path, counts: Mapping[int, Counts], iterations: Sequence[int], stated: Sequence[int]) -> None:
    missing = [
        (iteration, layer, rank)
        for iteration in iterations
        for layer in stated
        for rank, found in counts.items()
        if (iteration, layer) not in found
    ]
    if missing:
        raise InputError(
            f"{path} misses {listed('(iteration, layer, rank)', missing)}; the recording is truncated, or the ranks "
            f"are of several pipeline stages: convert one stage at a time"
        )


def _experts(
    path: Path, ranks: Sequence[int], per_rank: int, model: RoutedModel | None
) -> tuple[int, int, tuple[str, ...]]:
    """Experts of the model, ranks that share them out, and what was assumed."""
    if model is None:
        num_groups = max(ranks) + 1
        return (
            num_groups * per_rank,
            num_groups,
            (f"{num_groups} expert-parallel ranks of {per_rank} experts are assumed",),
        )
    if model.num_experts % per_rank:
        raise InputError(
            f"{path} has {per_rank} experts a rank, which do not divide the {model.num_experts} of {model.name}"
        )
    num_groups = model.num_experts // per_rank
    if path.is_dir():
        check_ranks(dict.fromkeys(ranks), str(path), num_groups * -(-len(ranks) // num_groups))
    elif num_groups > 1:
        only = f"only rank {ranks[0]}'s {per_rank} experts were counted, of {model.num_experts}; the others are zero"
        return model.num_experts, num_groups, (only,)
    repeated = len(ranks) // num_groups
    assumed = f"{repeated} data-parallel groups of consecutive ranks are assumed" if repeated > 1 else ""
    return model.num_experts, num_groups, (assumed,) if assumed else ()
