"""Run: held-out cases on the emulated cluster, pass after pass over all of them, so that drift meets every case alike."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from calibrate.testbed.cases import LayerShape, cases, windows
from calibrate.testbed.records import CaseRecord, record_case
from calibrate.testbed.session import Session


def measure_cases(
    session: Session, traces: Sequence[Path], shape: LayerShape, passes: int, told: Callable[[str], None]
) -> list[CaseRecord]:
    """Measure every case of the traces' windows `passes` times; `told` hears the progress."""
    chosen = list(cases(windows(traces, session.wiring, shape), session.wiring))
    ends: list[list[list[float]]] = [[] for _ in chosen]
    for turn in range(passes):
        told(f"cases: pass {turn + 1} of {passes} over {len(chosen)} cases")
        for case, found in zip(chosen, ends, strict=True):
            header = {
                "algorithm": case.algorithm,
                "width": shape.width,
                "hidden": shape.hidden,
                "repeats": 1,
                "chunk_tokens": shape.chunk_tokens,
            }
            answers = session.layer(case.routing, case.placement.expert_of_slot_P.astype(np.int64), header)
            found.append(np.max([answer["end_s"][0] for answer in answers], axis=0).tolist())
    return [record_case(case, found) for case, found in zip(chosen, ends, strict=True)]
