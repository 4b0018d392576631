"""Records: measured cases as JSON Lines that hold all a prediction needs, so that it can be made without the trace.

First line: wiring and layer shape; then one case a line with its copies counted at three levels and its times.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibrate.testbed.cases import Case, LayerShape
from calibrate.testbed.predict import Predictor
from calibrate.testbed.wiring import Wiring
from moesim.calibration import CalibrationProfile
from moesim.placement import device_of_slot
from moesim.traffic import PlacedTraffic, TrafficCounts

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """One measured case: its copies (lists of the arrays of TrafficCounts), loads by slot, and times in seconds.

    `repeats_s` are the layer times of every pass; `phase_ends_s` the medians of when the last rank had dispatched,
    computed and combined.
    """

    window: str
    strategy: str
    algorithm: str
    experts: int
    top_k: int
    per_expert_DD: list[list[int]]
    per_device_DD: list[list[int]]
    per_node_DN: list[list[int]]
    tokens_D: list[int]
    load_P: list[int]
    repeats_s: list[float]
    phase_ends_s: list[float]

    @property
    def group(self) -> str:
        """Cases of one group differ only in placement."""
        return f"{self.window} {self.algorithm}"

    @property
    def time_s(self) -> float:
        """The layer's measured time: its fastest pass, since what disturbs a run only makes it longer."""
        return min(self.repeats_s)

    @property
    def median_s(self) -> float:
        """The median of the passes, disturbances of the machine included."""
        return float(np.median(self.repeats_s))

    def traffic(self) -> PlacedTraffic:
        """The counts as moesim's traffic."""
        per_expert_DD, per_device_DD, per_node_DN = (
            np.array(matrix, dtype=np.int64) for matrix in (self.per_expert_DD, self.per_device_DD, self.per_node_DN)
        )
        tokens = max(sum(self.tokens_D), 1)
        counts = TrafficCounts(
            per_expert_DD=per_expert_DD,
            per_device_DD=per_device_DD,
            per_node_DN=per_node_DN,
            load_D=per_expert_DD.sum(axis=0),
            tokens_D=np.array(self.tokens_D, dtype=np.int64),
            fanout_nodes_count=np.zeros(per_node_DN.shape[1] + 1, dtype=np.int64),
            fanout_devices=float(per_device_DD.sum()) / tokens,
            fanout_nodes=float(per_node_DN.sum()) / tokens,
        )
        return PlacedTraffic(counts, np.array(self.load_P, dtype=np.int64))


def record_case(case: Case, passes: Sequence[Sequence[float]]) -> CaseRecord:
    """The record of a case; `passes` are its phase ends (dispatched, computed, combined) of every pass."""
    counts = case.traffic.counts
    ends = np.array(passes)
    return CaseRecord(
        window=case.window,
        strategy=case.strategy,
        algorithm=case.algorithm,
        experts=case.placement.num_experts,
        top_k=case.routing.slots_TK.shape[1],
        per_expert_DD=counts.per_expert_DD.tolist(),
        per_device_DD=counts.per_device_DD.tolist(),
        per_node_DN=counts.per_node_DN.tolist(),
        tokens_D=counts.tokens_D.tolist(),
        load_P=case.traffic.load_P.tolist(),
        repeats_s=ends[:, -1].tolist(),
        phase_ends_s=np.median(ends, axis=0).tolist(),
    )


def write_records(path: Path, wiring: Wiring, shape: LayerShape, records: Sequence[CaseRecord]) -> None:
    """Write a new file; same content, same bytes."""
    header: dict[str, Any] = {"format_version": FORMAT_VERSION, "wiring": asdict(wiring), "shape": asdict(shape)}
    lines = [header, *(asdict(record) for record in records)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def read_records(path: Path) -> tuple[Wiring, LayerShape, list[CaseRecord]]:
    """What `write_records` wrote; raises ValueError naming the file and line for anything else."""
    number = 1
    try:
        header, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if header["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {header['format_version']!r}, and this reads {FORMAT_VERSION}")
        wiring, shape = Wiring(**header["wiring"]), LayerShape(**header["shape"])
        records = []
        for number, line in enumerate(lines, start=2):  # noqa: B007  # named in the error
            records.append(CaseRecord(**line))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} line {number} is no record of an emulated cluster: {error}") from None
    return wiring, shape, records


def predict_records(
    wiring: Wiring,
    shape: LayerShape,
    records: Sequence[CaseRecord],
    profile: CalibrationProfile,
    *,
    in_turn: bool = False,
) -> list[float]:
    """The layer time that moesim predicts for each record, seconds; `in_turn` as Predictor.predict says."""
    predicted = []
    for record in records:
        predictor = Predictor(wiring=wiring, shape=shape, profile=profile, experts=record.experts, top_k=record.top_k)
        slots_P = device_of_slot(len(record.load_P), wiring.ranks)
        predicted.append(predictor.predict(record.traffic(), record.algorithm, slots_P, in_turn=in_turn).layer_s)
    return predicted
