"""Byte-pair tokeniser: 256 bytes plus learnt merges, deterministic, made for a few thousand symbols."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

_WORD = re.compile(r" ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\s")


@dataclass(frozen=True, slots=True)
class BytePairs:
    """Merges in the order learnt: merge i joins two symbols into symbol 256 + i."""

    merges: tuple[tuple[int, int], ...]
    _rank: dict[tuple[int, int], int] = field(init=False, compare=False, repr=False)
    _known: dict[str, list[int]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rank", {pair: rank for rank, pair in enumerate(self.merges)})
        object.__setattr__(self, "_known", {})

    @property
    def num_symbols(self) -> int:
        """Bytes and merges together."""
        return 256 + len(self.merges)

    def encode(self, text: str) -> list[int]:
        """Symbols of `text`, in order."""
        symbols: list[int] = []
        for word in _WORD.findall(text):
            if word not in self._known:
                self._known[word] = self._encode_word(word)
            symbols.extend(self._known[word])
        return symbols

    def decode(self, symbols: Iterable[int]) -> str:
        """The text whose symbols these are."""
        spelt = [bytes([byte]) for byte in range(256)]
        for first, second in self.merges:
            spelt.append(spelt[first] + spelt[second])
        return b"".join(spelt[symbol] for symbol in symbols).decode()

    def _encode_word(self, word: str) -> list[int]:
        symbols = list(word.encode())
        while len(symbols) > 1:
            pair = min(pairwise(symbols), key=lambda pair: self._rank.get(pair, len(self._rank)))
            if pair not in self._rank:
                break
            symbols = _join(symbols, pair, 256 + self._rank[pair])
        return symbols


def learn_byte_pairs(texts: Iterable[str], num_symbols: int) -> BytePairs:
    """Merges the most frequent pair again and again until there are `num_symbols` symbols (or no pair is left).

    Ties go to the pair with the smaller symbols, so the result depends on the texts alone.
    """
    counts = Counter(word for text in texts for word in _WORD.findall(text))
    words = [list(word.encode()) for word in counts]
    count_of_word = list(counts.values())
    count_of_pair: Counter[tuple[int, int]] = Counter()
    words_of_pair: defaultdict[tuple[int, int], dict[int, None]] = defaultdict(dict)
    for index, symbols in enumerate(words):
        for pair in pairwise(symbols):
            count_of_pair[pair] += count_of_word[index]
            words_of_pair[pair][index] = None
    merges: list[tuple[int, int]] = []
    while 256 + len(merges) < num_symbols and count_of_pair:
        best = min(count_of_pair, key=lambda pair: (-count_of_pair[pair], pair))
        for index in words_of_pair.pop(best):
            before, after = words[index], _join(words[index], best, 256 + len(merges))
            for pair in pairwise(before):
                count_of_pair[pair] -= count_of_word[index]
            for pair in pairwise(after):
                count_of_pair[pair] += count_of_word[index]
                words_of_pair[pair][index] = None
            words[index] = after
        del count_of_pair[best]
        merges.append(best)
    return BytePairs(tuple(merges))


def _join(symbols: list[int], pair: tuple[int, int], joined: int) -> list[int]:
    out: list[int] = []
    position = 0
    while position < len(symbols):
        if tuple(symbols[position : position + 2]) == pair:
            out.append(joined)
            position += 2
        else:
            out.append(symbols[position])
            position += 1
    return out
