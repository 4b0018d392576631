"""A file that appears under its name only when it is whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def appearing_file(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes become `path` when the block ends without an exception; else nothing is left behind.

    Where the system can (Linux, most of its file systems) the file has no name until then, so that a killed program leaves
    nothing either; elsewhere it is called `path`.partial until then. Raises OSError.
    """
    temporary = path.with_name(path.name + ".partial")
    unnamed = _unnamed_file(path.parent)
    try:
        with open(temporary, "wb") if unnamed is None else unnamed as stream:
            yield stream
            stream.flush()
            if unnamed is not None:
                temporary.unlink(missing_ok=True)
                _give_name(unnamed, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _unnamed_file(folder: Path) -> BinaryIO | None:
    """A new file without a name in `folder`, None where the system has no such files or none that can be named later."""
    flag = getattr(os, "O_TMPFILE", 0)
    with suppress(OSError):
        if flag and Path("/proc/self/fd").is_dir():
            return os.fdopen(os.open(folder, flag | os.O_RDWR, 0o666), "wb")
    return None


def _give_name(stream: BinaryIO, path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:  # a folder's number makes Python call linkat, which follows /proc's link to the file itself
        os.link(f"/proc/self/fd/{stream.fileno()}", path.name, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)
