"""Compare: predicted against measured layer times, and how well the order of placements is predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from calibrate.testbed.records import CaseRecord

TARGET_MEDIAN = 0.08
TARGET_RANK_CORRELATION = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Relative errors over cases, and Spearman's rank correlation of placements by group (window and algorithm).

    `median_ape_of_medians`: the median error against medians of the passes in place of the fastest.
    `repeat_spread`: median over cases of median pass / fastest pass - 1, what the machine adds by itself.
    """

    n: int
    median_ape: float
    mape: float
    p90_ape: float
    worst: float
    bias: float
    rank_correlations: dict[str, float]
    median_ape_of_medians: float
    repeat_spread: float

    @property
    def rank_correlation(self) -> float:
        """Mean over the groups."""
        return float(np.mean(list(self.rank_correlations.values())))

    def summary(self) -> dict[str, Any]:
        """The set as `moesim validate` lists it, and what is special here."""
        return {
            "name": "emulated cluster, MoE layer",
            "n": self.n,
            "median_ape": self.median_ape,
            "mape": self.mape,
            "p90_ape": self.p90_ape,
            "worst": self.worst,
            "bias": self.bias,
            "heldout": True,
            "rank_correlation": self.rank_correlation,
            "rank_correlations": self.rank_correlations,
            "median_ape_of_medians": self.median_ape_of_medians,
            "repeat_spread": self.repeat_spread,
            "target_median_ape": TARGET_MEDIAN,
            "target_rank_correlation": TARGET_RANK_CORRELATION,
        }


def compare(records: Sequence[CaseRecord], predicted_s: Sequence[float]) -> Agreement:
    """How predictions agree with the records, which must hold two placements or more of each group."""
    measured = np.array([record.time_s for record in records])
    ratio = np.array(predicted_s) / measured
    errors = np.abs(ratio - 1.0)
    middle = np.array([record.median_s for record in records])
    spreads = [record.median_s / record.time_s - 1.0 for record in records]
    members: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        members.setdefault(record.group, []).append(index)
    correlations = {
        group: float(spearmanr(measured[indices], np.array(predicted_s)[indices]).statistic)
        for group, indices in members.items()
        if len(indices) > 1
    }
    return Agreement(
        n=len(records),
        median_ape=float(np.median(errors)),
        mape=float(errors.mean()),
        p90_ape=float(np.quantile(errors, 0.9)),
        worst=float(errors.max()),
        bias=float(np.median(ratio) - 1.0),
        rank_correlations=correlations,
        median_ape_of_medians=float(np.median(np.abs(np.array(predicted_s) / middle - 1.0))),
        repeat_spread=float(np.median(spreads)),
    )
