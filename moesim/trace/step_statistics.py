"""How routing changes along the steps of a trace: loads by window of steps, dying experts, collapse, flips.

Array letters: V window (consecutive steps), L layer of the trace, E expert, W row of the file, K top-k, U input unit
(the sequences of one remainder), T token of a step.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.routing import TraceInfo
from moesim.trace.audit import audit
from moesim.trace.rows import TokenRows

SAME_TOKENS = "every step routes the same tokens, in the same order"  # a note in the header of such a trace
_MOST_WINDOWS = 64
_MOST_UNITS = 64
_MOST_CELLS = 2**25  # counts kept: 128 MiB
_MOST_IDS = 2**25  # expert ids of one step kept for the next: 128 MiB
_ENDS = 10  # the first and the last tenth of the windows are compared


@dataclass(slots=True)
class StepTally:
    """Counts along the steps of a token-level trace: made empty, fed every batch of rows in order, read at the end."""

    info: TraceInfo
    count_VULE: NDArray[np.int32] = field(init=False)
    tokens_VUL: NDArray[np.int64] = field(init=False)
    _last_LTK: NDArray[np.int32] | None = field(init=False)
    _place_L: NDArray[np.int64] = field(init=False)
    _flipped_L: NDArray[np.int64] = field(init=False)
    _compared_L: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        layers, experts, steps = self.info.num_layers, self.info.num_experts, self.info.num_steps
        windows = min(steps, _MOST_WINDOWS, _MOST_CELLS // (layers * experts))
        windows = 0 if windows < 2 else windows
        units = max(1, min(_MOST_UNITS, _MOST_CELLS // max(1, windows * layers * experts)))
        self.count_VULE = np.zeros((windows, units, layers, experts), np.int32)
        self.tokens_VUL = np.zeros((windows, units, layers), np.int64)
        per_step = self.info.num_tokens // steps
        keeps = SAME_TOKENS in self.info.notes and steps > 1 and layers * per_step * self.info.top_k <= _MOST_IDS
        self._last_LTK = np.full((layers, per_step, self.info.top_k), -1, np.int32) if keeps else None
        self._place_L, self._flipped_L, self._compared_L = np.zeros((3, layers), np.int64)

    def add(self, rows: TokenRows) -> None:
        """Count checked rows."""
        layer_W = np.searchsorted(self.info.layers, rows.layer_W)
        windows, units = self.count_VULE.shape[:2]
        if windows:
            unit_W = (rows.rank_W if rows.sequence_W is None else rows.sequence_W).astype(np.int64) % units
            window_W = rows.step_W.astype(np.int64) * windows // self.info.num_steps
            _count(window_W, unit_W, layer_W, rows.experts_WK, self.count_VULE, self.tokens_VUL)
        if self._last_LTK is not None:
            _count_flips(layer_W, rows.experts_WK, self._last_LTK, self._place_L, self._flipped_L, self._compared_L)

    def facts(self) -> dict[str, Any]:
        """What `trace inspect` reports; None where one step, or too many experts, leave nothing to compare.

        A list has one number a layer. died_experts: chosen before, but not in the last tenth of the windows.
        effective_first, effective_last: exp(entropy) of the loads there: as many experts of equal load would be as
        uneven. collapse = 1 - last / first, below 0 where routing spreads. load_shift: share of the load that would have to
        move to turn one window's into the next's, mean. flip_rate: share of a token's experts that the next step
        replaces, where steps route the same tokens.
        """
        flips = None if self._last_LTK is None else (self._flipped_L / np.maximum(self._compared_L, 1)).tolist()
        names = ("died_experts", "effective_first", "effective_last", "collapse", "load_shift", "audit")
        if not len(self.count_VULE):
            return {**dict.fromkeys(names), "flip_rate": flips}
        load_VLE = self.count_VULE.sum(axis=1, dtype=np.int64)
        ends = max(1, len(load_VLE) // _ENDS)
        first_L, last_L = (effective_experts(part.sum(axis=0)) for part in (load_VLE[:ends], load_VLE[-ends:]))
        share_VLE = load_VLE / np.maximum(load_VLE.sum(axis=2, keepdims=True), 1)
        return {
            "died_experts": ((load_VLE.sum(axis=0) > 0) & (load_VLE[-ends:].sum(axis=0) == 0)).sum(axis=1).tolist(),
            "effective_first": first_L.tolist(),
            "effective_last": last_L.tolist(),
            "collapse": (1.0 - last_L / first_L).tolist(),
            "load_shift": (0.5 * np.abs(np.diff(share_VLE, axis=0)).sum(axis=2).mean(axis=0)).tolist(),
            "flip_rate": flips,
            "audit": audit(self.count_VULE, self.tokens_VUL, self.info.layers),
        }


def effective_experts(load_LE: NDArray[np.int64]) -> NDArray[np.float64]:
    """[L] exp of the entropy of each layer's loads: E when even, 1 when all is on one expert or on none.

    >>> effective_experts(np.array([[3, 3, 0, 0], [5, 0, 0, 0]])).round(9).tolist()
    [2.0, 1.0]
    """
    share_LE = load_LE / np.maximum(load_LE.sum(axis=1, keepdims=True), 1)
    logs_LE = np.log(share_LE, out=np.zeros_like(share_LE), where=share_LE > 0)
    counts: NDArray[np.float64] = np.exp(-(share_LE * logs_LE).sum(axis=1))
    return counts


@njit(cache=True, nogil=True)
def _count(window_W, unit_W, layer_W, experts_WK, count_VULE, tokens_VUL):  # type: ignore[no-untyped-def]  # types are numba's
    for row in range(experts_WK.shape[0]):
        tokens_VUL[window_W[row], unit_W[row], layer_W[row]] += 1
        for expert in experts_WK[row]:
            if expert >= 0:
                count_VULE[window_W[row], unit_W[row], layer_W[row], expert] += 1


@njit(cache=True, nogil=True)
def _count_flips(layer_W, experts_WK, last_LTK, place_L, flipped_L, compared_L):  # type: ignore[no-untyped-def]  # types are numba's
    """The rows of a layer come in the same order in every step, so a place that counts on finds the token again."""
    num_tokens = last_LTK.shape[1]
    for row in range(experts_WK.shape[0]):
        layer = layer_W[row]
        place = place_L[layer] % num_tokens
        if place_L[layer] >= num_tokens:
            for expert in last_LTK[layer, place]:
                if expert < 0:
                    break
                compared_L[layer] += 1
                flipped_L[layer] += 1
                for other in experts_WK[row]:
                    if other == expert:
                        flipped_L[layer] -= 1
                        break
        last_LTK[layer, place] = experts_WK[row]
        place_L[layer] += 1
