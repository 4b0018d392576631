"""Token-level traces from recordings of passes: per pass and rank one array of expert ids, layer rows x tokens x width.

Array letters: R layer row of the recording, L layer kept, T token, W width of the recording or row of the trace (step,
layer, token), K top-k.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.routing import RoutedModel, TraceInfo
from moesim.trace.layer_rule import check_model
from moesim.trace.rows import TokenRows, TraceRows

_ROWS_PER_BATCH = 2**16
Ids = NDArray[Any]


def logical_as_given(ids_RTW: Ids) -> Ids:
    """The ids themselves: what a recording of logical experts decodes to."""
    return ids_RTW


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Expert ids of every token: pass number -> rank -> array [R, T, W] of integers, negative for no expert.

    `decode` turns such an array into logical expert ids. `lengths` are tokens of each sequence of (pass, rank), for
    all of them or for none. Tokens without an expert in any layer are padding and are dropped.
    """

    passes: Mapping[int, Mapping[int, Ids]]
    layer_of_row: tuple[int, ...]
    num_experts: int
    source: str
    origin: str
    recorder: str
    decode: Callable[[Ids], Ids] = logical_as_given
    lengths: Mapping[tuple[int, int], Sequence[int]] | None = None
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Survey:
    """What must be known before the first row is written."""

    used_R: NDArray[np.bool_]
    width: int = 0
    num_tokens: int = 0
    num_padding: int = 0
    num_ranks: int = 1
    num_steps: int = 0


def token_trace(recording: Recording, model: RoutedModel | None) -> TraceRows:
    """The recording as a trace: pass = step in ascending order, layers ascending, rows without experts left out.

    Ranks that all recorded the same tokens (tensor parallelism) are taken once. Raises InputError where nothing is
    left, or where experts, top-k or layers are not the model's.
    """
    recording = _without_copies(recording)
    survey = _survey(recording)
    if not survey.num_tokens:
        raise InputError(f"{recording.source} holds no routing")
    kept = [int(row) for row in np.argsort(recording.layer_of_row) if survey.used_R[row]]
    top_k = survey.width if model is None else model.top_k
    if survey.width > top_k:
        raise InputError(
            f"{recording.source} has tokens with {survey.width} experts, but {model and model.name} is top-{top_k}; "
            f"it is another model's trace"
        )
    info = TraceInfo(
        level="token",
        model=None if model is None else model.name,
        num_experts=max(recording.num_experts, top_k),
        top_k=top_k,
        layers=tuple(recording.layer_of_row[row] for row in kept),
        num_tokens=survey.num_tokens,
        num_ranks=survey.num_ranks,
        num_steps=survey.num_steps,
        has_sequences=recording.lengths is not None,
        origin=recording.origin,
        recorder=recording.recorder,
        notes=(*recording.notes, *_counted(survey, model)),
    )
    if model is not None:
        check_model(info, model, recording.source)
    return TraceRows(info, _batches(_rows(recording, np.array(kept), info)))


def _counted(survey: _Survey, model: RoutedModel | None) -> list[str]:
    notes = [f"{survey.num_padding} padding tokens (no expert in any layer) were dropped"] * (survey.num_padding > 0)
    if model is None:
        notes.append(f"top_k {survey.width} is the most experts a token has; no model was named")
    return notes


def _without_copies(recording: Recording) -> Recording:
    """The recording with one rank a pass where, in every pass, all ranks recorded the same ids."""
    several = [list(ranks.values()) for ranks in recording.passes.values() if len(ranks) > 1]
    if not several or not all(np.array_equal(first, other) for first, *rest in several for other in rest):
        return recording
    passes = {number: {0: next(iter(ranks.values()))} for number, ranks in recording.passes.items()}
    firsts = {number: next(iter(ranks)) for number, ranks in recording.passes.items()}
    lengths = recording.lengths
    if lengths is not None:
        lengths = {(number, 0): lengths[number, rank] for number, rank in firsts.items()}
    note = f"all {max(map(len, recording.passes.values()))} ranks recorded the same tokens; they are taken once"
    return replace(recording, passes=passes, lengths=lengths, notes=(*recording.notes, note))


def _survey(recording: Recording) -> _Survey:
    survey = _Survey(np.zeros(len(recording.layer_of_row), np.bool_))
    for ranks in recording.passes.values():
        before = survey.num_tokens
        for rank, ids_RTW in ranks.items():
            has_RTW = recording.decode(ids_RTW) >= 0
            count_RT = has_RTW.sum(axis=2)
            survey.used_R |= (count_RT > 0).any(axis=1)
            survey.width = max(survey.width, int(count_RT.max(initial=0)))
            num_tokens = int(np.count_nonzero(count_RT.any(axis=0)))
            survey.num_tokens += num_tokens
            survey.num_padding += ids_RTW.shape[1] - num_tokens
            survey.num_ranks = max(survey.num_ranks, rank + 1)
        survey.num_steps += survey.num_tokens > before
    return survey


def _rows(recording: Recording, kept: NDArray[np.int64], info: TraceInfo) -> Iterator[TokenRows]:
    """Rows of all passes, a pass or part of one at a time."""
    layer_L, step, token, sequence = np.array(info.layers, np.int16), 0, 0, 0
    for number, ranks in sorted(recording.passes.items()):
        parts: list[Ids] = []
        ranks_T: list[NDArray[np.int32]] = []
        sequences_T: list[NDArray[np.int32]] = []
        for rank, ids_RTW in sorted(ranks.items()):
            ids_LTW = recording.decode(ids_RTW)[kept]
            is_token_T = (ids_LTW >= 0).any(axis=(0, 2))
            if not is_token_T.all():
                ids_LTW = ids_LTW[:, is_token_T]
            parts.append(fitting(ids_LTW, info.top_k))
            ranks_T.append(np.full(ids_LTW.shape[1], rank, np.int32))
            if recording.lengths is not None:
                lengths = recording.lengths[number, rank]
                numbers = np.arange(sequence, sequence + len(lengths), dtype=np.int32)
                sequences_T.append(np.repeat(numbers, lengths)[is_token_T])
                sequence += len(lengths)
        experts_LTK = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        num_tokens = experts_LTK.shape[1]
        if num_tokens:
            sequence_T = np.concatenate(sequences_T) if sequences_T else None
            yield from _step_rows(experts_LTK, layer_L, step, token, np.concatenate(ranks_T), sequence_T)
            token, step = token + num_tokens, step + 1


def fitting(ids_LTW: Ids, top_k: int) -> NDArray[np.int32]:
    """The experts of each token in order, -1 only after them, cut or filled to `top_k`."""
    has_LTW = ids_LTW >= 0
    if (has_LTW[..., 1:] & ~has_LTW[..., :-1]).any():
        order_LTW = np.argsort(~has_LTW, axis=2, kind="stable")
        ids_LTW = np.take_along_axis(ids_LTW, order_LTW, axis=2)
    width = min(top_k, ids_LTW.shape[2])
    experts_LTK = np.full((*ids_LTW.shape[:2], top_k), -1, np.int32)
    experts_LTK[..., :width] = np.clip(ids_LTW[..., :width], -1, 2**31 - 1)
    return experts_LTK


def _step_rows(
    experts_LTK: NDArray[np.int32],
    layer_L: NDArray[np.int16],
    step: int,
    first_token: int,
    rank_T: NDArray[np.int32],
    sequence_T: NDArray[np.int32] | None,
) -> Iterator[TokenRows]:
    """Rows of one step, as many layers at a time as fit a batch, a large layer in parts."""
    num_tokens, top_k = experts_LTK.shape[1:]
    layers_at_once = max(1, _ROWS_PER_BATCH // num_tokens)
    for first in range(0, len(layer_L), layers_at_once):
        layers = layer_L[first : first + layers_at_once]
        for start in range(0, num_tokens, _ROWS_PER_BATCH):
            at = slice(start, min(start + _ROWS_PER_BATCH, num_tokens))
            count = at.stop - at.start
            yield TokenRows(
                step_W=np.full(len(layers) * count, step, np.int32),
                layer_W=np.repeat(layers, count),
                rank_W=np.tile(rank_T[at], len(layers)),
                token_W=np.tile(np.arange(first_token + at.start, first_token + at.stop, dtype=np.int64), len(layers)),
                experts_WK=experts_LTK[first : first + layers_at_once, at].reshape(-1, top_k),
                sequence_W=None if sequence_T is None else np.tile(sequence_T[at], len(layers)),
            )


def _batches(parts: Iterator[TokenRows]) -> Iterator[TokenRows]:
    """The same rows, the small parts of short passes gathered into batches."""
    pending: list[TokenRows] = []
    num_rows = 0
    for part in parts:
        pending.append(part)
        num_rows += len(part)
        if num_rows >= _ROWS_PER_BATCH // 2:
            yield _joined(pending)
            pending, num_rows = [], 0
    if pending:
        yield _joined(pending)


def _joined(parts: list[TokenRows]) -> TokenRows:
    if len(parts) == 1:
        return parts[0]
    return TokenRows(
        step_W=np.concatenate([part.step_W for part in parts]),
        layer_W=np.concatenate([part.layer_W for part in parts]),
        rank_W=np.concatenate([part.rank_W for part in parts]),
        token_W=np.concatenate([part.token_W for part in parts]),
        experts_WK=np.concatenate([part.experts_WK for part in parts]),
        sequence_W=None
        if parts[0].sequence_W is None
        else np.concatenate([part.sequence_W for part in parts if part.sequence_W is not None]),
    )
