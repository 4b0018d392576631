"""One layer of the topology strategy: the best of several starts, searched, as a placement with its split.

Array letters: E expert, D device, P slot.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moesim.placement import ExpertPlacement
from moesim.planner.local_search import improve
from moesim.planner.neighbourhood import improve_neighbourhoods
from moesim.planner.objective_tables import CostTables
from moesim.planner.problem import PlacementProblem, TokenSketch
from moesim.planner.search_costs import search_costs
from moesim.planner.search_state import SearchState, layer_tokens, slots_filled, source_split, start_state
from moesim.planner.source_tables import nearest_sources

_TRIAL = 0.12  # of the work goes into each start, before the best one gets the rest


def search_layer(
    problem: PlacementProblem,
    costs: CostTables,
    sketch: TokenSketch,
    layer: int,
    starts: Sequence[NDArray[np.bool_]],
    work: float,
    rounds: int = 2,
) -> ExpertPlacement:
    """The placement of a layer, with a row of 0 and 1 for each source device in its split.

    Every start [E, D] is improved a little, the best one more, with Large-Neighbourhood Search between two rounds of local
    search. `work` is in units of moesim.planner.search_state.set_table. No answer is worse than its starts, on this sketch.
    """
    tokens, searched = layer_tokens(sketch, layer, problem.load_LE[layer]), search_costs(costs)
    best: tuple[float, SearchState] | None = None
    for number, holds_ED in enumerate(starts):
        table_ED = nearest_sources(holds_ED, problem.devices_per_node)
        state = start_state(searched, tokens, holds_ED, problem.slots_of_devices, table_ED)
        reached = improve(searched, tokens, state, _TRIAL * work, _seed(problem, layer, number))
        if best is None or reached < best[0]:
            best = (reached, state)
    assert best is not None  # there is always a start by load
    state = best[1]
    rest = max(work * (1.0 - _TRIAL * len(starts)), 0.3 * work)
    improve(searched, tokens, state, 0.6 * rest, _seed(problem, layer, len(starts)))
    improve_neighbourhoods(searched, tokens, state, problem.work_limit, rounds)
    improve(searched, tokens, state, 0.4 * rest, _seed(problem, layer, len(starts) + 1))
    return _placed(problem, state)


def _seed(problem: PlacementProblem, layer: int, number: int) -> int:
    return (problem.seed * 1_000_003 + layer * 64 + number) % (1 << 31)


def _placed(problem: PlacementProblem, state: SearchState) -> ExpertPlacement:
    placement = problem.placement(slots_filled(state.holds_ED, problem.slots_of_devices))
    split_DP = source_split(state, placement.expert_of_slot_P, placement.device_of_slot_P)
    return dataclasses.replace(placement, split_NP=split_DP)
