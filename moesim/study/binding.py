"""Binding: what limits a plan's MoE layers, by the duals of the linear program over its splits, in words."""

import re
from collections.abc import Sequence

import numpy as np

from moesim.collective.link_table import LinkTable
from moesim.placement import ExpertPlacement
from moesim.planner import PlacementProblem
from moesim.planner.objective import make_state, phase_times
from moesim.planner.objective_state import LayerState
from moesim.planner.objective_tables import CostTables
from moesim.planner.splits import PHASES, best_split

_LINK_WORDS = (
    (r"node(\d+)\.nic(\d+)\.(up|down)", "NIC {2} of node {0} rail {1}"),
    (r"unit(\d+)\.leaf(\d+)\.(up|down)", "leaf switch {1} of unit {0}, {2}"),
    (r"node(\d+)\.dev(\d+)\.scale_up\.(in|out)", "scale-up port of device {1} on node {0}, {2}"),
    (r"node(\d+)\.dev(\d+)\.([xyz][+-])", "{2} link of device {1} on node {0}"),
    (r"node(\d+)\.dev(\d+)\.(dispatch|combine)_copy\.(in|out)", "copy engine of device {1} on node {0} ({2}, {3})"),
)
MOST_NAMED = 3
MOST_LAYERS = 8  # evenly spaced: a linear program each
Resource = tuple[str, int]


def link_words(name: str) -> str:
    """A link's name as a person says it; other names as they are.

    >>> link_words("node3.nic2.up"), link_words("node0.dev1.x+"), link_words("pod4.spine1")
    ('NIC up of node 3 rail 2', 'x+ link of device 1 on node 0', 'pod4.spine1')
    """
    for pattern, words in _LINK_WORDS:
        found = re.fullmatch(pattern, name)
        if found:
            return words.format(*found.groups())
    return name


def binding_resources(
    problem: PlacementProblem, placements: Sequence[ExpertPlacement], policy: str, links: LinkTable
) -> tuple[str, ...]:
    """The resources that most of the layers' dispatch, experts and combine hang on, the first at most three, in words.

    Where a layer has copies, seconds are duals x the phase (what the phase loses if the resource is made quicker, as far
    as splits can follow); else each phase counts for its fullest link or slowest device. Empty without tokens and costs.
    """
    if problem.costs is None or problem.sketch is None:
        return ()
    seconds: dict[tuple[str, Resource], float] = {}
    total = 0.0
    chosen = np.unique(np.linspace(0, len(placements) - 1, min(len(placements), MOST_LAYERS)).round().astype(int))
    for layer in chosen.tolist():
        placement = placements[layer]
        state = make_state(problem.costs, problem.sketch, layer, placement, policy, problem.seed)
        phases_3 = state.weight_W @ phase_times(problem.costs, state)
        total += float(phases_3.sum())
        answer = best_split(problem, layer, placement)
        for phase, resource, part_s in answer.binding or _fullest(problem.costs, state):
            seconds[phase, resource] = seconds.get((phase, resource), 0.0) + part_s
    most = sorted(seconds, key=lambda key: (-seconds[key], key))[:MOST_NAMED]
    return tuple(
        f"{_words(resource, links)} ({phase}): {seconds[phase, resource] / total:.0%} of the MoE layers"
        for phase, resource in most
        if seconds[phase, resource] > 0 and total > 0
    )


def _fullest(costs: CostTables, state: LayerState) -> tuple[tuple[str, Resource, float], ...]:
    """Each phase's fullest link or slowest device and its seconds, mean over windows."""
    busy_R = state.weight_W @ (state.load_WR * costs.seconds_R)
    compute_S = state.weight_W @ (state.compute_WS + state.shared_WS)
    found: list[tuple[str, Resource, float]] = []
    for op, phase in enumerate(PHASES[:2]):
        mine = np.flatnonzero((costs.op_R == op) & (busy_R > 0))
        if mine.size:
            fullest = mine[np.argmax(busy_R[mine])]
            found.append((phase, ("link", int(costs.link_R[fullest])), float(busy_R[fullest])))
    slowest = int(np.argmax(compute_S))
    return (*found, (PHASES[2], ("device", slowest), float(compute_S[slowest])))


def _words(resource: Resource, links: LinkTable) -> str:
    kind, index = resource
    return f"device {index} compute" if kind == "device" else link_words(links.names[index])
