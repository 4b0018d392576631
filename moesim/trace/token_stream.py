"""Tokens as synthetic routers see them: sequences that dwell on topics, neighbours alike, popularity drifting.

A token is a sequence number and a position. All of it is computed from these and the seed, so a stream can be cut in
batches anywhere. docs/ROUTERS.md states the law. Array letters: T token, D width of a query, Z topic.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.trace.counter_noise import bell, below, root_key, subkey, unit

_TOPIC, _MAIN, _PHRASE, _OWN, _WORD, _TASK = range(6)  # what a key is for
_LONGEST_SEQUENCE = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """What the tokens of a stream have in common. Shares and chances are 0..1, `*_tokens` mean lengths in tokens.

    structure: share of a query's variance that is its topic's; the rest is noise. repeat: share of that noise which the
    tokens of one phrase have in common. focus: chance that a new topic is the sequence's main one. topic_skew: Zipf
    exponent of topic popularity. tasks: kinds of sequences, each with a popularity order of its own; task: only that
    one (-1: sequence by sequence); common: chance that a topic is drawn in an order which all tasks share. drift: new
    popularity orders per step. hot: standard deviation of the gate's bias, in units of its logits'. width: numbers of a
    query where the router does not fix it.
    """

    structure: float = 0.5
    topics: int = 64
    topic_skew: float = 0.7
    topic_tokens: float = 64.0
    focus: float = 0.3
    repeat: float = 0.3
    phrase_tokens: float = 3.0
    tasks: int = 1
    task: int = -1
    common: float = 0.0
    drift: float = 0.0
    hot: float = 0.2
    width: int = 32
    sequence_tokens: int = 512

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} must be {low:g}..{high:g}, got {value}")
        if self.task >= self.tasks:
            raise InputError(f"task={self.task} must be below tasks={self.tasks}; -1 mixes all tasks")


MOST_TOPICS = 2**16
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("structure", 0, 1),
    ("topics", 1, MOST_TOPICS),
    ("topic_skew", 0, 20),
    ("topic_tokens", 1, 1e9),
    ("focus", 0, 1),
    ("repeat", 0, 1),
    ("phrase_tokens", 1, 1e9),
    ("tasks", 1, 2**10),
    ("task", -1, 2**10),
    ("common", 0, 1),
    ("drift", 0, 1e3),
    ("hot", 0, 100),
    ("width", 1, 2**12),
    ("sequence_tokens", 1, _LONGEST_SEQUENCE),
)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Some tokens of one step: `step`, the place `first` of the first among the step's tokens, and per token its
    sequence, position in it, and the step in which that sequence began (all int64).
    """

    step: int
    first: int
    sequence_T: NDArray[np.int64]
    position_T: NDArray[np.int64]
    born_T: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sequence_T)

    def part(self, start: int, stop: int) -> "TokenBatch":
        """Tokens start..stop-1 of this batch."""
        cut = slice(start, stop)
        return TokenBatch(self.step, self.first + start, self.sequence_T[cut], self.position_T[cut], self.born_T[cut])


@dataclass(frozen=True, slots=True)
class TokenStream:
    """All tokens of one seed and one set of knobs: computed when asked for, nothing is kept."""

    knobs: Knobs
    seed: int

    def topics(self, batch: TokenBatch) -> NDArray[np.int64]:
        """[T] topic of each token."""
        knobs, epoch_T = self.knobs, batch.born_T * self.knobs.drift
        epochs, place_T = np.unique(np.floor(epoch_T).astype(np.int64), return_inverse=True)
        later = np.concatenate([epochs, epochs + 1]).reshape(2, -1)
        order_EZ = np.stack(
            [[self._order(task, int(epoch)) for task in range(knobs.tasks + 1)] for epoch in later.ravel()]
        )
        share_Z = np.arange(1, knobs.topics + 1, dtype=np.float64) ** -knobs.topic_skew
        topic_T = np.empty(len(batch), np.int64)
        _topics(
            batch.sequence_T,
            batch.position_T,
            place_T.astype(np.int64),
            epoch_T - np.floor(epoch_T),
            order_EZ.reshape(2, len(epochs), knobs.tasks + 1, knobs.topics),
            np.cumsum(share_Z) / share_Z.sum(),
            self._keys(0),
            1.0 / knobs.topic_tokens,
            knobs.focus,
            knobs.task,
            knobs.common,
            topic_T,
        )
        return topic_T

    def queries(self, batch: TokenBatch, layer: int, width: int | None = None) -> NDArray[np.float32]:
        """[T, D] queries at MoE ordinal `layer`: every number has mean 0 and variance 1 over all topics."""
        width = width or self.knobs.width
        centre_ZD = _centres(self.seed, self.knobs.topics, width)
        of_topic, left = self.knobs.structure**0.5, 1.0 - self.knobs.structure
        scales = (of_topic, (left * self.knobs.repeat) ** 0.5, (left * (1.0 - self.knobs.repeat)) ** 0.5)
        query_TD = np.empty((len(batch), width), np.float32)
        _queries(
            batch.sequence_T,
            batch.position_T,
            self.topics(batch) if of_topic else np.zeros(len(batch), np.int64),
            centre_ZD,
            self._keys(layer),
            1.0 / self.knobs.phrase_tokens,
            np.array(scales),
            query_TD,
        )
        return query_TD

    def words(self, batch: TokenBatch, vocabulary: int) -> NDArray[np.int64]:
        """[T] vocabulary ids, Zipf; with chance `structure` in the order of the token's topic, else in a common one."""
        word_T = np.empty(len(batch), np.int64)
        share = np.arange(1, vocabulary + 1, dtype=np.float64) ** -1.0
        shift_Z = np.random.default_rng([self.seed, 2]).integers(0, vocabulary, self.knobs.topics)
        _words(
            batch.sequence_T,
            batch.position_T,
            self.topics(batch),
            shift_Z,
            np.cumsum(share) / share.sum(),
            self._keys(0),
            self.knobs.structure,
            word_T,
        )
        return word_T

    def _order(self, task: int, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, 3, task, epoch]).permutation(self.knobs.topics)

    def _keys(self, layer: int) -> NDArray[np.uint64]:
        """One key for each purpose; only a token's own noise differs from layer to layer."""
        return np.array([root_key(self.seed, 4, use, layer if use == _OWN else 0) for use in range(6)])


@functools.lru_cache(maxsize=4)
def _centres(seed: int, num_topics: int, width: int) -> NDArray[np.float64]:
    """[Z, D] the topics' places; remembered, since every batch asks for them."""
    centre_ZD = np.random.default_rng([seed, 1]).standard_normal((num_topics, width))
    centre_ZD.setflags(write=False)
    return centre_ZD


@njit(cache=True, nogil=True)
def _renewed(key, position, chance):  # type: ignore[no-untyped-def]  # types are numba's
    """The latest position at or before `position` where something began anew; position 0 always does."""
    while position > 0 and unit(subkey(key, position)) >= chance:
        position -= 1
    return position


@njit(cache=True, nogil=True)
def _topics(  # type: ignore[no-untyped-def]  # types are numba's
    sequence_T, position_T, place_T, later_T, order_EZ, summed_Z, keys, chance, focus, task, common, topic_T
):
    num_tasks, num_topics = order_EZ.shape[2] - 1, order_EZ.shape[3]
    for token in range(len(sequence_T)):
        sequence = sequence_T[token]
        own = subkey(keys[_TOPIC], sequence)
        began = subkey(subkey(own, _renewed(own, position_T[token], chance)), 1)
        draw = subkey(began, 0)
        if unit(began) < focus:
            draw = subkey(keys[_MAIN], sequence)
        kind = task if task >= 0 else below(subkey(keys[_TASK], sequence), num_tasks)
        later = 1 if unit(subkey(draw, 1)) < later_T[token] else 0
        if unit(subkey(draw, 3)) < common:
            kind = num_tasks
        rank = min(np.searchsorted(summed_Z, unit(subkey(draw, 2)), side="right"), num_topics - 1)
        topic_T[token] = order_EZ[later, place_T[token], kind, rank]


@njit(cache=True, nogil=True)
def _queries(  # type: ignore[no-untyped-def]  # types are numba's
    sequence_T, position_T, topic_T, centre_ZD, keys, chance, scales, query_TD
):
    of_topic, of_phrase, of_own = scales
    for token in range(query_TD.shape[0]):
        sequence, position, topic = sequence_T[token], position_T[token], topic_T[token]
        for d in range(query_TD.shape[1]):
            query_TD[token, d] = of_topic * centre_ZD[topic, d]
        if of_phrase > 0.0:
            phrases = subkey(keys[_PHRASE], sequence)
            phrase = subkey(phrases, _renewed(phrases, position, chance)) ^ keys[_PHRASE]
            for d in range(query_TD.shape[1]):
                query_TD[token, d] += of_phrase * bell(subkey(phrase, d))
        if of_own > 0.0:
            own = subkey(subkey(keys[_OWN], sequence), position)
            for d in range(query_TD.shape[1]):
                query_TD[token, d] += of_own * bell(subkey(own, d))


@njit(cache=True, nogil=True)
def _words(  # type: ignore[no-untyped-def]  # types are numba's
    sequence_T, position_T, topic_T, shift_Z, summed_V, keys, structure, word_T
):
    vocabulary = len(summed_V)
    for token in range(len(word_T)):
        key = subkey(subkey(keys[_WORD], sequence_T[token]), position_T[token])
        rank = min(np.searchsorted(summed_V, unit(subkey(key, 0)), side="right"), vocabulary - 1)
        shift = shift_Z[topic_T[token]] if unit(subkey(key, 1)) < structure else 0
        word_T[token] = (rank + shift) % vocabulary
