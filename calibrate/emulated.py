"""The emulated cluster among the validation sets: the published cases, predicted anew by the profile of their probes.

Nothing is measured here; `python -m calibrate.testbed --publish` is what measures (calibrate/testbed/README.md).
"""

from typing import Any

import numpy as np

from calibrate.testbed.compare import TARGET_MEDIAN, TARGET_RANK_CORRELATION, compare
from calibrate.testbed.records import predict_records, read_records
from moesim.calibration import load_profile
from moesim.provenance import data_folder


def answer() -> dict[str, Any]:
    """The entry of `moesim validate --json`: errors of MoE layer times, and `rank_correlation` of placements."""
    folder = data_folder("calibrate/published")
    wiring, shape, records = read_records(folder / "testbed_cases.jsonl")
    profile = load_profile(str(folder / "testbed_profile.json"))
    predicted_s = predict_records(wiring, shape, records, profile)
    agreement = compare(records, predicted_s)
    errors = np.abs(np.array(predicted_s) / np.array([record.time_s for record in records]) - 1.0)
    worst = records[int(np.argmax(errors))]
    return {
        "name": "emulated cluster, MoE layer time",
        "n": agreement.n,
        "median_ape": agreement.median_ape,
        "mape": agreement.mape,
        "p90_ape": agreement.p90_ape,
        "worst": agreement.worst,
        "worst_row": f"{worst.window} {worst.algorithm} {worst.strategy}",
        "rank_correlation": agreement.rank_correlation,
        "heldout": "fitted to probes with drawn routing, judged on windows of a recorded trace and placements",
        "target": {"median_ape": TARGET_MEDIAN, "p90_ape": None, "rank_correlation": TARGET_RANK_CORRELATION},
        "met": agreement.median_ape <= TARGET_MEDIAN and agreement.rank_correlation >= TARGET_RANK_CORRELATION,
    }
