"""Zip archives of others: opened, or refused in one sentence that names the file and its damage."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from moesim.errors import InputError

Reading = Callable[[Path], AbstractContextManager[None]]


@contextmanager
def opened_zip(path: Path, reading: Reading) -> Iterator[zipfile.ZipFile]:
    """The archive at `path`; `reading(path)` surrounds the read of its directory and turns errors into InputError."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    with reading(path):
        archive = zipfile.ZipFile(path)
    with archive:
        yield archive


def damaged(path: Path, what: str, error: Exception) -> InputError:
    """The error for a file that is not `what` ("an .npz file") or not whole."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return InputError(f"cannot read {path} as {what} ({reason}); it is truncated, damaged or not one")
