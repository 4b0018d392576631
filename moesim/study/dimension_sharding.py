"""Dimension-wise sharding priced against whole experts: every device holds a slice of every expert's vectors.

Whole experts move tokens to where experts are. Slices move what tells tokens and experts apart: every device gets all ids
and gates (an all-gather), its slice of every token (an exchange), partial products (a sum over devices), and sends its
slice of the outputs back. Single-neuron experts and memory values can be cut so; wider ones would be too, at the price of
as many partial products as they have neurons. Closed form on links that devices have to themselves.
Array letters: T token of the expert-parallel group, K top-k.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moesim.model import dtype_bytes
from moesim.routing import DealtStep
from moesim.setting import Setting
from moesim.step_bound import step_phases
from moesim.step_work import StepWork, WorkPlan
from moesim.units import format_time

ID_BYTES, GATE_BYTES, PARTIAL_BYTES = 4.0, 2.0, 4.0  # int32, fp16, fp32
SECTOR_BYTES = 32.0  # the least that a GPU reads of its memory: a slice of one element costs as much as sixteen


class SliceTimes(NamedTuple):
    """Seconds of one step under dimension-wise sharding, summed over MoE layers."""

    gather_s: float
    exchange_s: float
    partial_s: float
    experts_s: float

    @property
    def total_s(self) -> float:
        """One after the other."""
        return sum(self)


class ShardingPrices(NamedTuple):
    """Both ways for the same step: dispatch, experts and combine of whole experts, and slices."""

    whole_s: float
    slices: SliceTimes

    @property
    def sentence(self) -> str:
        """Which is quicker, and what each consists of."""
        parts = ", ".join(f"{name[:-2]} {format_time(value)}" for name, value in self.slices._asdict().items())
        better = "whole experts" if self.whole_s <= self.slices.total_s else "slices"
        return (
            f"dimension-wise sharding (a slice of every expert on every device) would take {format_time(self.slices.total_s)} "
            f"({parts}) against {format_time(self.whole_s)} of dispatch, experts and combine: {better} are quicker"
        )


def sharding_prices(setting: Setting, work: WorkPlan, steps: Sequence[DealtStep]) -> ShardingPrices:
    """The prices of the middle step under a work plan."""
    step = StepWork(plan=work, dealt=steps[len(steps) // 2])
    phases = step_phases(step)
    return ShardingPrices(phases.dispatch_s + phases.experts_s + phases.combine_s, slice_times(setting, work, step))


def sharding_notes(setting: Setting, work: WorkPlan, steps: Sequence[DealtStep]) -> tuple[str, ...]:
    """The comparison in a sentence, for layers whose experts are found by product keys; nothing for others."""
    if setting.training or setting.model.moe.router.kind != "product_key" or not steps or setting.dims.ep == 1:
        return ()
    return (sharding_prices(setting, work, steps).sentence,)


def slice_times(setting: Setting, work: WorkPlan, step: StepWork) -> SliceTimes:
    """Seconds of the step's MoE layers when every device of an expert-parallel group holds 1 / ep of every vector."""
    model, ep = setting.model, setting.dims.ep
    per_node = min(setting.cluster.devices_per_node, ep)
    nodes = max(ep // per_node, 1)
    near, far = _rates(setting)
    tokens = float(step.tokens_D[:ep].sum())
    slice_bytes = max(model.payload_width / ep * dtype_bytes(work.weight_dtype), SECTOR_BYTES)
    vectors = model.expert_params / model.payload_width
    reads_tokens = model.moe.expert_d_ff is not None  # memory values are only summed
    times = np.zeros(4)
    for experts_TK in step.dealt.experts_LTK:
        kept = experts_TK[np.isin(step.dealt.rank_T, np.arange(ep))]
        kept = kept[kept >= 0]
        pairs, active = float(kept.size), float(np.unique(kept).size)
        ids = pairs * (ID_BYTES + GATE_BYTES)
        outside = (nodes - 1) / nodes
        times[0] += max(ids * outside / per_node / far, ids * (per_node - 1) / per_node / near)
        width = tokens / ep * model.payload_width * 2.0  # bf16 slices of all tokens, in and out
        once = max(width * outside / far, width / near)
        times[1] += once * (2 if reads_tokens else 1)
        if reads_tokens:
            partial = pairs * PARTIAL_BYTES * vectors / 2
            times[2] += 2 * max(partial * outside / per_node / far, partial * (per_node - 1) / per_node / near)
        memory_s = active * vectors * slice_bytes / float(work.rates.memory_bytes_per_s[0])
        flops_s = 2.0 * pairs * model.expert_params / ep / float(work.rates.flops(work.weight_dtype)[0])
        moved_s = pairs * slice_bytes / float(work.rates.permute_bytes_per_s[0])
        times[3] += max(memory_s, flops_s) + moved_s
    return SliceTimes(*times.tolist())


def _rates(setting: Setting) -> tuple[float, float]:
    """Bytes/s that a device moves inside its node and to other nodes: its slowest links of each kind, all at once."""
    mine = [link for link in setting.cluster.links if link.name.startswith("node0.")]
    near = [link.bandwidth_bytes_per_s for link in mine if link.tier == "scale_up"]
    far = [link.bandwidth_bytes_per_s for link in mine if link.tier == "nic"]
    ring = [link.bandwidth_bytes_per_s for link in mine if link.tier == "ici" and link.name.startswith("node0.dev0.")]
    if ring:  # a torus: all its links carry at once
        return sum(ring), sum(ring)
    slowest = min(link.bandwidth_bytes_per_s for link in setting.cluster.links)
    return min(near, default=slowest), min(far, default=min(near, default=slowest))
