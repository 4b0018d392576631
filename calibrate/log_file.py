"""Reading log files line by line and JSON that may be cut off, with bounds on what is taken into memory."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moesim.errors import InputError

HEAD_BYTES = 2**16
LONGEST_LINE = 2**16
LARGEST_LOG_BYTES = 2**30
LARGEST_JSON_BYTES = 256 * 2**20


def read_head(path: Path) -> bytes:
    """The first 64 KiB of a file, of its content where it is gzip."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    return _inflate(path, HEAD_BYTES) if head[:2] == b"\x1f\x8b" else head


def read_lines(path: Path) -> Iterator[tuple[str, bool]]:
    """Lines without their ends, and whether each one was ended; an endless line is cut at 64 KiB.

    Raises InputError for a file above 1 GiB: a log of that size is not one.
    """
    size = path.stat().st_size
    if size > LARGEST_LOG_BYTES:
        raise InputError(
            f"{path} has {size} bytes; logs up to {LARGEST_LOG_BYTES} are read, give the part with the rows"
        )
    with open(path, "rb") as file:
        while line := file.readline(LONGEST_LINE):
            yield line.decode("utf-8", "replace").rstrip("\r\n"), line.endswith(b"\n")


def read_text(path: Path) -> str:
    """A whole file (inflated where it is gzip), for JSON. Raises InputError above 256 MiB."""
    if read_raw_start(path) == b"\x1f\x8b":
        content = _inflate(path, LARGEST_JSON_BYTES + 1)
    else:
        with open(path, "rb") as file:
            content = file.read(LARGEST_JSON_BYTES + 1)
    if len(content) > LARGEST_JSON_BYTES:
        raise InputError(f"{path} holds more than {LARGEST_JSON_BYTES} bytes of JSON; record or cut fewer steps")
    return content.decode("utf-8", "replace")


def read_raw_start(path: Path) -> bytes:
    """The first two bytes as they lie on disk."""
    with open(path, "rb") as file:
        return file.read(2)


def _inflate(path: Path, limit: int) -> bytes:
    with gzip.open(path) as stream:
        try:
            return stream.read(limit)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path} is a damaged gzip file ({error}); copy it again") from None


def array_items(text: str, start: int) -> tuple[list[Any], bool]:
    """Items of the JSON array whose `[` is at or after `start`, up to where the text breaks off; whether it was closed."""
    decoder = json.JSONDecoder()
    at = text.find("[", start)
    items: list[Any] = []
    if at < 0:
        return items, False
    at = _skip(text, at + 1)
    while at < len(text) and text[at] != "]":
        try:
            item, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return items, False
        items.append(item)
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
    return items, at < len(text)


def value_after(text: str, key: str) -> Any:
    """The JSON value of the first `"key":` in a text that may be cut off; None where there is none or it is not whole."""
    at = text.find(f'"{key}"')
    colon = text.find(":", at)
    if at < 0 or colon < 0:
        return None
    try:
        return json.JSONDecoder().raw_decode(text, _skip(text, colon + 1))[0]
    except (ValueError, RecursionError):
        return None


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def finite(text: Any) -> float | None:
    """A number printed in a log; None for N/A, nan, inf, a blank, a text or a negative one."""
    if isinstance(text, bool) or text is None:
        return None
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if 0.0 <= number < 1e30 else None
