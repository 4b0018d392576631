"""Recorder: the spans a run leaves, appended while the clock runs, handed out as arrays."""

import numpy as np

from moesim.result import PHASES, Spans

_CODE = {phase: code for code, phase in enumerate(PHASES)}


class Recorder:
    """Filled by devices during one step; `step` and `offset_s` place the step on the run's time axis."""

    def __init__(self, step: int, offset_s: float) -> None:
        self.step, self.offset_s = step, offset_s
        self._rows: list[tuple[int, int, int, float, float]] = []
        self._stopped: dict[int, float] = {}

    def add(self, rank: int, layer: int, phase: str, start_s: float, end_s: float) -> None:
        """One span of rank `rank`; `layer` is the MoE ordinal, -1 outside MoE layers; times within the step."""
        if rank in self._stopped:
            start_s, end_s = min(start_s, self._stopped[rank]), min(end_s, self._stopped[rank])
        self._rows.append((rank, layer, _CODE[phase], start_s, end_s))

    def stop(self, rank: int, time_s: float) -> None:
        """The rank is dead from then on: spans that are recorded later end at that time."""
        self._stopped[rank] = time_s

    def spans(self) -> Spans:
        """All spans, in the order they ended."""
        columns = list(zip(*self._rows, strict=True)) or [()] * 5
        return Spans(
            rank=np.array(columns[0], dtype=np.int32),
            step=np.full(len(self._rows), self.step, dtype=np.int32),
            layer=np.array(columns[1], dtype=np.int16),
            phase=np.array(columns[2], dtype=np.int8),
            start_s=np.array(columns[3], dtype=np.float64) + self.offset_s,
            end_s=np.array(columns[4], dtype=np.float64) + self.offset_s,
        )


def join_spans(parts: list[Spans]) -> Spans:
    """The spans of several steps, one after the other."""
    return Spans(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in Spans.__dataclass_fields__}
    )
