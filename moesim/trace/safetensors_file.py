"""Files of the safetensors format, mapped rather than read: every size is held against the file's before it is used.

Read here and not by the `safetensors` package because numpy has no bfloat16, which routers' logits are often stored in.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError

_MOST_HEADER_BYTES = 100_000_000  # as the format's own library
_TYPES = {
    **{"I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "<u1", "U16": "<u2", "U32": "<u4", "U64": "<u8"},
    **{"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "BOOL": "<u1"},
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies in its file and what it is; `dtype` is the format's own word for it."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


def is_safetensors(path: Path) -> bool:
    """Whether `path` is a file that starts with the length of a JSON object and that object."""
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        head = stream.read(9)
    return len(head) == 9 and head[8:] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def read_entries(path: Path) -> Mapping[str, TensorEntry]:
    """Name -> place of every tensor; raises InputError for a file that is truncated, damaged or lies about a size."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(size - 8, _MOST_HEADER_BYTES):
            raise InputError(
                f"{path} claims a header of {length} bytes in a file of {size}; it is truncated or not safetensors"
            )
        text = stream.read(length)
    try:
        header = json.loads(text)
        return {name: _entry(record, 8 + length) for name, record in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} has a damaged header ({str(error)[:100]}); it is not safetensors") from None


def read_tensor(path: Path, name: str, entry: TensorEntry) -> NDArray[Any]:
    """The tensor on the file's bytes, bfloat16 widened to float32; raises InputError where it is outside the file."""
    dtype = np.dtype(_TYPES[entry.dtype])
    count = math.prod(entry.shape)
    if entry.offset + count * dtype.itemsize > path.stat().st_size:
        raise InputError(
            f"{path}: tensor {name!r} of shape {list(entry.shape)} ends beyond the file; it is truncated or lies about its size"
        )
    if count == 0:
        return np.zeros(entry.shape, dtype)
    values: NDArray[Any] = np.memmap(path, dtype, "r", entry.offset, entry.shape)
    if entry.dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _entry(record: Mapping[str, Any], start: int) -> TensorEntry:
    shape, (first, end), dtype = tuple(record["shape"]), record["data_offsets"], record["dtype"]
    if dtype not in _TYPES:
        raise ValueError(f"the type {str(dtype)[:20]!r} is not known")
    whole = all(type(value) is int and value >= 0 for value in (*shape, first, end))
    if not whole or end - first != math.prod(shape) * np.dtype(_TYPES[dtype]).itemsize:
        raise ValueError(f"a tensor of shape {str(shape)[:60]} claims bytes {first} to {end}")
    return TensorEntry(dtype, shape, start + first)
