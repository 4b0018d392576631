"""Files of SGLang's expert-distribution recorder: which mode wrote them, their records, and slots back to experts.

Array letters: R layer row (every layer of the model), P physical slot, E expert, T token, W recorded width.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.routing import RoutedModel
from moesim.trace.source_files import check_ranks, files_in, whole
from moesim.trace.torch_file import integers, is_torch_file, keys_of, load_torch, names_in

ANY_PT = re.compile(r".*\.pt")
_MARKS = ("logical_count", "last_physical_to_logical_map", "global_physical_count", "topk_ids_of_layer")


@dataclass(frozen=True, slots=True)
class Record:
    """One forward pass of one rank, as recorded, and the map of its slots; `place` names it in messages."""

    forward_pass: int
    rank: int
    fields: Mapping[str, Any]
    map_RP: NDArray[Any] | None
    place: str


def mode_of(path: Path) -> str | None:
    """stat, per_pass or per_token: what the keys in the first file of `path` say; None for anything else."""
    files = files_in(path, ANY_PT)
    if not files or not is_torch_file(files[0]):
        return None
    marks = names_in(files[0], _MARKS)
    if "logical_count" in marks:
        return "stat"
    if "topk_ids_of_layer" in marks:
        return "per_token"
    return "per_pass" if "global_physical_count" in marks else None


def load_dump(path: Path, mode: str) -> Mapping[str, Any]:
    """The dict in one file of `mode`; raises InputError saying which keys it has and which mode they speak of."""
    dump = keys_of(load_torch(path), path)
    found, records = None, dump.get("records")
    if "logical_count" in dump:
        found = "stat"
    elif isinstance(records, list):
        first = records[0] if records else {}
        found = "per_token" if isinstance(first, dict) and "topk_ids_of_layer" in first else "per_pass"
        found = mode if not records else found
    if found != mode:
        meant = (
            f"the recorder's mode was {found}: --format sglang_{found}" if found else "no mode of SGLang writes these"
        )
        raise InputError(f"{path} is not a {mode} dump: its keys are {', '.join(sorted(dump)[:8])}; {meant}")
    return dump


def read_records(path: Path, mode: str) -> Iterator[Record]:
    """Every record of all files of a folder (or of one file), each (pass, rank) once.

    Raises InputError for a repeated pass, a rank whose file is missing from a folder, and damaged records.
    """
    seen: dict[tuple[int, int], str] = {}
    ranks: dict[int, None] = {}
    files = files_in(path, ANY_PT)
    if not files:
        raise InputError(f"{path} holds no .pt file of SGLang's recorder")
    for file in files:
        dump = load_dump(file, mode)
        given = dump.get("last_physical_to_logical_map")
        map_RP = None if given is None else integers(given, 2, f"{file}: last_physical_to_logical_map")
        for number, fields in enumerate(dump["records"]):
            place = f"{file} record {number}"
            if not isinstance(fields, dict):
                raise InputError(f"{place} is a {type(fields).__name__}; expected a dict")
            record = Record(
                whole(fields, "forward_pass_id", place), whole(fields, "rank", place), fields, map_RP, place
            )
            key = (record.forward_pass, record.rank)
            if key in seen:
                raise InputError(f"{place}: pass {key[0]} of rank {key[1]} was already in {seen[key]}")
            seen[key] = place
            ranks[record.rank] = None
            yield record
    if not seen:
        raise InputError(f"{path} holds no records; nothing was routed between start and dump")
    if path.is_dir():
        check_ranks(ranks, str(path))


def slot_map(record: Record, num_rows: int, num_slots: int | None, model: RoutedModel | None) -> NDArray[np.int64]:
    """Expert of every physical slot [R, P]; without a map the slots are the experts, if the model has that many.

    `num_slots` is None where the record does not say it. Raises InputError where the ids cannot be undone.
    """
    map_RP = record.map_RP
    if map_RP is None:
        if model is None or num_slots != model.num_experts:
            raise InputError(
                f"{record.place} holds physical slot ids and the file has no last_physical_to_logical_map; "
                f"record again with a server that writes it, or give --model if there were no redundant experts"
            )
        return np.tile(np.arange(model.num_experts), (num_rows, 1))
    if len(map_RP) != num_rows or num_slots not in (None, map_RP.shape[1]):
        raise InputError(
            f"{record.place}: last_physical_to_logical_map has shape {map_RP.shape}, "
            f"but the record has {num_rows} layers and {num_slots} slots"
        )
    if map_RP.size == 0 or map_RP.min() < 0 or map_RP.max() >= 2**24:
        raise InputError(f"{record.place}: last_physical_to_logical_map must hold expert ids >= 0")
    return map_RP.astype(np.int64)


def experts_of(slots_RP: NDArray[np.int64], model: RoutedModel | None, source: str) -> int:
    """Number of logical experts: the model's, else the largest in the map + 1; InputError when the map has more."""
    largest = int(slots_RP.max()) + 1
    if model is not None and largest > model.num_experts:
        raise InputError(f"{source} maps slots to {largest} experts, but {model.name} has {model.num_experts}")
    return largest if model is None else model.num_experts


def decoder(slots_RP: NDArray[np.int64], source: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """A function from slot ids [R, T, W] to expert ids, -1 kept; it raises InputError for an id that is no slot."""
    num_rows, num_slots = slots_RP.shape
    padded_RP = np.concatenate([slots_RP, np.full((num_rows, 1), -1)], axis=1).astype(np.int32)
    row_R11 = np.arange(num_rows)[:, None, None]

    def decode(ids_RTW: NDArray[Any]) -> NDArray[Any]:
        if ids_RTW.size and (ids_RTW.min() < -1 or ids_RTW.max() >= num_slots):
            raise InputError(f"{source} has slot ids {ids_RTW.min()}..{ids_RTW.max()}; slots are 0..{num_slots - 1}")
        decoded: NDArray[Any] = padded_RP[row_R11, ids_RTW]
        return decoded

    return decode
