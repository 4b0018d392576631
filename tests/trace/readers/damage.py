"""Damage to files: cut off, bytes lost, repeated or changed, lengths that lie, numbers and marks that do not belong there."""

import warnings
from collections.abc import Callable, Iterator

import numpy as np

from moesim.errors import InputError

_LENGTHS = (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", bytes(4), b"\0\0\0\x80")
_NUMBERS = (b"-1", b"99999999999", b"1e400", b"NaN", b"null", b"1.5")
_MARKS = (b"", b"{", b"[", b"]", b'"', b",", b"<", b">")


def damaged(content: bytes, count: int) -> Iterator[bytes]:
    """`count` variants of `content`, always the same ones."""
    rng = np.random.default_rng(7)
    digits = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
    marks = [place for place, byte in enumerate(content) if byte in b'",:{}[]<>=/']
    for number in range(count):
        start = int(rng.integers(1, len(content)))
        length = int(rng.integers(1, 40))
        end = min(start + length, len(content))
        kind = number % 6
        if kind == 0:
            yield content[:start]
        elif kind == 1:
            yield content[:start] + content[end:]
        elif kind == 2:
            yield content[:end] + content[start:]
        elif kind == 3:
            yield content[:start] + _LENGTHS[length % 4] + content[start + 4 :]
        else:
            places, words = (digits, _NUMBERS) if kind == 4 else (marks, _MARKS)
            place = places[start % len(places)] if places else start
            yield content[:place] + words[length % len(words)] + content[place + 1 :]


def outcome(call: Callable[[], object]) -> bool:
    """Whether `call` was refused; anything but an answer or one short sentence passes on as the error it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            call()
        except InputError as error:
            assert 20 <= len(str(error)) < 800
            return True
    return False
