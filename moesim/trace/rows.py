"""Rows of a trace in memory, a bounded number at a time, with the checks that every row passes on its way in or out.

Array letters: W row of the file (one token at one layer, or one expert at one layer), K top-k, E expert.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.routing import TraceInfo

_OUT_OF_RANGE, _GAP, _DUPLICATE = 1, 2, 3
_MOST_COUNT = 2**50  # one cell of a count-level trace


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Consecutive rows of a token-level trace.

    step, rank, sequence int32 and layer int16 (model layer index); token int64; experts int32 with -1 for no expert;
    weights float16 or None; sequence or None.
    """

    step_W: NDArray[np.int32]
    layer_W: NDArray[np.int16]
    rank_W: NDArray[np.int32]
    token_W: NDArray[np.int64]
    experts_WK: NDArray[np.int32]
    weights_WK: NDArray[np.float16] | None = None
    sequence_W: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.step_W)


@dataclass(frozen=True, slots=True)
class CountRows:
    """Consecutive rows of a count-level trace: step, expert int32, layer int16, tokens that chose it int64."""

    step_W: NDArray[np.int32]
    layer_W: NDArray[np.int16]
    expert_W: NDArray[np.int32]
    tokens_W: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.step_W)


@dataclass(frozen=True, slots=True)
class TraceRows:
    """A trace on its way into a file: the header it will carry, and its rows in the file's order.

    `is_checked` where every row has passed RowChecks of such a header on its way here: it need not do so again.
    """

    info: TraceInfo
    rows: Iterable[TokenRows | CountRows]
    is_checked: bool = False


class RowChecks:
    """Checks of all rows of one trace, fed in order; the last row is remembered to check the order across batches."""

    def __init__(self, info: TraceInfo, source: str) -> None:
        """`source` names the file in messages."""
        self._info, self._source = info, source
        self._is_layer = np.zeros(2**15, np.bool_)
        self._is_layer[list(info.layers)] = True
        self._last: tuple[int, ...] | None = None
        self._next_row = 0

    def check(self, rows: TokenRows | CountRows, first_row: int) -> None:
        """Raise InputError naming the first wrong row of `rows`, whose first is row `first_row` of the file."""
        if not len(rows):
            return
        self._within(rows, first_row, "step", rows.step_W, self._info.num_steps)
        self._listed_layers(rows, first_row)
        if isinstance(rows, TokenRows):
            self._within(rows, first_row, "rank", rows.rank_W, self._info.num_ranks)
            self._in_order(rows, first_row, (rows.step_W, rows.layer_W, rows.rank_W), strictly=False)
            self._experts(rows, first_row)
            self._weights(rows, first_row)
            self._not_negative(rows, first_row)
        else:
            self._within(rows, first_row, "expert", rows.expert_W, self._info.num_experts)
            self._within(rows, first_row, "tokens", rows.tokens_W, _MOST_COUNT)
            self._in_order(rows, first_row, (rows.step_W, rows.layer_W, rows.expert_W), strictly=True)

    def _refuse(self, rows: TokenRows | CountRows, first_row: int, index: int, reason: str) -> InputError:
        where = f"step {rows.step_W[index]}, layer {rows.layer_W[index]}"
        if isinstance(rows, TokenRows):
            where += f", rank {rows.rank_W[index]}, token {rows.token_W[index]}"
        return InputError(f"{self._source}: row {first_row + index} ({where}): {reason}")

    def _within(self, rows: TokenRows | CountRows, first_row: int, name: str, value_W: NDArray[Any], end: int) -> None:
        wrong_W = (value_W < 0) | (value_W >= end)
        if wrong_W.any():
            index = int(wrong_W.argmax())
            raise self._refuse(rows, first_row, index, f"{name} {value_W[index]} is outside 0..{end - 1}")

    def _listed_layers(self, rows: TokenRows | CountRows, first_row: int) -> None:
        wrong_W = ~self._is_layer[rows.layer_W]  # a negative layer counts from the end of the table, so look again
        wrong_W |= rows.layer_W < 0
        if wrong_W.any():
            raise self._refuse(rows, first_row, int(wrong_W.argmax()), "its layer is not one of the trace's layers")

    def _in_order(
        self, rows: TokenRows | CountRows, first_row: int, keys: tuple[NDArray[Any], ...], *, strictly: bool
    ) -> None:
        wrong_W = np.full(len(rows) - 1, strictly)
        for key_W in reversed(keys):
            before_W, after_W = key_W[:-1], key_W[1:]
            wrong_W = (after_W < before_W) | ((after_W == before_W) & wrong_W)
        if wrong_W.any():
            raise self._refuse(rows, first_row, int(wrong_W.argmax()) + 1, self._order_reason(strictly))
        first = tuple(int(key_W[0]) for key_W in keys)
        if (
            self._last is not None
            and first_row == self._next_row
            and (first < self._last or (strictly and first == self._last))
        ):
            raise self._refuse(rows, first_row, 0, self._order_reason(strictly))
        self._last, self._next_row = tuple(int(key_W[-1]) for key_W in keys), first_row + len(rows)

    def _order_reason(self, strictly: bool) -> str:
        return f"rows must be sorted by step, layer, {'expert, each once' if strictly else 'rank'}"

    def _experts(self, rows: TokenRows, first_row: int) -> None:
        index, code = first_bad_row(rows.experts_WK, self._info.num_experts)
        if code == 0:
            return
        shown = rows.experts_WK[index].tolist()[:16]
        reason = {
            _OUT_OF_RANGE: f"an expert is outside 0..{self._info.num_experts - 1} (or -1 for none) in {shown}",
            _GAP: f"-1 (no expert) may only stand at the row's end, got {shown}",
            _DUPLICATE: f"an expert occurs twice in the top-{self._info.top_k} row {shown}",
        }[code]
        raise self._refuse(rows, first_row, index, reason)

    def _weights(self, rows: TokenRows, first_row: int) -> None:
        if rows.weights_WK is None:
            return
        bits_WK = rows.weights_WK.view(np.uint16)
        wrong_W = (((bits_WK & 0x7C00) == 0x7C00) | (bits_WK > 0x8000)).any(axis=1)  # NaN or infinity; below -0.0
        if wrong_W.any():
            index = int(wrong_W.argmax())
            shown = rows.weights_WK[index].tolist()[:16]
            raise self._refuse(rows, first_row, index, f"gate weights must be finite and >= 0, got {shown}")

    def _not_negative(self, rows: TokenRows, first_row: int) -> None:
        self._within(rows, first_row, "token", rows.token_W, 2**63)
        if rows.sequence_W is not None:
            self._within(rows, first_row, "sequence", rows.sequence_W, 2**31)


@njit(cache=True, nogil=True)
def first_bad_row(experts_WK, num_experts):  # type: ignore[no-untyped-def]  # types are numba's
    """(index, 0) when every row is -1-padded at its end, in range and free of duplicates, else (row, code)."""
    seen_E = np.full(num_experts, -1, np.int64)
    for row in range(experts_WK.shape[0]):
        ended = False
        for expert in experts_WK[row]:
            if expert == -1:
                ended = True
            elif expert < 0 or expert >= num_experts:
                return row, _OUT_OF_RANGE
            elif ended:
                return row, _GAP
            elif seen_E[expert] == row:
                return row, _DUPLICATE
            else:
                seen_E[expert] = row
    return -1, 0
