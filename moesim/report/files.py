"""Files that appear under their name only when they are whole."""

import os
from collections.abc import Mapping
from pathlib import Path

from moesim.errors import InputError


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write each (name, content) into `folder` by temporary name and rename; returns the paths sorted by name.

    Raises InputError in one sentence where the folder or a file in it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_write_whole(folder / name, files[name]) for name in sorted(files)]
    except OSError as error:
        raise InputError(
            f"cannot write a report into {folder}: {error.strerror or error}; choose another --out"
        ) from None


def _write_whole(path: Path, content: bytes) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return path
