"""Files of the GGUF format, as far as tables of float32 need it: keys, and tensors mapped on the file's bytes.

Every length in the header is held against the size of the file before anything of that length is read or counted.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError

MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY, _FLOAT32 = 8, 9, 0


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Scalars and texts among the keys (arrays are skipped), and the float32 tensors, outermost dimension first."""

    keys: Mapping[str, Any]
    tensors: Mapping[str, NDArray[np.float32]]


def read_gguf(path: Path) -> GgufFile:
    """The file's keys and float32 tensors; raises InputError for one that is truncated, damaged or lies."""
    try:
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            cursor = _Cursor(content)
            keys = _read_keys(cursor)
            places = [_read_place(cursor) for _ in range(cursor.num_tensors)]
            start = cursor.at
    except (struct.error, ValueError, UnicodeDecodeError, OSError) as error:
        raise InputError(
            f"{path} is not a readable GGUF file ({str(error)[:120]}); it is truncated or damaged"
        ) from None
    alignment = keys.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 2**16:
        raise InputError(f"{path}: general.alignment is {str(alignment)[:20]!r}")
    start = -(-start // alignment) * alignment
    tensors = {name: _tensor(path, name, shape, start + at) for name, shape, kind, at in places if kind == _FLOAT32}
    return GgufFile(keys, tensors)


class _Cursor:
    """A place in the file that moves forward and never beyond its end."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content, self.at = content, 0
        if self.take(4) != MAGIC:
            raise ValueError("it does not start with GGUF")
        version = self.number("I")
        if version not in (2, 3):
            raise ValueError(f"version {version} is not 2 or 3")
        self.num_tensors, self.num_keys = self.number("Q"), self.number("Q")
        self.check_count(self.num_tensors, 24, "tensors")
        self.check_count(self.num_keys, 13, "keys")

    def take(self, size: int) -> bytes:
        if size > len(self._content) - self.at:
            raise ValueError(f"{size} bytes at {self.at} reach beyond the end at {len(self._content)}")
        self.at += size
        return self._content[self.at - size : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8")

    def check_count(self, count: int, least_bytes: int, what: str) -> None:
        """Refuse a count of things that could not fit into the rest of the file."""
        if count * least_bytes > len(self._content) - self.at:
            raise ValueError(f"{count} {what} cannot be in {len(self._content)} bytes")


def _read_keys(cursor: _Cursor) -> dict[str, Any]:
    keys = {}
    for _ in range(cursor.num_keys):
        name, kind = cursor.text(), cursor.number("I")
        if kind == _ARRAY:
            _skip_array(cursor)
        elif kind == _STRING:
            keys[name] = cursor.text()
        elif kind in _SCALARS:
            keys[name] = cursor.number(_SCALARS[kind])
        else:
            raise ValueError(f"the key {name[:40]!r} has the unknown type {kind}")
    return keys


def _skip_array(cursor: _Cursor) -> None:
    kind, count = cursor.number("I"), cursor.number("Q")
    if kind == _STRING:
        cursor.check_count(count, 8, "texts")
        for _ in range(count):
            cursor.take(cursor.number("Q"))
    elif kind in _SCALARS:
        cursor.take(count * struct.calcsize("<" + _SCALARS[kind]))
    else:
        raise ValueError(f"an array of type {kind}")


def _read_place(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape with the outermost dimension first, type and offset of one tensor."""
    name, num_dims = cursor.text(), cursor.number("I")
    if not 1 <= num_dims <= 4:
        raise ValueError(f"the tensor {name[:40]!r} has {num_dims} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(num_dims))[::-1]
    return name, shape, cursor.number("I"), cursor.number("Q")


def _tensor(path: Path, name: str, shape: tuple[int, ...], offset: int) -> NDArray[np.float32]:
    count = math.prod(shape)
    if offset + 4 * count > path.stat().st_size:
        raise InputError(
            f"{path}: tensor {name[:60]!r} of shape {list(shape)} ends beyond the file; it is truncated or lies about its size"
        )
    if count == 0:
        return np.zeros(shape, np.float32)
    values: NDArray[np.float32] = np.memmap(path, "<f4", "r", offset, shape)
    return values
