"""Hypothesis strategies for routing: small recordings with every optional column present or absent, and their files.

Array letters: L layer, T token, K top-k, W row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from moesim.routing import RoutingTrace, TraceInfo
from moesim.trace.rows import CountRows, TokenRows, TraceRows
from moesim.trace.store import open_trace, write_trace

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Recording:
    """A token-level trace as plain arrays: tokens sorted by step and rank, experts [L, T, K], weights or None."""

    info: TraceInfo
    step_T: Array
    rank_T: Array
    sequence_T: Array | None
    experts_LTK: Array
    weights_LTK: Array | None

    def rows(self, rows_per_batch: int = 16) -> TraceRows:
        """The recording as the rows of a file, in small batches."""
        return TraceRows(self.info, self._batches(rows_per_batch))

    def write(self, path: Path) -> RoutingTrace:
        """The recording as a file."""
        write_trace(self.rows(), path)
        return open_trace(path)

    def _batches(self, size: int) -> Iterator[TokenRows]:
        for step in range(self.info.num_steps):
            token_T = np.flatnonzero(self.step_T == step)
            for row, layer in enumerate(self.info.layers):
                for start in range(0, len(token_T), size):
                    yield self._batch(row, layer, token_T[start : start + size])

    def _batch(self, row: int, layer: int, at: Array) -> TokenRows:
        return TokenRows(
            self.step_T[at].astype(np.int32),
            np.full(len(at), layer, np.int16),
            self.rank_T[at].astype(np.int32),
            at.astype(np.int64),
            self.experts_LTK[row, at].astype(np.int32),
            None if self.weights_LTK is None else self.weights_LTK[row, at].astype(np.float16),
            None if self.sequence_T is None else self.sequence_T[at].astype(np.int32),
        )


def recording_of(
    lengths: list[int],
    *,
    num_layers: int = 2,
    num_experts: int = 8,
    top_k: int = 2,
    with_weights: bool = False,
    with_sequences: bool = True,
    pads: bool = False,
    seed: int = 0,
) -> Recording:
    """Random routing of sequences of these lengths, as one step of one rank."""
    rng, num_tokens = np.random.default_rng(seed), sum(lengths)
    shape = (num_layers, num_tokens, top_k)
    experts_LTK = np.argsort(rng.random((num_layers, num_tokens, num_experts)), axis=2)[:, :, :top_k].astype(np.int32)
    if pads:
        kept_LT = rng.integers(0, top_k + 1, shape[:2])
        experts_LTK[np.arange(top_k) >= kept_LT[:, :, None]] = -1
    info = TraceInfo(
        level="token",
        num_experts=num_experts,
        top_k=top_k,
        layers=tuple(range(1, 2 * num_layers, 2)),
        num_tokens=num_tokens,
        has_weights=with_weights,
        has_sequences=with_sequences,
        origin="random",
        recorder="test",
    )
    weights_LTK = rng.random(shape).astype(np.float16) if with_weights else None
    sequence_T = np.repeat(np.arange(len(lengths)), lengths) if with_sequences else None
    return Recording(info, np.zeros(num_tokens, int), np.zeros(num_tokens, int), sequence_T, experts_LTK, weights_LTK)


def with_own_deal(recording: Recording, num_ranks: int, num_steps: int, seed: int = 0) -> Recording:
    """The same tokens, recorded on these ranks and steps at random."""
    rng, count = np.random.default_rng(seed), recording.info.num_tokens
    step_T, rank_T = rng.integers(0, num_steps, count), rng.integers(0, num_ranks, count)
    order = np.lexsort((rank_T, step_T))
    info = recording.info.model_copy(update={"num_ranks": num_ranks, "num_steps": num_steps})
    return Recording(
        info, step_T[order], rank_T[order], recording.sequence_T, recording.experts_LTK, recording.weights_LTK
    )


sequence_lengths = st.lists(st.integers(1, 12), min_size=1, max_size=9)


@st.composite
def recordings(draw: st.DrawFn) -> Recording:
    """Any small recording: 1-3 layers, 1-8 experts, ranks and steps of its own or not, weights or not."""
    num_experts = draw(st.integers(1, 8))
    recording = recording_of(
        draw(sequence_lengths),
        num_layers=draw(st.integers(1, 3)),
        num_experts=num_experts,
        top_k=draw(st.integers(1, num_experts)),
        with_weights=draw(st.booleans()),
        with_sequences=draw(st.booleans()),
        pads=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )
    if draw(st.booleans()):
        return recording
    return with_own_deal(recording, draw(st.integers(1, 4)), draw(st.integers(1, recording.info.num_tokens)))


def counts_of(load_SLE: Array, *, top_k: int = 2, model: str | None = None) -> TraceRows:
    """A count-level trace with these loads [steps, layers, experts], zeros left out."""
    num_steps, num_layers, num_experts = load_SLE.shape
    num_tokens = -(-int(load_SLE.sum(axis=2).max(axis=1).sum()) // top_k) if top_k else 0
    info = TraceInfo(
        level="count",
        model=model,
        num_experts=num_experts,
        top_k=top_k,
        layers=tuple(range(num_layers)),
        num_tokens=num_tokens,
        num_steps=num_steps,
    )
    step_W, layer_W, expert_W = np.nonzero(load_SLE)
    rows = CountRows(
        step_W.astype(np.int32),
        layer_W.astype(np.int16),
        expert_W.astype(np.int32),
        load_SLE[step_W, layer_W, expert_W].astype(np.int64),
    )
    return TraceRows(info, [rows])
