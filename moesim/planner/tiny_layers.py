"""Tiny layers (a few experts on a few devices): climbs on the objective itself, from the best plan that was found.

The search proper minimises power means, which are near the objective but are not it. Where experts and devices are few a
climb can look at every change of one expert: all ways to choose a copy for each source, and all exchanges of two experts'
copies. It ends where none of them is quicker; then three experts change places and it begins anew, until work ends.
Array letters: E expert, D device (also as source), R row of a table, T token, K top-k.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moesim.placement import ExpertPlacement
from moesim.planner.held_out import time_of
from moesim.planner.problem import PlacementProblem, TokenSketch
from moesim.planner.search_state import slots_filled

MOST_EXPERTS, MOST_DEVICES = 8, 4
EVALUATIONS = 8000  # of the objective, over all layers; a layer gets at least EVALUATIONS / 8
_FRUITLESS = 40  # climbs in a row that find nothing quicker end the search
_FLOOR = 1e-12  # relative gain below which a change is rounding
Table = NDArray[np.int64]


def is_tiny(problem: PlacementProblem) -> bool:
    """Whether a layer is small enough for `climb`."""
    return problem.num_experts <= MOST_EXPERTS and problem.num_devices <= MOST_DEVICES


def climb(problem: PlacementProblem, layer: int, start: ExpertPlacement) -> ExpertPlacement:
    """The quickest placement found from `start`, one copy for every source and expert; `start` itself if that is quicker.

    Judged on the problem's sketch, which it must have. Same arguments, same answer.
    """
    assert problem.sketch is not None
    search = _Climb(problem, merge_alike(problem.sketch, layer), layer)
    limit = int(EVALUATIONS * problem.work_limit / min(problem.num_layers, 8))
    best_ED = search.climbed(main_sources(start), limit)
    random, fruitless = np.random.default_rng(problem.seed), 0
    while len(search.time_of_table) < limit and fruitless < _FRUITLESS:
        kicked_ED = best_ED.copy()
        some = random.permutation(problem.num_experts)[:3]
        kicked_ED[some] = kicked_ED[np.roll(some, 1)]  # as many experts on every device as before
        kicked_ED = search.climbed(kicked_ED, limit)
        better = search.time(kicked_ED) < search.time(best_ED) * (1.0 - _FLOOR)
        best_ED, fruitless = (kicked_ED, 0) if better else (best_ED, fruitless + 1)
    found = placed(problem, best_ED)
    times = [time_of(problem, problem.sketch, layer, plan) for plan in (start, found)]
    return found if times[1] < times[0] * (1.0 - _FLOOR) else start


def merge_alike(sketch: TokenSketch, layer: int) -> TokenSketch:
    """The tokens of one layer, those of one source, window and set of experts as one with their weights' sum.

    Other layers' experts are meaningless in it. What a plan costs stays the same wherever every source uses one copy of
    an expert.
    """
    sets_TK = np.sort(sketch.experts_LTK[layer], axis=1)
    keys = np.column_stack([sketch.source_T, sketch.window_T, sets_TK])
    _, first, of_token = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return dataclasses.replace(
        sketch,
        experts_LTK=np.ascontiguousarray(sketch.experts_LTK[:, first]),
        source_T=sketch.source_T[first],
        weight_T=np.bincount(of_token.ravel(), weights=sketch.weight_T, minlength=first.size).astype(np.float64),
        window_T=sketch.window_T[first],
        token_T=sketch.token_T[first],
    )


def main_sources(placement: ExpertPlacement) -> Table:
    """The device each source sends most of an expert's tokens to [E, D]; of even shares the first copy."""
    table_ED = np.empty((placement.num_experts, placement.num_devices), dtype=np.int64)
    share_NP = np.ones((1, placement.num_slots)) if placement.split_NP is None else placement.split_NP
    source_D = np.arange(placement.num_devices) * len(share_NP) // placement.num_devices
    for expert in range(placement.num_experts):
        slots = np.flatnonzero(placement.expert_of_slot_P == expert)
        chosen_D = np.argmax(share_NP[:, slots], axis=1)[source_D]
        table_ED[expert] = placement.device_of_slot_P[slots[chosen_D]]
    return table_ED


def placed(problem: PlacementProblem, table_ED: Table) -> ExpertPlacement:
    """The placement in which source d uses the copy of expert e on device `table_ED[e, d]`; other slots are idle."""
    expert_P = slots_filled(_holds(table_ED), problem.slots_of_devices)
    device_P = np.repeat(np.arange(problem.num_devices), problem.slots_of_devices)
    return problem.placement(expert_P, _first_of_device(table_ED[expert_P].T == device_P, expert_P, device_P))


def _first_of_device(used_DP: NDArray[np.bool_], expert_P: NDArray[np.int32], device_P: Table) -> NDArray[np.float64]:
    """Shares of 0 and 1; where a device repeats an expert, which only spare slots do, its first slot is used."""
    slot = np.unique(device_P * (int(expert_P.max()) + 1) + expert_P, return_index=True)[1]
    first_P = np.zeros(expert_P.size, dtype=np.bool_)
    first_P[slot] = True
    return (used_DP & first_P).astype(np.float64)


def _holds(table_ED: Table) -> NDArray[np.bool_]:
    holds_ED = np.zeros(table_ED.shape, dtype=np.bool_)
    holds_ED[np.arange(len(table_ED))[:, None], table_ED] = True
    return holds_ED


class _Climb:
    """The objective of one layer as a function of tables, each evaluated once, and steepest descents on it."""

    def __init__(self, problem: PlacementProblem, sketch: TokenSketch, layer: int) -> None:
        self.problem, self.sketch, self.layer = problem, sketch, layer
        devices = problem.num_devices
        self.rows_RD: Table = np.array(list(itertools.product(range(devices), repeat=devices)), dtype=np.int64)
        self.holds_RD = _holds(self.rows_RD)
        self.time_of_table: dict[bytes, float] = {}

    def time(self, table_ED: Table) -> float:
        """Seconds of the layer."""
        key = table_ED.tobytes()
        if key not in self.time_of_table:
            self.time_of_table[key] = time_of(self.problem, self.sketch, self.layer, placed(self.problem, table_ED))
        return self.time_of_table[key]

    def climbed(self, table_ED: Table, limit: int) -> Table:
        """The end of the steepest descent from a table, or where work ends."""
        while len(self.time_of_table) < limit:
            best = min(self.neighbours(table_ED), key=self.time, default=table_ED)
            if self.time(best) >= self.time(table_ED) * (1.0 - _FLOOR):
                break
            table_ED = best
        return table_ED

    def neighbours(self, table_ED: Table) -> Iterator[Table]:
        """Tables within the slots that differ in one expert, or in where two experts' copies are."""
        slots_D, holds_ED = self.problem.slots_of_devices, _holds(table_ED)
        fill_D = holds_ED.sum(axis=0)
        for expert in range(len(table_ED)):
            fits_R = (fill_D - holds_ED[expert] + self.holds_RD <= slots_D).all(axis=1)
            for row_D in self.rows_RD[fits_R]:
                yield _with_rows(table_ED, [expert], [row_D])
        for one, other in itertools.combinations(range(len(table_ED)), 2):
            yield _with_rows(table_ED, [one, other], [table_ED[other], table_ED[one]])
            for here, there in itertools.product(np.flatnonzero(holds_ED[one]), np.flatnonzero(holds_ED[other])):
                moved = [
                    np.where(table_ED[one] == here, there, table_ED[one]),
                    np.where(table_ED[other] == there, here, table_ED[other]),
                ]
                if not holds_ED[one, there] and not holds_ED[other, here]:
                    yield _with_rows(table_ED, [one, other], moved)


def _with_rows(table_ED: Table, experts: list[int], rows: list[Table]) -> Table:
    """The table with other rows for some experts."""
    changed_ED = table_ED.copy()
    changed_ED[experts] = rows
    return changed_ED
