"""Public-domain text from installed Debian packages, cut into documents and split into train and held-out.

Three kinds of text that differ as requests to a server differ: scripture by chapter (sword-text-web),
novels by chapter (r-cran-janeaustenr) and a dictionary by entry (jargon-text).
"""

import gzip
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PACKAGE_FILES = {
    "sword-text-web": "usr/share/sword/modules/texts/ztext/engWEB2015eb",
    "r-cran-janeaustenr": "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb",
    "jargon-text": "usr/share/doc/jargon-text/jargon.txt.gz",
}
MIN_CHARACTERS = 200
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2014": "--", "\u00a0": " "})


@dataclass(frozen=True, slots=True)
class Document:
    """One chapter or dictionary entry: the package it comes from, its name there, its text."""

    package: str
    name: str
    text: str


class TextMissingError(Exception):
    """A text package is not installed; the message names the package and the command."""


def read_documents(root: Path = Path("/")) -> list[Document]:
    """All documents of the three packages installed under `root`, in the order of the packages' files.

    Raises TextMissingError when a package's file is absent.
    """
    documents = []
    for package, parts in _PARTS.items():
        path = root / PACKAGE_FILES[package]
        if not path.exists():
            raise TextMissingError(f"the text {path} is not there: install it with `apt-get install {package}`")
        for name, text in parts(path):
            tidied = tidy(text)
            if len(tidied) >= MIN_CHARACTERS:
                documents.append(Document(package, name, tidied))
    return documents


def tidy(text: str) -> str:
    """Plain quotes and dashes, one space between words, one newline between paragraphs."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.translate(_QUOTES)))
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


def split_documents(
    documents: list[Document], held_out_characters: int, seed: int
) -> tuple[list[Document], list[Document]]:
    """(train, held-out): about `held_out_characters` of every package are drawn by whole documents.

    The draw is seeded; train keeps the files' order, held-out the drawn order, packages mixed,
    as requests of different users arrive mixed.
    """
    generator = np.random.default_rng(seed)
    left = dict.fromkeys((document.package for document in documents), held_out_characters)
    drawn: list[int] = []
    for index in generator.permutation(len(documents)).tolist():
        package = documents[index].package
        if left[package] > 0:
            left[package] -= len(documents[index].text)
            drawn.append(index)
    drawn = [drawn[position] for position in generator.permutation(len(drawn)).tolist()]
    held_out = frozenset(drawn)
    train = [document for index, document in enumerate(documents) if index not in held_out]
    return train, [documents[index] for index in drawn]


def _scripture(folder: Path) -> Iterator[tuple[str, str]]:
    """Chapters of a SWORD zText module: zlib blocks of OSIS markup, block table of uint32 triples."""
    for testament in ("ot", "nt"):
        table = np.frombuffer((folder / f"{testament}.bzs").read_bytes(), "<u4").reshape(-1, 3)
        data = (folder / f"{testament}.bzz").read_bytes()
        blocks = (zlib.decompress(data[start : start + size]) for start, size, _ in table.tolist() if size)
        markup = b"".join(blocks).decode()
        markup = re.sub(r"<note\b.*?</note>|<title\b.*?</title>", " ", markup, flags=re.DOTALL)
        pieces = re.split(r'<chapter [^>]*?osisID="([^"]+)"[^>]*?/>', markup)
        for name, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            paragraphs = re.sub(r"<(?:div|lg)\b[^>]*>", "\n\n", re.split(r"<chapter [^>]*eID", piece)[0])
            yield name, re.sub(r"<[^>]*>", "", re.sub(r"<l\b[^>]*>", " ", paragraphs))


def _novels(path: Path) -> Iterator[tuple[str, str]]:
    """Chapters of the novels: zlib chunks, each one R character vector (XDR serialisation, version 3)."""
    data = path.read_bytes()
    while data:
        chunk = zlib.decompressobj()
        raw = chunk.decompress(data[4:])
        data = chunk.unused_data
        lines = _character_vector(raw)
        pieces = re.split(r"(?im)^(chapter [ivxl\d]+)\.?$", "\n".join(lines))
        for ordinal, piece in enumerate(pieces[2::2], start=1):
            yield f"{lines[0].title()} {ordinal}", piece


def _character_vector(raw: bytes) -> list[str]:
    header = 14 + 4 + int.from_bytes(raw[14:18]) + 4
    (length,) = struct.unpack_from(">I", raw, header)
    position, lines = header + 4, []
    for _ in range(length):
        _, size = struct.unpack_from(">Ii", raw, position)
        lines.append(raw[position + 8 : position + 8 + max(size, 0)].decode())
        position += 8 + max(size, 0)
    return lines


def _dictionary(path: Path) -> Iterator[tuple[str, str]]:
    """Entries of the dictionary's glossary: each starts with `   :headword:`; the list of headwords is left out."""
    text = gzip.decompress(path.read_bytes()).decode()
    glossary = text[text.index("\nGlossary\n") :].partition("\nAppendix")[0]
    pieces = re.split(r"(?m)^   :(?=[^:\n]+: )", glossary)
    for piece in pieces[1:]:
        yield piece.partition(":")[0], piece.partition("Table of Contents")[0]


_PARTS: dict[str, Callable[[Path], Iterator[tuple[str, str]]]] = {
    "sword-text-web": _scripture,
    "r-cran-janeaustenr": _novels,
    "jargon-text": _dictionary,
}
