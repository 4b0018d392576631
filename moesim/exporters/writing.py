"""Writing several files: all of them appear whole under their names, or none does."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from moesim.errors import InputError
from moesim.exporters.export import Content


def write_all(folder: Path, files: Mapping[str, Content]) -> list[Path]:
    """Write every (name, content) into `folder`, by temporary names; returns the paths in the order given.

    Where anything fails, files that were there before are there again, unchanged; raises InputError in one sentence.
    """
    paths = [folder / name for name in files]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            if path.is_dir():
                raise IsADirectoryError(0, f"{path.name} is a folder")
        partial = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in paths}
        try:
            for path, content in zip(paths, files.values(), strict=True):
                if isinstance(content, bytes):
                    partial[path].write_bytes(content)
                else:
                    content(partial[path])
            _put_in_place(partial)
        finally:
            for temporary in partial.values():
                _remove(temporary)
    except OSError as error:
        raise InputError(
            f"cannot write {', '.join(files)[:200]} into {folder}: {error.strerror or error}; choose another --out"
        ) from None
    return paths


def _put_in_place(partial: Mapping[Path, Path]) -> None:
    """Rename all, or restore what was there."""
    kept: dict[Path, Path] = {}
    done: list[Path] = []
    try:
        for path, temporary in partial.items():
            if path.exists():
                old = path.with_name(f".{path.name}.{os.getpid()}.old")
                path.replace(old)
                kept[path] = old
            temporary.replace(path)
            done.append(path)
    except OSError:
        for path in done:
            _remove(path)
        for path, old in kept.items():
            old.replace(path)
        raise
    for old in kept.values():
        old.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
