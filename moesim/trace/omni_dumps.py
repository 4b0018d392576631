"""What omni-infer writes about experts: dumps of activations, their lines in logs, and placement patterns.

Array letters: G rank, L MoE layer, X slot of a rank, E expert.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError

DUMP_FILE = re.compile(r"activation_counts_recordstep_(\d{1,12})_rank_(\d{1,7})\.txt")
LOG_MARK = b"[dump activation]"
_LOG_LINE = re.compile(
    r"\[dump activation\] (?:prefill|decode) step (\d{1,12}) in rank (\d{1,7}) for layer (\d{1,5}) "
    r"get (\d{1,7}) experts data:\s*([\d\s]*)"
)
_MOST_BYTES = 2**28


def read_dump(file: Path) -> NDArray[np.int64]:
    """Counts [L, X] in one file of one rank and step; raises InputError where lines are no counts of one length."""
    rows = [
        _counts(line.split(), f"{file} line {number}") for number, line in enumerate(_lines(file), 1) if line.strip()
    ]
    if not rows or len({len(row) for row in rows}) > 1:
        raise InputError(f"{file} has lines of {sorted({len(row) for row in rows})[:4]} counts; it is truncated")
    return np.array(rows, np.int64)


def read_log(file: Path) -> dict[tuple[int, int], NDArray[np.int64]]:
    """(step, rank) -> counts [L, X] of the `[dump activation]` lines of a log; raises InputError for a missing layer."""
    found: dict[tuple[int, int], dict[int, list[int]]] = {}
    for number, line in enumerate(_lines(file), 1):
        match = _LOG_LINE.search(line)
        if match is None:
            continue
        row = _counts(match[5].split(), f"{file} line {number}")
        if len(row) != int(match[4]):
            raise InputError(f"{file} line {number} claims {match[4]} experts, but has {len(row)} counts")
        found.setdefault((int(match[1]), int(match[2])), {})[int(match[3])] = row
    num_layers = max(max(rows) for rows in found.values()) + 1 if found else 0
    for (step, rank), rows in found.items():
        missing = [layer for layer in range(num_layers) if layer not in rows]
        if missing or len({len(row) for row in rows.values()}) > 1:
            raise InputError(f"{file}: step {step} of rank {rank} misses layers {missing[:8]} or has ragged counts")
    if not found:
        raise InputError(f"{file} has no whole [dump activation] line")
    return {place: np.array([rows[layer] for layer in range(num_layers)], np.int64) for place, rows in found.items()}


def read_pattern(folder: Path) -> NDArray[Any] | None:
    """The one placement pattern [G, L, E] in a folder; None without; raises InputError for several or a damaged one."""
    files = sorted(folder.glob("*.npy"))
    if not files:
        return None
    if len(files) > 1:
        raise InputError(
            f"{folder} has {len(files)} .npy files; leave the placement pattern of the recording alone there"
        )
    file = files[0]
    try:
        pattern: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy's parser of the header raises what Python's tokenizer and parser do
        raise InputError(f"{file} is no placement pattern ({str(error)[:100]}); it is truncated or damaged") from None
    if pattern.ndim != 3 or pattern.dtype.kind not in "iub" or pattern.size == 0 or pattern.nbytes > _MOST_BYTES:
        raise InputError(f"{file} must be 0 and 1 [ranks, MoE layers, experts], got {pattern.dtype} {pattern.shape}")
    if pattern.min() < 0 or pattern.max() > 1:
        raise InputError(f"{file} must be 0 and 1, got values {pattern.min()}..{pattern.max()}")
    return np.asarray(pattern != 0)


def _lines(file: Path) -> Sequence[str]:
    size = file.stat().st_size
    if size > _MOST_BYTES:
        raise InputError(f"{file} has {size} bytes, more than {_MOST_BYTES}; cut it in parts")
    return file.read_text(encoding="utf-8", errors="replace").splitlines()


def _counts(words: Sequence[str], place: str) -> list[int]:
    if not all(word.isascii() and word.isdecimal() and len(word) < 16 for word in words):
        raise InputError(f"{place} is not a line of counts: {' '.join(words)[:60]!r}")
    return [int(word) for word in words]
