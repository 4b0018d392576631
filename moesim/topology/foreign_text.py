"""Files of other programs read within bounds: text, YAML of several documents, host lists."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from moesim.errors import InputError

MOST_BYTES = 64_000_000
MOST_HOSTS = 200_000
_DEEPEST = 40
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def read_text(path: Path) -> str:
    """The text of `path` without terminal codes; InputError for a missing, empty, binary or very large file."""
    try:
        with open(path, "rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {str(path)[:200]!r}: {error.strerror or error}") from None
    if len(content) > MOST_BYTES:
        raise InputError(f"{path} is larger than {MOST_BYTES} bytes, the most a topology may have")
    if not content.strip():
        raise InputError(f"{path} is empty; expected a topology")
    if b"\0" in content:
        raise InputError(f"{path} is not text; expected a topology")
    return _ANSI.sub("", content.decode("utf-8-sig", errors="replace"))


def yaml_documents(text: str, where: str) -> list[Any]:
    """All YAML (or JSON) documents of `text`; aliases, tags and depths that no such file has are refused."""
    try:
        depth = 0
        event: Any
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise InputError(f"{where} uses an alias; write the value out instead")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise InputError(f"{where} is nested more than {_DEEPEST} levels deep")
        return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{where} is not usable YAML ({reason}); it is truncated or damaged") from None


def hosts(text: str, where: str) -> list[str]:
    """The names in a Slurm host list, such as `n[01-04,7],login`.

    >>> hosts("n[08-10],x", "a test")
    ['n08', 'n09', 'n10', 'x']
    """
    names: list[str] = []
    for part in _split(text, where):
        for name in _expanded(part, where):
            names.append(name)
            if len(names) > MOST_HOSTS:
                raise InputError(f"{where}: {text[:60]!r} names more than {MOST_HOSTS} hosts")
    return names


def _split(text: str, where: str) -> Iterator[str]:
    """The parts between the commas outside brackets."""
    depth, part = 0, ""
    for letter in text.strip():
        depth += (letter == "[") - (letter == "]")
        if depth not in (0, 1):
            break
        if letter == "," and depth == 0:
            yield part.strip()
            part = ""
        else:
            part += letter
    if depth:
        raise InputError(f"{where}: {text[:60]!r} is not a host list; its brackets do not match")
    if part.strip():
        yield part.strip()


def _expanded(part: str, where: str) -> Iterator[str]:
    before, bracket, rest = part.partition("[")
    if not bracket:
        yield part
        return
    inside, _, after = rest.partition("]")
    for piece in inside.split(","):
        match = _RANGE.fullmatch(piece.strip())
        if match is None:
            raise InputError(f"{where}: {piece[:40]!r} in {part[:60]!r} is neither a number nor a range of numbers")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 <= last - first < MOST_HOSTS:
            raise InputError(f"{where}: the range {piece[:40]!r} is empty or has more than {MOST_HOSTS} hosts")
        for number in range(first, last + 1):
            yield from _expanded(f"{before}{number:0{len(match[1])}d}{after}", where)
