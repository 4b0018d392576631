"""Migration: a placement near the old one: how far each layer goes, for the gain it brings and the copies that travel.

Every layer has options: the old copies, those some changes further (moesim.planner.nearby), and the fresh plan with its
devices renamed (moesim.planner.relabel). Options on the lower hull of (copies that travel, seconds) are bought in the order
of seconds gained per copy, over all layers, until a copy gains less than its price or the budget is spent.
Array letters: L MoE ordinal, E expert, D device, P slot.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.placement import ExpertPlacement
from moesim.planner.nearby import near_trail
from moesim.planner.objective import layer_time, make_state
from moesim.planner.problem import PlacementProblem
from moesim.planner.relabel import relabelled
from moesim.planner.search_state import copies_of
from moesim.planner.splits import best_split

_STOPS = (0.125, 0.25, 0.5, 1.0)  # of the way to the end of a trail
_FREE = 1e-9  # copies that an option without moves counts as


@dataclass(frozen=True, slots=True)
class Option:
    """One placement of a layer, the copies that travel to get there, and its seconds (loads alone: largest load)."""

    placement: ExpertPlacement
    moved: int
    seconds: float


def migrate(
    problem: PlacementProblem,
    old: Sequence[ExpertPlacement],
    fresh: Sequence[ExpertPlacement],
    policy: str,
    most_moved: int | None,
    price_s: float,
) -> tuple[ExpertPlacement, ...]:
    """One placement per layer: from `old` towards what is quick now, at most `most_moved` copies travelling in all.

    `fresh` are placements made without regard to the old ones. A copy that travels must save `price_s` seconds of a step.
    Old copies that no longer fit (slots were lost) are replaced whatever that costs, before anything else is bought.
    """
    options = [
        _options(problem, layer, old[layer], fresh[layer], policy, most_moved) for layer in range(problem.num_layers)
    ]
    chosen = [0] * len(options)
    left = None if most_moved is None else most_moved - sum(row[0].moved for row in options)
    for gain, layer, number in _offers(options):
        first, last = options[layer][chosen[layer]], options[layer][number]
        more = last.moved - first.moved
        if gain < price_s or number <= chosen[layer] or (left is not None and more > left):
            continue
        chosen[layer] = number
        left = None if left is None else left - more
    return tuple(row[number].placement for row, number in zip(options, chosen, strict=True))


def _offers(options: Sequence[Sequence[Option]]) -> list[tuple[float, int, int]]:
    """(seconds gained per copy, layer, option) of every step along the layers' hulls, most first."""
    offers = []
    for layer, row in enumerate(options):
        at = 0
        while at + 1 < len(row):
            slopes = [
                (row[at].seconds - later.seconds) / max(later.moved - row[at].moved, _FREE) for later in row[at + 1 :]
            ]
            number = at + 1 + int(np.argmax(slopes))
            if slopes[number - at - 1] <= 0.0:
                break
            offers.append((slopes[number - at - 1], layer, number))
            at = number
    return sorted(offers, key=lambda offer: (-offer[0], offer[1], offer[2]))


def _options(
    problem: PlacementProblem,
    layer: int,
    old: ExpertPlacement,
    fresh: ExpertPlacement,
    policy: str,
    most_moved: int | None,
) -> list[Option]:
    """The placements a layer can go to, fewest copies first, the first being the old copies as far as they fit."""
    old_ED, slots_D = copies_of(old), problem.slots_of_devices
    fits = old.num_slots == problem.num_slots and np.array_equal(old.slots_of_devices, slots_D)
    start_P = old.expert_of_slot_P if fits else fitted(old_ED, problem.load_LE[layer], slots_D)
    most = problem.num_slots * 2 if most_moved is None else most_moved
    trail = near_trail(start_P, old_ED, problem.load_LE[layer], slots_D, problem.speeds, most)
    ends = {}
    final = int(trail.moved_M[trail.moved_M <= most].max(initial=0))
    for part in _STOPS:
        slots_P = trail.until(start_P, round(part * final))
        ends[slots_P.tobytes()] = slots_P
    found = [old] if fits else [problem.placement(start_P)]
    found += [problem.placement(slots_P) for slots_P in ends.values() if slots_P.tobytes() != start_P.tobytes()]
    found += [fresh, relabelled(problem, old, fresh, keep_nodes=policy == "split")]
    first, *others = (_option(problem, layer, placement, old_ED, policy) for placement in found)
    return [first, *sorted((o for o in others if o.moved >= first.moved), key=lambda o: (o.moved, o.seconds))]


def _option(
    problem: PlacementProblem, layer: int, placement: ExpertPlacement, old_ED: NDArray[np.bool_], policy: str
) -> Option:
    """The option of a placement, split anew where the policy is to split and the placement does not say how."""
    moved = int((copies_of(placement) & ~old_ED).sum())
    known = problem.costs is not None and problem.sketch is not None
    if policy == "split" and placement.split_NP is None:
        placement = best_split(problem, layer, placement).placement if known else _evenly(problem, placement)
    if policy != "split" and placement.split_NP is not None:
        placement = dataclasses.replace(placement, split_NP=None)
    return Option(placement, moved, seconds_of(problem, layer, placement, policy))


def seconds_of(problem: PlacementProblem, layer: int, placement: ExpertPlacement, policy: str) -> float:
    """Seconds of the layer on the objective; on loads alone, the largest load / speed with even shares."""
    if problem.costs is not None and problem.sketch is not None:
        state = make_state(problem.costs, problem.sketch, layer, placement, policy, problem.seed)
        return float(layer_time(problem.costs, state, 0.0))
    expert_P, load_E = placement.expert_of_slot_P, problem.load_LE[layer]
    share_P = load_E[expert_P] / placement.replicas_E[expert_P]
    load_D = np.bincount(placement.device_of_slot_P, weights=share_P, minlength=problem.num_devices)
    return float((load_D / problem.speeds).max())


def _evenly(problem: PlacementProblem, placement: ExpertPlacement) -> ExpertPlacement:
    return problem.placement(placement.expert_of_slot_P, np.ones((1, placement.num_slots)))


def fitted(old_ED: NDArray[np.bool_], load_E: NDArray[np.float64], slots_D: NDArray[np.int64]) -> NDArray[np.int32]:
    """The old copies in other slots [P]: devices with too few drop copies, free slots get what has none, then the hottest.

    Dropped are copies of the experts with most copies, then least load, the last copy of an expert only where nothing
    else is left. Free slots are filled where load per slot is least.
    """
    held_ED = old_ED.copy()
    held_ED[:, slots_D == 0] = False
    for device in np.flatnonzero(held_ED.sum(axis=0) > slots_D):
        for _ in range(int(held_ED[:, device].sum() - slots_D[device])):
            copies_E = held_ED.sum(axis=1)
            mine = np.flatnonzero(held_ED[:, device])
            held_ED[mine[np.lexsort((mine, load_E[mine], -copies_E[mine]))[0]], device] = False
    free_D = slots_D - held_ED.sum(axis=0)
    homeless = np.flatnonzero(held_ED.sum(axis=1) == 0)
    for expert in homeless[np.argsort(-load_E[homeless], kind="stable")]:
        if free_D.sum() == 0:
            _make_room(held_ED, free_D)
        _take(held_ED, free_D, load_E, int(expert), slots_D)
    rows = [np.flatnonzero(held_ED[:, device]).tolist() for device in range(slots_D.size)]
    copies_E = held_ED.sum(axis=1)
    for device in np.repeat(np.arange(slots_D.size), free_D):
        order = np.lexsort(
            (np.arange(load_E.size), -load_E / copies_E, np.bincount(rows[device], minlength=load_E.size))
        )
        rows[device].append(int(order[0]))
        copies_E[order[0]] += 1
    return np.concatenate([np.array(row, dtype=np.int32) for row in rows])


def _take(
    held_ED: NDArray[np.bool_],
    free_D: NDArray[np.int64],
    load_E: NDArray[np.float64],
    expert: int,
    slots_D: NDArray[np.int64],
) -> None:
    """Give the expert the free slot of the device with least load."""
    load_D = (held_ED * (load_E / np.maximum(held_ED.sum(axis=1), 1))[:, None]).sum(axis=0)
    device = int(np.argmin(np.where(free_D > 0, load_D / np.maximum(slots_D, 1), np.inf)))
    held_ED[expert, device] = True
    free_D[device] -= 1


def _make_room(held_ED: NDArray[np.bool_], free_D: NDArray[np.int64]) -> None:
    """Free a slot of the expert with most copies: there are at least as many slots as experts, so one has two."""
    expert = int(np.argmax(held_ED.sum(axis=1)))
    device = int(np.flatnonzero(held_ED[expert])[-1])
    held_ED[expert, device] = False
    free_D[device] += 1
