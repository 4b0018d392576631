"""Which tokens stand on which rank in which step of synthetic routing, computed for any stretch of a step.

Array letters: T token, R rank.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moesim.trace.token_stream import TokenBatch

BLOCK_TOKENS = 2**16  # tokens routed at once; groups of tokens that are routed together never cross such blocks
Mode = Literal["decode", "prefill", "train"]


def step_rng(seed: int, batch: TokenBatch) -> np.random.Generator:
    """The generator of routers that draw by turn, for the block of a step that begins with this batch."""
    return np.random.default_rng([seed, batch.step, batch.first] if batch.first else [seed, batch.step])


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDeal:
    """`num_tokens` tokens in `num_steps` steps on `num_ranks` ranks, as even as can be, rank by rank within a step.

    Prefill, train: a rank's tokens follow each other through sequences of `sequence_tokens`, from step to step. Decode:
    a rank runs as many sequences as it has tokens, one token of each a step. Sequence i is on rank i mod R. `repeated`:
    every step holds the tokens of step 0.
    """

    num_tokens: int
    num_steps: int
    num_ranks: int
    sequence_tokens: int
    mode: Mode = "prefill"
    repeated: bool = False

    def step_tokens(self, step: int) -> int:
        """Tokens of a step."""
        return self.first_token(step + 1) - self.first_token(step)

    def first_token(self, step: int) -> int:
        """Tokens of all steps before `step`."""
        return self.num_tokens * step // self.num_steps

    def blocks(self, step: int, block_tokens: int = BLOCK_TOKENS) -> Iterator[tuple[int, int]]:
        """(first, stop) of the stretches a step is routed in."""
        tokens = self.step_tokens(step)
        return ((first, min(first + block_tokens, tokens)) for first in range(0, tokens, block_tokens))

    def ranks(self, step: int, first: int, stop: int) -> NDArray[np.int32]:
        """[T] ranks of tokens first..stop-1 of a step, rising."""
        ends_R = self._rank_starts(step)[1:]
        return np.searchsorted(ends_R, np.arange(first, stop), side="right").astype(np.int32)

    def batch(self, step: int, first: int, stop: int) -> TokenBatch:
        """Tokens first..stop-1 of a step."""
        asked, step = step, 0 if self.repeated else step
        rank_T = self.ranks(step, first, stop).astype(np.int64)
        starts_R = self._rank_starts(step)
        place_T = np.arange(first, stop) - starts_R[rank_T]
        if self.mode == "decode":
            turn, position = divmod(step, self.sequence_tokens)
            running_R = np.diff(starts_R)
            sequence_T = rank_T + self.num_ranks * (place_T + running_R.max() * turn)
            born_T = np.full_like(rank_T, step - position)
            return TokenBatch(asked, first, sequence_T, np.full_like(rank_T, position), born_T)
        begun_T = place_T + self._tokens_before(step)[rank_T]
        turn_T, position_T = np.divmod(begun_T, self.sequence_tokens)
        per_step = self.num_tokens / (self.num_steps * self.num_ranks)
        born_T = np.minimum((turn_T * self.sequence_tokens / per_step).astype(np.int64), step)
        return TokenBatch(asked, first, rank_T + self.num_ranks * turn_T, position_T, born_T)

    def _rank_starts(self, step: int) -> NDArray[np.int64]:
        return self.step_tokens(step) * np.arange(self.num_ranks + 1, dtype=np.int64) // self.num_ranks

    def _tokens_before(self, step: int) -> NDArray[np.int64]:
        """[R] tokens that each rank had in all earlier steps. Steps have one of two sizes, so two terms suffice."""
        small = self.num_tokens // self.num_steps
        num_large = self.first_token(step) - step * small
        ramp_R = np.arange(self.num_ranks + 1, dtype=np.int64)
        counts = ((small + 1, num_large), (small, step - num_large))
        tokens_R: NDArray[np.int64] = sum(np.diff(size * ramp_R // self.num_ranks) * count for size, count in counts)  # type: ignore[assignment]  # two terms, so never the int 0
        return tokens_R
