"""What to search on, found out inside the planning window: plan on its first half, judge on its second.

A plan is judged on steps it has not seen. What a search gains on the steps it sees may be there tomorrow (the same sequences
on the same ranks, decode) or not (every step has other sequences); so both are tried, and the published balancer beside
them. Array letters: L MoE ordinal, W window, E expert, D device.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moesim.placement import ExpertPlacement
from moesim.planner.objective import layer_time, make_state
from moesim.planner.problem import PlacementProblem, TokenSketch
from moesim.planner.search_state import state_bytes
from moesim.planner.side_by_side import side_by_side
from moesim.planner.sketch import join_sketches, select_windows, shuffled_sources

FEW_WINDOWS = 8
MOST_LAYERS = 4  # judged in the trial, evenly spaced
Search = Callable[[PlacementProblem, TokenSketch, int], ExpertPlacement]
Published = Callable[[PlacementProblem, int], Sequence[ExpertPlacement]]
Variant = Callable[[TokenSketch, int], TokenSketch]


def as_recorded(sketch: TokenSketch, num_ranks: int) -> TokenSketch:
    """The windows as they are."""
    return sketch


def half_shuffled(sketch: TokenSketch, num_ranks: int) -> TokenSketch:
    """Half of the windows as they are, half with their ranks dealt anew; of few windows each both ways."""
    shuffled = shuffled_sources(sketch, num_ranks, 0)
    if sketch.num_windows < FEW_WINDOWS:
        return join_sketches([sketch, shuffled], [1.0, 1.0])
    windows = range(sketch.num_windows)
    return join_sketches([select_windows(sketch, windows[::2]), select_windows(shuffled, windows[1::2])], [1.0, 1.0])


VARIANTS: tuple[Variant, ...] = (as_recorded, half_shuffled)


@dataclass(frozen=True, slots=True)
class Trial:
    """How the variants did on windows they had not seen: seconds of some layers, and of the published balancer's plans.

    `chosen` is the quickest variant; `published_s` is inf where the balancer has no answer. Both hold the layers'
    attention, which no placement changes, so that `gain` is near that of a whole step.
    """

    chosen: Variant
    searched_s: float
    published_s: float

    @property
    def gain(self) -> float:
        """Published time / searched time - 1 on unseen windows."""
        return self.published_s / self.searched_s - 1.0


def time_of(problem: PlacementProblem, sketch: TokenSketch, layer: int, placement: ExpertPlacement) -> float:
    """Seconds of a layer under a placement: by its split, or even where it has none."""
    assert problem.costs is not None
    policy = "even" if placement.split_NP is None else "split"
    state = make_state(problem.costs, sketch, layer, placement, policy, problem.seed + layer)
    return float(layer_time(problem.costs, state, 0.0))


def try_variants(problem: PlacementProblem, sketch: TokenSketch, search: Search, published: Published) -> Trial | None:
    """Judge every variant on the second half of the windows; None where there is only one window."""
    if sketch.num_windows < 2:
        return None
    half = sketch.num_windows // 2
    seen, unseen = select_windows(sketch, range(half)), select_windows(sketch, range(half, sketch.num_windows))
    layers = np.unique(np.linspace(0, problem.num_layers - 1, min(problem.num_layers, MOST_LAYERS)).round().astype(int))
    early = _planned_on(problem, seen)
    assert problem.costs is not None
    num_ranks, attention_s = problem.costs.num_ranks, len(layers) * problem.costs.attention_s
    known = [variant(seen, num_ranks) for variant in VARIANTS]
    bytes_each = state_bytes(problem.num_experts, problem.num_devices, max(one.num_windows for one in known), num_ranks)

    def judged(job: tuple[int, int]) -> float:
        number, layer = job
        return time_of(problem, unseen, layer, search(early, known[number], layer))

    jobs = list(itertools.product(range(len(VARIANTS)), layers.tolist()))
    seconds = np.reshape(side_by_side(judged, jobs, bytes_each), (len(VARIANTS), -1)).sum(axis=1)
    plans = [[time_of(problem, unseen, int(layer), plan) for plan in published(early, int(layer))] for layer in layers]
    published_s = sum(min(one, default=np.inf) for one in plans)
    best = int(np.argmin(seconds))
    return Trial(VARIANTS[best], float(seconds[best]) + attention_s, published_s + attention_s)


def _planned_on(problem: PlacementProblem, sketch: TokenSketch) -> PlacementProblem:
    """The problem with the loads of a sketch."""
    load_LE = np.zeros_like(problem.load_LE)
    for layer, experts_TK in enumerate(sketch.experts_LTK):
        there_TK = experts_TK >= 0
        weight_TK = np.broadcast_to(sketch.weight_T[:, None], experts_TK.shape)
        load_LE[layer] = np.bincount(experts_TK[there_TK], weights=weight_TK[there_TK], minlength=problem.num_experts)
    return dataclasses.replace(problem, load_LE=load_LE)
