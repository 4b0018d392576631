"""Expert choices collected while a model runs, and the trace they make.

Array letters: T token of one pass, W row of the trace (layer, token), K top-k.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.routing import TraceInfo
from moesim.trace.rows import TokenRows, TraceRows
from moesim.trace.store import write_trace

_ROWS_PER_BATCH = 2**16
Ids = NDArray[np.int32]
Weights = NDArray[np.float16]


@dataclass(slots=True)
class CapturedRouting:
    """What every MoE layer chose, pass by pass.

    `layers` are model layer indices, ascending; `kept` marks the tokens of each pass that are not padding, `sequences`
    their sequence numbers; `ids[layer]` and `weights[layer]` hold one array [T, K] a pass.
    """

    layers: tuple[int, ...]
    num_experts: int
    model: str | None
    origin: str
    kept: list[NDArray[np.bool_]] = field(default_factory=list)
    sequences: list[NDArray[np.int32]] = field(default_factory=list)
    ids: dict[int, list[Ids]] = field(default_factory=dict)
    weights: dict[int, list[Weights]] = field(default_factory=dict)
    num_unrouted: int = 0

    def add(self, layer: int, ids_TK: NDArray[Any], weights_TK: NDArray[Any] | None) -> None:
        """Remember one layer's choices of the pass that is running; ids outside 0..E-1 mean "not routed"."""
        unrouted_TK = (ids_TK < 0) | (ids_TK >= self.num_experts)
        self.num_unrouted += int(unrouted_TK.sum())
        cleaned_TK = np.where(unrouted_TK, -1, ids_TK).astype(np.int32)
        order_TK = np.argsort(unrouted_TK, axis=1, kind="stable")  # -1 goes to the row's end, the rest keeps its order
        self.ids.setdefault(layer, []).append(np.take_along_axis(cleaned_TK, order_TK, axis=1))
        if weights_TK is not None:
            halves_TK = np.where(unrouted_TK, 0, np.maximum(weights_TK, 0)).astype(np.float16)
            self.weights.setdefault(layer, []).append(np.take_along_axis(halves_TK, order_TK, axis=1))

    @property
    def num_tokens(self) -> int:
        """Tokens of all passes that are not padding."""
        return int(sum(kept_T.sum() for kept_T in self.kept))

    def write(self, out: str | Path) -> dict[str, Any]:
        """Write the trace; {out, rows, tokens}. Raises InputError where nothing, or not every layer, was captured."""
        top_k, has_weights = self._checked()
        info = TraceInfo(
            level="token",
            model=self.model,
            num_experts=self.num_experts,
            top_k=top_k,
            layers=self.layers,
            num_tokens=self.num_tokens,
            has_weights=has_weights,
            has_sequences=True,
            origin=self.origin,
            recorder="moesim trace capture",
            notes=self._notes(),
        )
        rows = write_trace(TraceRows(info, self._rows(has_weights)), Path(out))
        return {"out": str(out), "rows": rows, "tokens": self.num_tokens}

    def _checked(self) -> tuple[int, bool]:
        if not self.num_tokens:
            raise InputError("nothing was captured: run the model on some tokens inside the capture")
        for layer in self.layers:
            lengths = [len(ids_TK) for ids_TK in self.ids.get(layer, [])]
            if lengths != [len(kept_T) for kept_T in self.kept]:
                raise InputError(
                    f"layer {layer} chose experts for {sum(lengths)} tokens in {len(lengths)} calls, but the model was given "
                    f"{sum(map(len, self.kept))} in {len(self.kept)} passes; capture whole forward passes only"
                )
        widths = {ids_TK.shape[1] for layer in self.layers for ids_TK in self.ids[layer]}
        if len(widths) != 1:
            raise InputError(f"the layers choose {sorted(widths)} experts a token; a trace has one top-k")
        return widths.pop(), all(len(self.weights.get(layer, ())) == len(self.kept) for layer in self.layers)

    def _notes(self) -> tuple[str, ...]:
        padding = sum(map(len, self.kept)) - self.num_tokens
        notes = [f"{padding} padding tokens were left out"] if padding else []
        if self.num_unrouted:
            notes.append(f"{self.num_unrouted} choices outside 0..{self.num_experts - 1} mean not routed and are -1")
        return tuple(notes)

    def _rows(self, has_weights: bool) -> Iterator[TokenRows]:
        kept_T = np.concatenate(self.kept)
        sequence_T = np.concatenate(self.sequences)[kept_T]
        for layer in self.layers:
            ids_WK = np.concatenate(self.ids[layer])[kept_T]
            weights_WK = np.concatenate(self.weights[layer])[kept_T] if has_weights else None
            for start in range(0, len(ids_WK), _ROWS_PER_BATCH):
                at = slice(start, start + _ROWS_PER_BATCH)
                count = len(ids_WK[at])
                yield TokenRows(
                    step_W=np.zeros(count, np.int32),
                    layer_W=np.full(count, layer, np.int16),
                    rank_W=np.zeros(count, np.int32),
                    token_W=np.arange(start, start + count, dtype=np.int64),
                    experts_WK=ids_WK[at],
                    weights_WK=None if weights_WK is None else weights_WK[at],
                    sequence_W=sequence_T[at],
                )
