"""Reader of TensorRT-LLM's expert statistics: a folder of meta_info.json and one safetensors file per rank.

Tensors are named `<iteration>_<layer>` and hold counts [E] of the rank's tokens; layers are model layer indices.
Array letters: S iteration, L layer, E expert.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from moesim.errors import InputError
from moesim.routing import RoutedModel
from moesim.trace.count_table import CountTable, count_trace
from moesim.trace.layer_rule import layers_of_rows
from moesim.trace.rows import TraceRows
from moesim.trace.safetensors_file import TensorEntry, is_safetensors, read_entries, read_tensor
from moesim.trace.source_files import head_of, listed, origin_of, rank_files, read_json, whole

_META = "meta_info.json"
_RANK = re.compile(r"rank(\d{1,6})\.safetensors")
_NAME = re.compile(r"(\d{1,9})_(\d{1,5})")
_MOST_CELLS = 2**27


def recognises(path: Path) -> bool:
    """Whether `path` is a folder with a meta_info.json that says `num_experts_per_token`."""
    return path.is_dir() and b'"num_experts_per_token"' in head_of(path / _META)


def read(
    path: Path, *, model: RoutedModel | None = None, key: str | None = None, layers: Sequence[int] | None = None
) -> TraceRows:
    """Counts of all ranks together, an iteration a step; every (iteration, layer, rank) must be there.

    Raises InputError naming what is missing.
    """
    if key is not None:
        raise InputError(f"{path} names its tensors itself; leave out --key")
    if not (path / _META).is_file():
        raise InputError(f"{path} has no {_META}; give the folder that EXPERT_STATISTIC_PATH named")
    meta = read_json(path / _META)
    if not isinstance(meta, dict):
        raise InputError(f"{path / _META} holds a {type(meta).__name__}; expected an object")
    num_experts, top_k = (whole(meta, name, _META, 1, 2**24) for name in ("num_experts", "num_experts_per_token"))
    files = rank_files(path, _RANK, what="rank<r>.safetensors")
    entries = {rank: _entries(file, num_experts) for rank, file in files.items()}
    iterations, stated = _complete(path, entries)
    if len(iterations) * len(stated) * num_experts > _MOST_CELLS:
        raise InputError(f"{path}: {len(iterations)} iterations x {len(stated)} layers x {num_experts} are too many")
    load_SLE = np.zeros((len(iterations), len(stated), num_experts), np.int64)
    for rank, file in files.items():
        for (iteration, layer), (name, entry) in entries[rank].items():
            load_SLE[iteration - iterations[0], stated.index(layer)] += read_tensor(file, name, entry)
    asked = None if layers is None else tuple(layers)
    table = CountTable(
        load_SRE=load_SLE,
        layer_of_row=layers_of_rows(len(stated), model=model, asked=asked, stated=tuple(stated), source=str(path)),
        source=str(path),
        origin=origin_of(path, [path / _META, *files.values()]),
        recorder="TensorRT-LLM expert statistic",
        top_k=top_k,
    )
    return count_trace(table, model)


def _entries(file: Path, num_experts: int) -> dict[tuple[int, int], tuple[str, TensorEntry]]:
    """(iteration, layer) -> tensor."""
    if not is_safetensors(file):
        raise InputError(f"{file} is not a safetensors file; it is truncated or damaged")
    found = {}
    for name, entry in read_entries(file).items():
        match = _NAME.fullmatch(name)
        if match is None or not entry.dtype.startswith("I") or entry.shape != (num_experts,):
            raise InputError(
                f"{file}: tensor {name[:40]!r} is {entry.dtype} {list(entry.shape)}; "
                f"expected <iteration>_<layer> with {num_experts} counts"
            )
        found[int(match[1]), int(match[2])] = (name, entry)
    if not found:
        raise InputError(f"{file} has no tensors; no iteration of EXPERT_STATISTIC_ITER_RANGE was reached")
    return found


def _complete(path: Path, entries: Mapping[int, Mapping[tuple[int, int], object]]) -> tuple[list[int], list[int]]:
    """All iterations and layers, ascending; InputError where one is missing on some rank, or iterations have a gap."""
    iterations = sorted({iteration for found in entries.values() for iteration, _ in found})
    layers = sorted({layer for found in entries.values() for _, layer in found})
    gaps = iterations[-1] - iterations[0] + 1 - len(iterations)
    if gaps:
        absent = [number for number, after in pairwise(iterations) if after > number + 1]
        raise InputError(f"{path}: {gaps} iterations are missing, the first after {absent[0]}; they must be contiguous")
    missing = [
        (iteration, layer, rank)
        for iteration in iterations
        for layer in layers
        for rank, found in entries.items()
        if (iteration, layer) not in found
    ]
    if missing:
        raise InputError(f"{path} misses {listed('(iteration, layer, rank)', missing)}; record again or copy all files")
    return iterations, layers
