"""A safetensors file: its header, proven to fit the file, and its tensors' bytes as a stream.

The bytes are moved without being read as numbers, so every data type passes, bf16, fp8 and packed 4-bit ones too;
that is why this does not go through the safetensors package, whose numpy door knows neither. The format: 8 bytes of
little-endian header length, a JSON object `{name: {dtype, shape, data_offsets}}`, then the data
(https://github.com/huggingface/safetensors, "Format").
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from moesim.errors import InputError

_LONGEST_HEADER = 100_000_000  # the reference implementation's own limit
_BLOCK = 16 * 2**20
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a shard: `start` and `stop` are its bytes' places after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        """Size of its data, bytes."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Shard:
    """A safetensors file that was opened and found whole: tensors in the order of their data."""

    path: Path
    data_start: int
    tensors: tuple[TensorEntry, ...]
    metadata: dict[str, str]


def read_shard(path: Path) -> Shard:
    """The header of `path`; raises InputError where the file is not what its header says."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(_LONGEST_HEADER, size - 8):
                raise InputError(f"{path} is not a safetensors file: its header claims {length} bytes of {size}")
            header = json.loads(stream.read(length))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the safetensors header is not JSON ({str(error)[:80]})") from None
    if not isinstance(header, dict):
        raise InputError(f"{path}: the safetensors header is a {type(header).__name__}, not an object")
    metadata = header.pop("__metadata__", {})
    entries = sorted((_entry(path, name, value) for name, value in header.items()), key=lambda entry: entry.start)
    _check_whole(path, entries, size - 8 - length)
    return Shard(path, 8 + length, tuple(entries), metadata if isinstance(metadata, dict) else {})


def _entry(path: Path, name: str, value: Any) -> TensorEntry:
    try:
        shape = tuple(int(n) for n in value["shape"])
        start, stop = (int(n) for n in value["data_offsets"])
        entry = TensorEntry(name, str(value["dtype"]), shape, start, stop)
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: tensor {name[:80]!r} lacks a usable dtype, shape or data_offsets") from None
    if min(shape, default=0) < 0 or entry.dtype not in _BITS:
        raise InputError(f"{path}: tensor {name[:80]!r} has dtype {entry.dtype[:20]!r} and shape {shape}; not readable")
    expected = math.prod(shape) * _BITS[entry.dtype]
    if expected % 8 or expected // 8 != entry.num_bytes:
        raise InputError(
            f"{path}: tensor {name[:80]!r} of {entry.dtype} {shape} needs {expected // 8} bytes; the header gives it "
            f"{entry.num_bytes}"
        )
    return entry


def _check_whole(path: Path, entries: list[TensorEntry], num_bytes: int) -> None:
    place = 0
    for entry in entries:
        if entry.start != place:
            raise InputError(f"{path}: tensor {entry.name[:80]!r} starts at byte {entry.start}, expected {place}")
        place = entry.stop
    if place != num_bytes:
        raise InputError(f"{path}: the tensors end at byte {place} of {num_bytes}; the file is cut off or damaged")


def header_bytes(tensors: list[TensorEntry], metadata: dict[str, str]) -> bytes:
    """Length and JSON header of a file that holds `tensors` in this order, padded to 8 bytes as the reference does."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    for entry in tensors:
        place = [entry.start, entry.stop]
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": place}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def blocks(stream: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    """Bytes start..stop of a stream, at most 16 MiB at a time."""
    stream.seek(start)
    left = stop - start
    while left:
        block = stream.read(min(left, _BLOCK))
        if not block:
            raise InputError(f"{stream.name} ended {left} bytes early while it was read")
        left -= len(block)
        yield block
