"""Where the rows of each token lie in a trace file, from the rows of its first layer alone.

The rows of a step are its layers one after the other, each with the same tokens in the same order; so the row of any
token at any layer is known before it is read, and row groups without an asked token are never read.
Array letters: S step of the file, L layer of the trace, T token in the order of the first layer's rows, W row, B block
(one step at one layer).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.routing import RoutingTrace
from moesim.trace.rows import RowChecks, TokenRows
from moesim.trace.schema import column_values, to_rows
from moesim.trace.store import read_batches


@dataclass(frozen=True, slots=True)
class TokenAxis:
    """The file's tokens in its own order: step and rank of each, its sequence where the file names one."""

    step_T: NDArray[np.int32]
    rank_T: NDArray[np.int32]
    sequence_T: NDArray[np.int32] | None
    tokens_before_S: NDArray[np.int64]  # [steps + 1]: tokens in the steps before each

    @property
    def num_tokens(self) -> int:
        """Tokens in the file."""
        return len(self.step_T)


def read_token_axis(trace: RoutingTrace) -> TokenAxis:
    """Read the first layer's rows of `trace`; raises InputError when they are not one row a token."""
    names = ["step", "layer", "rank"] + (["sequence"] if trace.info.has_sequences else [])
    parts: dict[str, list[NDArray[np.int32]]] = {name: [] for name in names if name != "layer"}
    num_found = 0
    for _, batch in read_batches(trace, names):
        first_layer_W = column_values(batch, "layer", str(trace.path)) == trace.info.layers[0]
        for name, part in parts.items():
            part.append(column_values(batch, name, str(trace.path))[first_layer_W])
        num_found += int(first_layer_W.sum())
        if trace.info.num_steps == 1 and num_found >= trace.info.num_tokens:
            break
    if num_found != trace.info.num_tokens:
        raise InputError(
            f"{trace.path}: layer {trace.info.layers[0]} has {num_found} rows, not {trace.info.num_tokens}"
        )
    columns = {name: np.concatenate(part) for name, part in parts.items()}
    return _checked_axis(trace, columns["step"], columns["rank"], columns.get("sequence"))


def _checked_axis(
    trace: RoutingTrace, step_T: NDArray[np.int32], rank_T: NDArray[np.int32], sequence_T: NDArray[np.int32] | None
) -> TokenAxis:
    source = f"{trace.path}: layer {trace.info.layers[0]}"
    for name, value_T, end in (("step", step_T, trace.info.num_steps), ("rank", rank_T, trace.info.num_ranks)):
        if value_T.min() < 0 or value_T.max() >= end:
            raise InputError(f"{source}: {name} {value_T.min()}..{value_T.max()} is outside 0..{end - 1}")
    if sequence_T is not None and sequence_T.min() < 0:
        raise InputError(f"{source}: sequence {sequence_T.min()} is negative")
    falls_T = (np.diff(step_T) < 0) | ((np.diff(step_T) == 0) & (np.diff(rank_T) < 0))
    if falls_T.any():
        raise InputError(f"{source}: token {int(falls_T.argmax()) + 1} breaks the order by step and rank")
    tokens_before_S = np.searchsorted(step_T, np.arange(trace.info.num_steps + 1))
    return TokenAxis(step_T, rank_T, sequence_T, tokens_before_S.astype(np.int64))


class RowFinder:
    """Finds the rows of some tokens at all layers in one reading of the file, and holds them to the first layer's."""

    def __init__(self, trace: RoutingTrace, axis: TokenAxis, token_T: NDArray[np.int64]) -> None:
        """`token_T`: positions on the file's token axis; what is found says which of these it belongs to."""
        self._trace, self._axis = trace, axis
        self._at_T = np.full(axis.num_tokens, -1, np.int64)
        self._at_T[token_T] = np.arange(len(token_T))
        self._wanted_before_T = np.concatenate(([0], np.cumsum(self._at_T >= 0)))
        self._id_of_wanted = np.full(len(token_T), -1, np.int64)  # token ids in the first layer
        per_step_S = np.diff(axis.tokens_before_S)
        block_tokens_B = np.repeat(per_step_S, trace.info.num_layers)
        self._block_start_B = np.concatenate(([0], np.cumsum(block_tokens_B)))

    def find(
        self, spans: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], TokenRows]]:
        """(layer of the trace, position among the asked tokens or -1, rows) of each batch; `spans` of row groups."""
        groups = [group for group, (start, end) in enumerate(spans) if self._has_wanted(start, end)]
        source, checks = str(self._trace.path), RowChecks(self._trace.info, str(self._trace.path))
        for first_row, batch in read_batches(self._trace, None, groups):
            rows = to_rows(batch, self._trace.info, source)
            assert isinstance(rows, TokenRows)
            checks.check(rows, first_row)
            layer_W, token_W = self._locate(np.arange(first_row, first_row + len(rows)))
            at_W = self._at_T[token_W]
            self._compare(rows, first_row, layer_W, token_W, at_W)
            yield layer_W, at_W, rows

    def _has_wanted(self, start: int, end: int) -> bool:
        if start == end:
            return False
        low, high = np.searchsorted(self._block_start_B, (start, end - 1), side="right") - 1
        inner_B = self._block_start_B[low + 1 : high + 1]
        _, first_W = self._locate(np.concatenate(([start], inner_B)))
        _, last_W = self._locate(np.concatenate((inner_B - 1, [end - 1])))
        return bool((self._wanted_before_T[last_W + 1] > self._wanted_before_T[first_W]).any())

    def _locate(self, row_W: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Layer of the trace and token of each row, from the file's order alone."""
        block_W = np.searchsorted(self._block_start_B, row_W, side="right") - 1
        step_W, layer_W = np.divmod(block_W, self._trace.info.num_layers)
        return layer_W, self._axis.tokens_before_S[step_W] + row_W - self._block_start_B[block_W]

    def _compare(
        self,
        rows: TokenRows,
        first_row: int,
        layer_W: NDArray[np.int64],
        token_W: NDArray[np.int64],
        at_W: NDArray[np.int64],
    ) -> None:
        """Refuse rows that are not where the first layer's rows say."""
        wrong_W = (np.array(self._trace.info.layers)[layer_W] != rows.layer_W) | (
            self._axis.step_T[token_W] != rows.step_W
        )
        wrong_W |= self._axis.rank_T[token_W] != rows.rank_W
        if self._axis.sequence_T is not None:
            wrong_W |= self._axis.sequence_T[token_W] != rows.sequence_W
        kept_W = np.flatnonzero(at_W >= 0)
        first_W = kept_W[layer_W[kept_W] == 0]
        self._id_of_wanted[at_W[first_W]] = rows.token_W[first_W]
        wrong_W[kept_W] |= self._id_of_wanted[at_W[kept_W]] != rows.token_W[kept_W]
        if wrong_W.any():
            index = int(wrong_W.argmax())
            raise InputError(
                f"{self._trace.path}: row {first_row + index} (step {rows.step_W[index]}, layer {rows.layer_W[index]}, "
                f"token {rows.token_W[index]}) is not the token of layer {self._trace.info.layers[0]} at its place; "
                f"every layer of a step needs the same tokens in the same order"
            )
