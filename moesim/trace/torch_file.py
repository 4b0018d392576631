"""Files that torch.save wrote: plain containers and tensors only, proven to fit the file before anything is built.

The only module of the package beside `capture` that imports torch, and it does so when a file is read.
"""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # what torch raises where it refuses to build; nothing is unpickled here
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.trace.zip_file import damaged, opened_zip

_MOST_MEMBERS = 10_000_000
_MOST_PICKLE_BYTES = 2**31
_NEEDS_TORCH = "needs torch to be read: pip install torch (the CPU build is enough)"


def is_torch_file(path: Path) -> bool:
    """Whether `path` is the zip archive of a pickle and its tensors."""
    with open(path, "rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return False
    with opened_zip(path, _reading) as archive:
        return _pickle_member(archive) is not None


def names_in(path: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """Which of `names` stand as text in the file's pickle, without building anything of it."""
    with opened_zip(path, _reading) as archive:
        member = _pickle_member(archive)
        if member is None or member.file_size > min(_MOST_PICKLE_BYTES, path.stat().st_size):
            return ()
        with _reading(path), archive.open(member) as stream:
            content = stream.read(member.file_size)
    return tuple(name for name in names if name.encode() in content)


def load_torch(path: Path) -> Any:
    """What `path` holds: containers, numbers, text and torch tensors that lie in the file (mapped, not read).

    Raises InputError for code or other objects in the pickle (nothing of it is run), for an archive that is
    compressed, truncated or claims more than the file has, and where torch is not installed.
    """
    _check_sizes(path)
    try:
        import torch
    except ImportError:
        raise InputError(f"{path} {_NEEDS_TORCH}") from None
    try:
        with _reading(path):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        reason = " ".join(str(error).split())[-160:]
        raise InputError(
            f"{path} holds something else than tensors and plain containers, which is never loaded ({reason})"
        ) from None


def integers(value: Any, num_dims: int, what: str) -> NDArray[Any]:
    """A tensor of integers in `num_dims` dimensions as an array on the same memory; else InputError naming `what`."""
    array: NDArray[Any] | None = None
    if hasattr(value, "is_contiguous") and not value.is_sparse and value.is_contiguous():
        array = value.detach().numpy() if str(value.dtype) in ("torch.int32", "torch.int64", "torch.int16") else None
    if array is None or array.ndim != num_dims:
        got = f"{getattr(value, 'dtype', type(value).__name__)} {tuple(getattr(value, 'shape', ()))}"
        raise InputError(f"{what} must be a tensor of integers in {num_dims} dimensions, got {got}")
    return array


def keys_of(value: Any, path: Path) -> Mapping[str, Any]:
    """`value` if it is a mapping with text keys; else InputError."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{path} holds a {type(value).__name__}; expected the dict of a recorder")
    return value


def _check_sizes(path: Path) -> None:
    """Refuse compressed members (torch writes none), and members that together claim more than the file has."""
    with opened_zip(path, _reading) as archive:
        members = archive.infolist()
    if len(members) > _MOST_MEMBERS:
        raise InputError(f"{path} has {len(members)} members, more than {_MOST_MEMBERS}")
    if any(
        member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size for member in members
    ):
        raise InputError(f"{path} has compressed members, which torch.save never writes; it is refused unread")
    total, size = sum(member.file_size for member in members), path.stat().st_size
    if total > size:
        raise InputError(f"{path} claims {total} bytes inside, but has {size}; the file lies about its size")
    member = next((one for one in members if one.filename.endswith("/data.pkl")), None)
    if member is None:
        raise InputError(f"{path} is not a file of torch.save: it has no data.pkl")
    if member.file_size > _MOST_PICKLE_BYTES:
        raise InputError(f"{path}: its pickle has {member.file_size} bytes, more than {_MOST_PICKLE_BYTES}")


def _pickle_member(archive: zipfile.ZipFile) -> zipfile.ZipInfo | None:
    for member in archive.infolist():
        if member.filename.endswith("/data.pkl") and member.compress_type == zipfile.ZIP_STORED:
            return member
    return None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what zipfile and torch raise on a damaged file into one sentence; what torch refuses to build passes."""
    try:
        yield
    except UnpicklingError:
        raise
    except Exception as error:  # torch's unpickler raises whatever its steps happen to raise on damaged input
        raise damaged(path, "a torch file", error) from None


def whole_numbers(values: Any, what: str) -> NDArray[np.int64]:
    """A list of whole numbers as an array; raises InputError for anything else."""
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise InputError(f"{what} must be a list of whole numbers, got {type(values).__name__}")
    return np.array(values, np.int64)
