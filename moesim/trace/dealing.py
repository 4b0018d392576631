"""Dealing a trace to ranks: the tokens of every step on the rank that computes them, layer by layer.

Two passes over the file: the first reads the first layer's rows for steps, ranks and sequences, the second only the row
groups with tokens of the asked steps. Memory: some 40 bytes a token, and the rows of a window of steps.
Array letters: S step of the file, L layer of the trace, T token, W row of the file, K top-k.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.routing import DealtStep, RoutingTrace
from moesim.trace.assignment import Assignment, Mode, assign
from moesim.trace.expansion import checked_steps, expand_counts, num_expanded_steps
from moesim.trace.rows import TokenRows
from moesim.trace.store import group_spans
from moesim.trace.token_axis import RowFinder, TokenAxis, read_token_axis

_WINDOW_BYTES = 2**29  # rows of dealt steps held at once


def deal(
    trace: RoutingTrace,
    *,
    num_ranks: int,
    mode: Mode,
    tokens_per_rank: int | None = None,
    steps: tuple[int, int] | None = None,
    seed: int = 0,
    top_k: int | None = None,
) -> Iterator[DealtStep]:
    """The dealt steps `steps` (half open, absolute; all when None) of `trace`, in order.

    A file with ranks or steps of its own is used as it is when it has num_ranks ranks and no more than tokens_per_rank
    tokens on any of them; else its sequences are dealt by the rules of `assign` (its ranks are the sequences when it
    names none). A count-level trace is expanded by `expand_counts`; `seed` and `top_k` (of a trace that does not know
    its own) are used only there.
    Raises InputError, before the first step, for steps beyond the trace, and for wrong rows as they are met.
    """
    if trace.info.level == "count":
        size = _asked(trace, tokens_per_rank)
        return expand_counts(trace, num_ranks=num_ranks, tokens_per_rank=size, steps=steps, seed=seed, top_k=top_k)
    dealt = _plan(trace, num_ranks, mode, tokens_per_rank)
    first, end = checked_steps(steps, dealt.assignment.num_steps, str(trace.path))
    return _deal(trace, dealt, first, end, None if tokens_per_rank is None else num_ranks * tokens_per_rank)


def num_dealt_steps(
    trace: RoutingTrace, *, num_ranks: int, mode: Mode, tokens_per_rank: int | None = None, top_k: int | None = None
) -> int:
    """How many steps `deal` makes of the whole trace."""
    if trace.info.level == "count":
        size = _asked(trace, tokens_per_rank)
        return num_expanded_steps(trace, num_ranks=num_ranks, tokens_per_rank=size, top_k=top_k)
    return _plan(trace, num_ranks, mode, tokens_per_rank).assignment.num_steps


def _asked(trace: RoutingTrace, tokens_per_rank: int | None) -> int:
    if tokens_per_rank is None:
        raise InputError(f"{trace.path} holds counts; give tokens_per_rank, the tokens to draw for every rank and step")
    return tokens_per_rank


@dataclass(frozen=True, slots=True)
class _Plan:
    """Tokens by their row in the first layer: where the rows lie, when and where each is computed."""

    axis: TokenAxis
    assignment: Assignment  # by position in the order of the sequences
    token_at: NDArray[np.int64]  # row in the first layer of each such position


def _plan(trace: RoutingTrace, num_ranks: int, mode: Mode, tokens_per_rank: int | None) -> _Plan:
    axis = read_token_axis(trace)
    if trace.info.has_own_deal and _fits(axis, trace.info.num_ranks, num_ranks, tokens_per_rank):
        own = Assignment(axis.step_T.astype(np.int64), axis.rank_T, trace.info.num_steps)
        return _Plan(axis, own, np.arange(axis.num_tokens))
    sequence_T = axis.rank_T if axis.sequence_T is None else axis.sequence_T
    token_at = np.argsort(sequence_T, kind="stable")
    lengths = np.unique(sequence_T, return_counts=True)[1]
    dealt = assign(lengths, num_ranks=num_ranks, mode=mode, tokens_per_rank=tokens_per_rank)
    return _Plan(axis, dealt, token_at)


def _fits(axis: TokenAxis, own_ranks: int, num_ranks: int, tokens_per_rank: int | None) -> bool:
    if own_ranks != num_ranks:
        return False
    if tokens_per_rank is None:
        return True
    new_T = np.flatnonzero((np.diff(axis.step_T) != 0) | (np.diff(axis.rank_T) != 0)) + 1  # rows are sorted by both
    fullest = np.diff(np.concatenate(([0], new_T, [axis.num_tokens]))).max()
    return bool(fullest <= tokens_per_rank)


def _deal(trace: RoutingTrace, plan: _Plan, first: int, end: int, asked_tokens: int | None) -> Iterator[DealtStep]:
    wanted = np.flatnonzero((plan.assignment.step_T >= first) & (plan.assignment.step_T < end))
    step_T, rank_T = plan.assignment.step_T[wanted], plan.assignment.rank_T[wanted]
    order = np.lexsort((wanted, rank_T, step_T))
    token_T, rank_T = plan.token_at[wanted[order]], rank_T[order]
    starts = np.searchsorted(step_T[order], np.arange(first, end + 1))
    for low, high in _windows(starts, _bytes_per_token(trace)):
        window = slice(starts[low], starts[high])
        experts_LTK, weights_LTK = _read_tokens(trace, plan.axis, token_T[window])
        for index in range(low, high):
            at = slice(starts[index] - starts[low], starts[index + 1] - starts[low])
            yield DealtStep(
                step=first + index,
                rank_T=rank_T[starts[index] : starts[index + 1]],
                experts_LTK=np.ascontiguousarray(experts_LTK[:, at]),
                weights_LTK=None if weights_LTK is None else np.ascontiguousarray(weights_LTK[:, at]),
                fill=1.0 if asked_tokens is None else (at.stop - at.start) / asked_tokens,
            )


def _bytes_per_token(trace: RoutingTrace) -> int:
    return trace.info.num_layers * trace.info.top_k * (8 if trace.info.has_weights else 4)


def _windows(starts: NDArray[np.int64], bytes_per_token: int) -> Iterator[tuple[int, int]]:
    """Runs [low, high) of steps whose tokens fit the window's memory; a step that does not fit stands alone."""
    most_tokens, low, num_steps = _WINDOW_BYTES // bytes_per_token, 0, len(starts) - 1
    while low < num_steps:
        high = int(np.searchsorted(starts, starts[low] + most_tokens, side="right")) - 1
        high = min(max(high, low + 1), num_steps)
        yield low, high
        low = high


def _read_tokens(
    trace: RoutingTrace, axis: TokenAxis, token_T: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float32] | None]:
    """Experts and weights [L, T, K] of the tokens with these rows in the first layer."""
    shape = (trace.info.num_layers, len(token_T), trace.info.top_k)
    experts_LTK = np.full(shape, -1, np.int32)
    weights_LTK = np.zeros(shape, np.float32) if trace.info.has_weights else None
    finder = RowFinder(trace, axis, token_T)
    for layer_W, at_W, rows in finder.find(group_spans(trace)):
        _place(rows, layer_W, at_W, experts_LTK, weights_LTK)
    return experts_LTK, weights_LTK


def _place(
    rows: TokenRows,
    layer_W: NDArray[np.int64],
    at_W: NDArray[np.int64],
    experts_LTK: NDArray[np.int32],
    weights_LTK: NDArray[np.float32] | None,
) -> None:
    kept_W = np.flatnonzero(at_W >= 0)
    experts_LTK[layer_W[kept_W], at_W[kept_W]] = rows.experts_WK[kept_W]
    if weights_LTK is not None and rows.weights_WK is not None:
        weights_LTK[layer_W[kept_W], at_W[kept_W]] = rows.weights_WK[kept_W]
