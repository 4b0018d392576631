"""Whether a run's sizes lie inside what its profile was measured at: tokens, bytes, widths and SMs, in sentences.

Array letters: D rank.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from moesim.compute import DeviceRates
from moesim.routing import DealtStep
from moesim.setting import Setting
from moesim.step_work import WorkPlan
from moesim.study.work_plan import sms_of


@dataclass(slots=True)
class StepSizes:
    """What steps held as they went by: fewest and most tokens of a rank, most (token, expert) pairs a slot in the mean."""

    fewest_tokens: float = np.inf
    most_tokens: float = 0.0
    most_tokens_a_slot: float = 0.0

    def watch(self, steps: Iterable[DealtStep], num_ranks: int, num_slots: int) -> Iterator[DealtStep]:
        """The steps, unchanged."""
        for dealt in steps:
            tokens_D = np.bincount(dealt.rank_T, minlength=num_ranks)
            self.fewest_tokens = min(self.fewest_tokens, float(tokens_D.min()))
            self.most_tokens = max(self.most_tokens, float(tokens_D.max()))
            pairs = float(dealt.rank_T.size * dealt.experts_LTK.shape[2])
            self.most_tokens_a_slot = max(self.most_tokens_a_slot, pairs / max(num_slots, 1))
            yield dealt


def beyond_measured(setting: Setting, work: WorkPlan, sizes: StepSizes) -> tuple[str, ...]:
    """One sentence for the communication kernel and one for the experts' curve, where something lies outside.

    A kernel measured by bytes alone (a plain all-to-all) is asked about the send buffer of a rank: tokens x top-k copies.
    """
    kernel, name = work.builder.kernel, setting.scenario.dispatch.kernel
    copies = sizes.most_tokens * setting.model.top_k
    asked: dict[str, tuple[float, ...]] = {
        "tokens_per_rank": (sizes.fewest_tokens, sizes.most_tokens),
        "hidden": (float(setting.model.payload_width),),
    }
    if "tokens_per_rank" not in kernel.valid_range:
        asked = {"bytes_per_rank": tuple(copies * each for each in work.builder.bytes_per_copy.values())}
    sms = sms_of(setting)
    asked |= {"sms": () if sms is None else (float(sms),)}
    if len(kernel.dispatch.fixed_s.at) == 1:  # otherwise the builder tells of ranks and nodes outside the curve
        asked |= {"ranks": (float(work.builder.group_size),)}
    found = [
        f"{quantity} {values[0] if values[0] < low else values[-1]:g} (measured: {low:g} to {high:g})"
        for quantity, (low, high) in kernel.valid_range.items()
        if (values := tuple(sorted(asked.get(quantity, ())))) and (values[0] < low or values[-1] > high)
    ]
    sentences = [f"kernel {name}: extrapolated to {', '.join(found)}"] if found else []
    return (*sentences, *_experts(work.rates, work.weight_dtype, sizes))


def _experts(rates: DeviceRates, weight_dtype: str, sizes: StepSizes) -> tuple[str, ...]:
    curve = rates.experts.get(weight_dtype)
    most = sizes.most_tokens_a_slot
    outside = [] if curve is None else [text for text in curve.outside(tokens=most) if most > 1.0]
    return (f"experts: extrapolated to {outside[0]}, tokens of an expert in the mean",) if outside else ()
