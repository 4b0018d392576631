"""Reader of omni-infer's activation dumps: per rank and step a text file, one line a MoE layer, counts of local slots.

A folder has the files of all ranks; or a server's log has them as `[dump activation]` lines. Slots become experts by the
placement pattern (an .npy of 0 and 1 [rank, MoE layer, expert]) in the same folder: a rank's slots are its experts in
ascending order. Without a pattern the experts must lie in order, one copy each.
Array letters: S step, G rank, L MoE layer, X slot of a rank, E expert.
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
from moesim.trace.omni_dumps import DUMP_FILE, LOG_MARK, read_dump, read_log, read_pattern
from moesim.trace.rows import TraceRows
from moesim.trace.source_files import check_ranks, files_in, head_of, listed, origin_of

_LINE = re.compile(rb"\d+(?:\t\d+)*\t?\r?\n")
Loads = Mapping[tuple[int, int], NDArray[np.int64]]


def recognises(path: Path) -> bool:
    """Whether `path` is a log with `[dump activation]`, or its (first file's) first line is whole numbers and tabs."""
    heads = [head_of(file) for file in files_in(path, DUMP_FILE)[:1]]
    return any(LOG_MARK in head or _LINE.match(head) is not None for head in heads)


def read(
    path: Path, *, model: RoutedModel | None = None, key: str | None = None, layers: Sequence[int] | None = None
) -> TraceRows:
    """Counts of all ranks together, a recorded step a step. `model` or `layers` say which layers. Raises InputError.

    One rank's file alone gives that rank's counts, and the notes say so.
    """
    if key is not None:
        raise InputError(f"{path} is read whole; leave out --key")
    files = files_in(path, DUMP_FILE)
    if not files:
        raise InputError(f"{path} holds no activation_counts_recordstep_<n>_rank_<r>.txt")
    is_log = LOG_MARK in head_of(files[0])
    loads: Loads = read_log(files[0]) if is_log else {_place(file): read_dump(file) for file in files}
    shapes = sorted({load_LX.shape for load_LX in loads.values()})
    if len(shapes) > 1:
        raise InputError(f"{path}: ranks have tables of shapes {shapes[:4]} [layers, slots]; a file is truncated")
    steps = sorted({step for step, _ in loads})
    pattern_GLE = read_pattern(path if path.is_dir() else path.parent)
    if pattern_GLE is None:
        pattern_GLE = _in_order(path, loads, shapes[0], model)
    notes = _check_ranks(path, loads, steps, len(pattern_GLE), is_whole=path.is_dir() or is_log)
    load_SLE = np.zeros((len(steps), *pattern_GLE.shape[1:]), np.int64)
    for (step, rank), load_LX in loads.items():
        _add(load_SLE[steps.index(step)], load_LX, pattern_GLE[rank], f"{path} rank {rank}")
    asked = None if layers is None else tuple(layers)
    if model is not None and load_SLE.shape[2] != model.num_experts:
        raise InputError(
            f"{path}: the pattern has {load_SLE.shape[2]} experts, but {model.name} has {model.num_experts}"
        )
    table = CountTable(
        load_SRE=load_SLE,
        layer_of_row=layers_of_rows(load_SLE.shape[1], model=model, asked=asked, stated=None, source=str(path)),
        source=str(path),
        origin=origin_of(path, files),
        recorder="omni-infer activation dump",
        notes=notes,
    )
    return count_trace(table, model)


def _place(file: Path) -> tuple[int, int]:
    """(step, rank) in a dump's name; (0, 0) for another name."""
    match = DUMP_FILE.fullmatch(file.name)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _in_order(path: Path, loads: Loads, shape: tuple[int, ...], model: RoutedModel | None) -> NDArray[Any]:
    """The pattern without redundancy: rank r has the experts from r * slots on."""
    num_layers, num_slots = shape
    if model is None or model.num_experts % num_slots:
        raise InputError(
            f"{path} holds counts of physical slots; put the placement pattern (.npy) they were recorded under beside it"
        )
    num_ranks = model.num_experts // num_slots
    if any(rank >= num_ranks for _, rank in loads):
        raise InputError(
            f"{path} has more slots than {model.name} has experts; put the placement pattern (.npy) beside it"
        )
    rank_E = np.arange(model.num_experts) // num_slots
    is_here_GE = rank_E == np.arange(num_ranks)[:, None]
    return np.repeat(is_here_GE[:, None], num_layers, axis=1)


def _check_ranks(path: Path, loads: Loads, steps: Sequence[int], num_ranks: int, *, is_whole: bool) -> tuple[str, ...]:
    found = sorted({rank for _, rank in loads})
    if found[-1] >= num_ranks:
        raise InputError(f"{path} has rank {found[-1]}, but the placement pattern has {num_ranks} ranks")
    if not is_whole:
        return (f"rank {found[0]} of {num_ranks} alone was counted",) if num_ranks > 1 else ()
    check_ranks(dict.fromkeys(found), str(path), num_ranks)
    missing = [(step, rank) for step in steps for rank in found if (step, rank) not in loads]
    if missing:
        raise InputError(f"{path} misses {listed('(step, rank)', missing)}; copy the files of all ranks")
    return ()


def _add(load_LE: NDArray[np.int64], load_LX: NDArray[np.int64], is_here_LE: NDArray[Any], place: str) -> None:
    """Add the counts of one rank's slots to their experts."""
    if len(is_here_LE) < len(load_LX) or (is_here_LE.sum(axis=1) != load_LX.shape[1])[: len(load_LX)].any():
        raise InputError(
            f"{place} has {load_LX.shape[0]} layers of {load_LX.shape[1]} slots, the placement pattern "
            f"{len(is_here_LE)} layers of {is_here_LE.sum(axis=1)[:4].tolist()}; it is another run's pattern"
        )
    for layer, load_X in enumerate(load_LX):
        load_LE[layer, np.flatnonzero(is_here_LE[layer])] += load_X
