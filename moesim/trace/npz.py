"""Arrays of an .npz file, each refused before memory is taken when it lies about its size or holds objects."""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from moesim.errors import InputError, unknown_name
from moesim.provenance import sha256_of_file
from moesim.trace.zip_file import damaged, opened_zip

MOST_ARRAY_BYTES = 2**32  # unpacked; a larger recording belongs into Parquet, which is read in batches
_MOST_MEMBERS = 10_000
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, LZMAError, OSError, EOFError, ValueError, KeyError, TypeError, SyntaxError),
    *(RuntimeError, NotImplementedError, OverflowError, MemoryError, RecursionError, LookupError, tokenize.TokenError),
)


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """What an array of the file says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def is_npz(path: Path) -> bool:
    """Whether `path` is a file that starts as a zip archive does and has at least one array inside."""
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return False
    with opened_zip(path, _reading) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def read_headers(path: Path) -> Mapping[str, ArrayHeader]:
    """Name -> shape and type of every array in the file, in its order, each checked against the size it really has."""
    with opened_zip(path, _reading) as archive:
        members = archive.infolist()
        if len(members) > _MOST_MEMBERS:
            raise InputError(f"{path} has {len(members)} arrays, more than {_MOST_MEMBERS}")
        headers: dict[str, ArrayHeader] = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in headers:
                raise InputError(f"{path} holds the array {name!r} twice")
            headers[name] = _read_header(archive, member, path)
    return headers


def read_array(path: Path, name: str) -> NDArray[Any]:
    """The array `name` of the file; raises InputError where it is missing, damaged, too large or made of objects."""
    headers = read_headers(path)
    if name not in headers:
        raise unknown_name(f"array in {path}", name, headers)
    header = headers[name]
    size = math.prod(header.shape) * header.dtype.itemsize
    if size > MOST_ARRAY_BYTES:
        raise InputError(
            f"{path}: array {name!r} unpacks to {size} bytes, more than {MOST_ARRAY_BYTES}; cut it in parts"
        )
    with opened_zip(path, _reading) as archive, _reading(path), archive.open(f"{name}.npy") as stream:
        values: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
    return values


def read_integers(path: Path, name: str, num_dims: int) -> NDArray[Any]:
    """The array `name` if it holds integers that fit int64 in `num_dims` dimensions, as stored; else InputError."""
    values = read_array(path, name)
    if values.ndim != num_dims or values.dtype.kind not in "iu":
        raise InputError(f"{path}: {name} must be integers in {num_dims} dimensions, got {values.dtype} {values.shape}")
    if values.dtype.kind == "u" and values.size and int(values.max()) > np.iinfo(np.int64).max:
        raise InputError(f"{path}: {name} holds {int(values.max())}, which no int64 can")
    return values


def read_layers(path: Path) -> tuple[int, ...] | None:
    """Model layer indices the file states in its array `layers`, None where it has none."""
    return tuple(read_integers(path, "layers", 1).tolist()) if "layers" in read_headers(path) else None


def file_origin(path: Path) -> str:
    """The file's name and the digest of its bytes, for the header of what is made of it."""
    return f"{path.name} sha256:{sha256_of_file(path)}"


def _read_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> ArrayHeader:
    with _reading(path), archive.open(member) as stream:
        shape, dtype = _parse_header(stream)
        header_bytes = stream.tell()
    if dtype.hasobject:
        raise InputError(
            f"{path}: {member.filename!r} holds Python objects, which are never loaded; save plain numbers"
        )
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size != member.file_size - header_bytes:
        raise InputError(
            f"{path}: {member.filename!r} claims shape {shape} of {dtype}, {size} bytes, "
            f"but holds {member.file_size - header_bytes}; the file lies about its size or is truncated"
        )
    return ArrayHeader(shape, dtype)


def _parse_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(stream)
    else:
        raise ValueError(f"npy format version {version} is not known")
    return shape, dtype


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what numpy and zipfile raise on a damaged file into one sentence; only calls of theirs stand inside."""
    try:
        yield
    except _UNREADABLE as error:
        raise damaged(path, "an .npz file", error) from None
