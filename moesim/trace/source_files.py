"""Files of a recording on disk: one file or a folder of one file per rank, their digests, and text read within bounds."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moesim.errors import InputError
from moesim.provenance import sha256_of_file

MOST_JSON_BYTES = 2**29
MOST_LINE_BYTES = 2**27
HEAD_BYTES = 2**16
_MOST_FILES = 100_000


def files_in(path: Path, pattern: re.Pattern[str]) -> list[Path]:
    """`path` itself where it is a file, else the files directly in the folder whose whole name matches, sorted."""
    if path.is_file():
        return [path]
    files = sorted(file for file in path.iterdir() if pattern.fullmatch(file.name) and file.is_file())
    if len(files) > _MOST_FILES:
        raise InputError(f"{path} has {len(files)} files, more than {_MOST_FILES}")
    return files


def rank_files(path: Path, pattern: re.Pattern[str], *, what: str) -> dict[int, Path]:
    """Rank -> file, by the number that `pattern` has as its group, for all ranks 0..most.

    A single file keeps the rank in its name, 0 where it has none. Raises InputError naming the ranks whose file is
    missing, or `what` where there is none at all.
    """
    files: dict[int, Path] = {}
    for file in files_in(path, pattern):
        match = pattern.fullmatch(file.name)
        files[int(match[1]) if match else 0] = file
    if not files:
        raise InputError(f"{path} holds no {what}")
    if not path.is_file():
        check_ranks(files, str(path))
    return dict(sorted(files.items()))


def check_ranks(found: Mapping[int, Any], source: str, num_ranks: int | None = None) -> None:
    """Raise InputError naming the ranks of 0..num_ranks-1 (absent: 0..the largest found) that are not in `found`."""
    wanted = range(max(found) + 1 if num_ranks is None else num_ranks)
    missing = [rank for rank in wanted if rank not in found] if len(wanted) < 2**20 else []
    if missing or len(wanted) >= 2**20:
        raise InputError(
            f"{source}: {len(found)} rank files of {len(wanted)}; missing {listed('rank', missing)}; "
            f"copy the files of all ranks into one folder"
        )


def listed(noun: str, values: Sequence[Any], most: int = 8) -> str:
    """`values` for a message, the first few of them: "rank 1, 3 and 12 more"."""
    shown = ", ".join(str(value) for value in values[:most])
    return f"{noun} {shown}" + (f" and {len(values) - most} more" if len(values) > most else "")


def origin_of(path: Path, files: Sequence[Path]) -> str:
    """Name and digest of what was read, for the header of what is made of it."""
    if len(files) == 1 and files[0] == path:
        return f"{path.name} sha256:{sha256_of_file(path)}"
    digest = hashlib.sha256("".join(f"{file.name} {sha256_of_file(file)}\n" for file in files).encode())
    return f"{path.name}, {len(files)} files, sha256:{digest.hexdigest()}"


def head_of(path: Path, size: int = HEAD_BYTES) -> bytes:
    """The first bytes of a file; nothing of a folder."""
    if not path.is_file():
        return b""
    with open(path, "rb") as stream:
        return stream.read(size)


def read_json(path: Path) -> Any:
    """The JSON in `path`; raises InputError where it is too large, damaged or not JSON."""
    size = path.stat().st_size
    if size > MOST_JSON_BYTES:
        raise InputError(
            f"{path} has {size} bytes of JSON, more than {MOST_JSON_BYTES}; save one answer a line (JSONL)"
        )
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({_first_line(error)}); it is truncated or damaged") from None


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of every line of a JSON-lines file, empty lines left out; raises InputError naming the line."""
    with open(path, "rb") as stream:
        number = 0
        while line := stream.readline(MOST_LINE_BYTES + 1):
            number += 1
            place = f"{path} line {number}"
            if len(line) > MOST_LINE_BYTES:
                raise InputError(f"{place} is longer than {MOST_LINE_BYTES} bytes; it is no JSON-lines file")
            if line.isspace():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{place} is not JSON ({_first_line(error)}); it is truncated or damaged") from None
            if not isinstance(value, dict):
                raise InputError(f"{place} holds a {type(value).__name__}; expected an object")
            yield place, value


def whole(record: Mapping[str, Any], key: str, place: str, least: int = 0, most: int = 2**31 - 1) -> int:
    """The whole number under `key`; raises InputError where it is missing, another type or out of range."""
    value = record.get(key)
    if type(value) is not int or not least <= value <= most:
        raise InputError(f"{place}: {key} must be a whole number of {least}..{most}, got {str(value)[:40]!r}")
    return value


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
