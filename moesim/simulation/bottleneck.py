"""What limits a step: the slowest rank's time, second by second, charged to the resource it went to."""

from collections import defaultdict
from typing import Literal

import numpy as np

from moesim.collective.link_table import COPY_ENGINE, LinkTable
from moesim.compute import Cost
from moesim.result import PHASES, Bottleneck
from moesim.simulation.exposed import exposed_seconds
from moesim.simulation.observation import LayerObservation, TransferObservation
from moesim.simulation.run import StepRun

Kind = Literal["nic", "scale_up", "copy_engine", "compute", "memory", "fixed"]
Charges = dict[tuple[Kind, str], float]


def find_bottleneck(runs: list[StepRun], links: LinkTable, device_names: list[str]) -> Bottleneck:
    """The kind of resource that takes most of the slowest ranks' time, and its most charged member."""
    charges: Charges = defaultdict(float)
    for run in runs:
        _charge_step(charges, run, links, device_names)
    total_s = sum(run.time_s for run in runs)
    return worst_charge(charges, total_s)


def worst_charge(charges: Charges, total_s: float) -> Bottleneck:
    """The kind with most seconds, as a share of `total_s`, and its most charged member."""
    by_kind: dict[Kind, float] = defaultdict(float)
    for (kind, _), seconds in charges.items():
        by_kind[kind] += seconds
    if not by_kind or total_s <= 0.0:
        return Bottleneck(kind="fixed", name="nothing to do", share=0.0)
    worst = max(sorted(by_kind), key=lambda kind: by_kind[kind])
    members = {name: seconds for (kind, name), seconds in sorted(charges.items()) if kind == worst}
    name = max(members, key=lambda member: members[member])
    return Bottleneck(kind=worst, name=name, share=min(by_kind[worst] / total_s, 1.0))


def _charge_step(charges: Charges, run: StepRun, links: LinkTable, device_names: list[str]) -> None:
    rank = run.slowest_rank
    mine = run.spans.rank == rank
    rows = zip(
        run.spans.layer[mine],
        run.spans.phase[mine],
        exposed_seconds(run.spans.phase[mine], run.spans.start_s[mine], run.spans.end_s[mine]),
        strict=True,
    )
    others = [*run.dense.values(), run.head]
    other_memory = sum(c.time_s[rank] for c in others if c.memory_bound[rank]) > sum(c.time_s[rank] for c in others) / 2
    for layer, phase, seconds in rows:
        name = PHASES[phase]
        if name in ("dispatch", "combine"):
            _charge_wait(charges, run.layers[layer], name, seconds, links, device_names)
        elif layer >= 0:
            cost: Cost = run.layers[layer].attention if name == "attention" else run.layers[layer].experts
            charges[compute_kind(cost, rank), device_names[rank]] += seconds
        else:
            charges["memory" if other_memory else "compute", device_names[rank]] += seconds


def _charge_wait(
    charges: Charges, layer: LayerObservation, phase: str, seconds: float, links: LinkTable, device_names: list[str]
) -> None:
    """A wait is first the kernel's fixed cost, then its fullest link; what remains was waiting for slower devices."""
    transfer: TransferObservation = layer.dispatch if phase == "dispatch" else layer.combine
    fixed_s = min(seconds, transfer.fixed_s)
    network_s = min(seconds - fixed_s, transfer.binding_s)
    charges["fixed", f"{phase} kernel"] += fixed_s
    if transfer.binding_link >= 0:
        charges[link_kind(links.tiers[transfer.binding_link]), links.names[transfer.binding_link]] += network_s
    cost = layer.attention if phase == "dispatch" else layer.experts
    slowest = int(np.argmax(cost.time_s))
    charges[compute_kind(cost, slowest), device_names[slowest]] += seconds - fixed_s - network_s


def compute_kind(cost: Cost, device: int) -> Kind:
    """Whether memory or arithmetic binds that device."""
    return "memory" if cost.memory_bound[device] else "compute"


def link_kind(tier: str) -> Kind:
    """A torus's own links are its scale-up network; everything else beyond the node counts as the NIC's."""
    return "scale_up" if tier in ("scale_up", "ici") else "copy_engine" if tier == COPY_ENGINE else "nic"
