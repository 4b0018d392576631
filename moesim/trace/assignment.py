"""Which step and rank computes which token: pure rules from the lengths of sequences, no file and no clock.

Array letters: T token, in the order of the sequences one after the other.
"""

import heapq
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError, unknown_name

Mode = Literal["decode", "prefill", "train"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Step (int64) and rank (int32) of every token, and the number of steps."""

    step_T: NDArray[np.int64]
    rank_T: NDArray[np.int32]
    num_steps: int


def assign(lengths: NDArray[np.int64], *, num_ranks: int, mode: Mode, tokens_per_rank: int | None) -> Assignment:
    """Deal sequences of these lengths (tokens) to ranks: sequence i to rank i mod num_ranks.

    Fewer sequences than ranks: all tokens in order are first cut into num_ranks consecutive chunks, equal up to one
    token, which are dealt as sequences. Prefill and train: a rank's sequences, one after the other, are cut every
    tokens_per_rank tokens, one piece a step. Decode: a rank runs tokens_per_rank sequences at a time, one token of
    each per step, and starts its next sequence in the step after one ends. Without tokens_per_rank all is one step.
    Nothing is reused. Raises InputError for numbers below 1 and for an unknown mode.
    """
    if mode not in get_args(Mode):
        raise unknown_name("mode", mode, get_args(Mode))
    if num_ranks < 1 or (tokens_per_rank is not None and tokens_per_rank < 1):
        raise InputError(f"num_ranks and tokens_per_rank must be >= 1, got {num_ranks} and {tokens_per_rank}")
    lengths = np.asarray(lengths, np.int64)
    if len(lengths) < num_ranks:
        lengths = _equal_chunks(int(lengths.sum()), num_ranks)
    rank_T = np.repeat((np.arange(len(lengths)) % num_ranks).astype(np.int32), lengths)
    if tokens_per_rank is None:
        step_T = np.zeros(len(rank_T), np.int64)
    elif mode == "decode":
        step_T = _ramps(_decode_starts(lengths, num_ranks, tokens_per_rank), lengths)
    else:
        step_T = _ramps(_offsets_in_rank(lengths, num_ranks), lengths) // tokens_per_rank
    return Assignment(step_T, rank_T, int(step_T.max(initial=-1)) + 1)


def _equal_chunks(num_tokens: int, num_chunks: int) -> NDArray[np.int64]:
    chunks = np.full(num_chunks, num_tokens // num_chunks, np.int64)
    chunks[: num_tokens % num_chunks] += 1
    return chunks


def _ramps(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """starts[i], starts[i]+1, ... lengths[i] numbers for every i, one after the other."""
    firsts = np.cumsum(lengths) - lengths
    ramps: NDArray[np.int64] = np.arange(lengths.sum(), dtype=np.int64) + np.repeat(starts - firsts, lengths)
    return ramps


def _offsets_in_rank(lengths: NDArray[np.int64], num_ranks: int) -> NDArray[np.int64]:
    """Tokens of the same rank before each sequence."""
    rounds = -(-len(lengths) // num_ranks)
    grid = np.zeros(rounds * num_ranks, np.int64)
    grid[: len(lengths)] = lengths
    by_round = grid.reshape(rounds, num_ranks)
    offsets: NDArray[np.int64] = (np.cumsum(by_round, axis=0) - by_round).reshape(-1)[: len(lengths)]
    return offsets


def _decode_starts(lengths: NDArray[np.int64], num_ranks: int, running: int) -> NDArray[np.int64]:
    """The step in which each sequence starts, when every rank runs at most `running` at a time."""
    starts = np.zeros(len(lengths), np.int64)
    for rank in range(min(num_ranks, len(lengths))):
        ends: list[int] = []
        for sequence in range(rank, len(lengths), num_ranks):
            if len(ends) == running:
                starts[sequence] = heapq.heappop(ends)
            heapq.heappush(ends, int(starts[sequence] + lengths[sequence]))
    return starts
