"""A step by closed form: phases one after the other, each as long as its slowest device or fullest link.

What the planner optimises and the simulation is checked against. It is an estimate, not a bound on the step: per-rank
waits can beat the sum of phase maxima (docs/MODEL.md). Only its network terms bound the fluid times from below.
"""

import re
from dataclasses import dataclass

import numpy as np

from moesim.collective.link_table import LinkTable
from moesim.collective.schedule import Collective
from moesim.network.bound import bound_completion, link_load, smallest_latency
from moesim.step_work import LayerWork, StepWork

_DIGITS = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTimes:
    """Seconds of the phases of one step, summed over its MoE layers; `other_s` = dense layers and output head.

    `hidden_s`: how much of communication and compute can at best lie beside each other under the scenario's overlap.
    """

    attention_s: float
    dispatch_s: float
    experts_s: float
    combine_s: float
    other_s: float
    hidden_s: float = 0.0

    @property
    def step_s(self) -> float:
        """The step: the sum of its phases, less what is hidden."""
        return self.attention_s + self.dispatch_s + self.experts_s + self.combine_s + self.other_s - self.hidden_s


def collective_time(collective: Collective, links: LinkTable) -> float:
    """The largest load / bandwidth + latency of any link, plus what the kernel costs on top."""
    return bound_completion(collective.flows, links.bandwidth) + collective.extra_s


def balanced_collective_time(collective: Collective, links: LinkTable) -> float:
    """As `collective_time` with the same bytes spread evenly over all links that share their tier and end.

    Links of one kind have one tier and one name but for its numbers (`node3.nic2.up` and `node0.nic7.up`).
    """
    flows = collective.flows
    load = link_load(flows.paths, flows.bytes_F, len(links.bandwidth))
    kinds = [tier + _DIGITS.sub("", name) for tier, name in zip(links.tiers, links.names, strict=True)]
    _, kind_of_link = np.unique(kinds, return_inverse=True)
    needed = np.bincount(kind_of_link, weights=load) / np.bincount(kind_of_link, weights=links.bandwidth)
    if flows.num_flows == 0:
        return collective.extra_s
    latency = smallest_latency(flows, len(links.bandwidth))
    return float(max((needed[kind_of_link] + latency).max(), flows.latency_F.max())) + collective.extra_s


def step_phases(work: StepWork) -> PhaseTimes:
    """Phases of `work`, every one on its slowest device."""
    return _phases(work, slowest=True)


def balanced_phases(work: StepWork) -> PhaseTimes:
    """Phases of `work` if every device computed, and every link of one kind carried, the mean: perfect balance."""
    return _phases(work, slowest=False)


def _phases(work: StepWork, *, slowest: bool) -> PhaseTimes:
    model, links = work.plan.model, work.plan.builder.links
    over_devices = np.max if slowest else np.mean
    over_links = collective_time if slowest else balanced_collective_time
    attention_s = dispatch_s = experts_s = combine_s = shared_s = 0.0
    for ordinal in range(model.num_moe_layers):
        layer: LayerWork = work.layer(ordinal)
        attention_s += float(over_devices(layer.attention.time_s))
        layer_dispatch_s = over_links(layer.dispatch, links)
        dispatch_s += layer_dispatch_s
        shared_s += min(float(over_devices(layer.shared.time_s)), layer_dispatch_s)
        experts_s += float(over_devices(layer.experts.time_s))
        combine_s += over_links(layer.combine, links)
    moe = set(model.moe_layer_indices)
    dense = [work.dense_layer(index) for index in range(model.num_layers) if index not in moe]
    other_s = sum(float(over_devices(cost.time_s)) for cost in [*dense, work.head()])
    hidden_s = shared_s if work.plan.overlap == "shared_expert" else 0.0
    if work.plan.overlap in ("two_batch", "dualpipe"):
        slowed = 1.0 - float(work.plan.sms_share_D.mean())  # what is left of compute while something is in flight
        hidden_s = min(attention_s + experts_s + other_s, slowed * (dispatch_s + combine_s))
    return PhaseTimes(
        attention_s=attention_s,
        dispatch_s=dispatch_s,
        experts_s=experts_s,
        combine_s=combine_s,
        other_s=other_s,
        hidden_s=hidden_s,
    )
