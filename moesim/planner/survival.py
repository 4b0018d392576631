"""Survival: every expert in several failure domains (nodes, or devices where there is one node), and what forbids that.

Array letters: E expert, D device, P slot, F failure domain.
"""

import itertools
from collections.abc import Mapping

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.placement import slots_per_device
from moesim.planner.packing import pack_longest_first
from moesim.planner.problem import PlacementProblem
from moesim.planner.water_fill import water_fill


def domain_of_devices(problem: PlacementProblem) -> NDArray[np.int64]:
    """The failure domain of each device [D]: its node, or itself where all are on one node."""
    return problem.node_of_devices if problem.num_nodes > 1 else np.arange(problem.num_devices)


def fewest_domains(problem: PlacementProblem, expert_of_slot_P: NDArray[np.integer]) -> tuple[int, int]:
    """The expert in fewest failure domains, and in how many it is."""
    domains_E = (_counts(problem, expert_of_slot_P) > 0).sum(axis=1)
    return int(domains_E.argmin()), int(domains_E.min())


def surviving_slots(problem: PlacementProblem, load_E: NDArray[np.float64]) -> NDArray[np.int32]:
    """Slots [P] of equal load per device with every expert in `survive` + 1 failure domains; best effort where none exist.

    Copies by water-filling over at least that many each, longest first, then spread and levelled.
    """
    slots_D, least = problem.slots_of_devices, problem.survive + 1
    live = int((slots_D > 0).sum())
    # Each expert's first copies are not water-filling's to give: what it shares out is the rest.
    rest_E = water_fill(load_E, problem.num_slots - (least - 1) * problem.num_experts, live)
    copies_E = np.minimum(_filled(load_E, rest_E, problem.num_slots, least), max(live, least))
    slots_P = pack_longest_first(
        load_E, _topped(load_E, copies_E, problem.num_slots), problem.num_devices, slots_D, problem.speeds
    )
    return survivors(problem, slots_P, load_E)


def survivors(
    problem: PlacementProblem, expert_of_slot_P: NDArray[np.integer], load_E: NDArray[np.float64]
) -> NDArray[np.int32]:
    """The slots [P] changed so that every expert is in `survive` + 1 failure domains, where that can be done one by one.

    An expert in too few domains takes the slot, in a domain without it, of the expert with most copies to spare, or trades
    places with a copy elsewhere; then copies trade places off the most loaded device as long as that breaks nothing.
    """
    slots_D = problem.slots_of_devices
    slots_P = expert_of_slot_P.astype(np.int64)
    count_EF = _counts(problem, slots_P)
    device_P = np.repeat(np.arange(problem.num_devices), slots_D)
    held_ED = np.zeros((problem.num_experts, problem.num_devices), dtype=np.int64)
    np.add.at(held_ED, (slots_P, device_P), 1)
    domain_D = domain_of_devices(problem)
    least, price_D = problem.survive + 1, 1.0 / problem.speeds
    _spread(slots_P, device_P, held_ED, count_EF, domain_D, load_E, price_D, least)
    _level(slots_P, device_P, held_ED, count_EF, domain_D, load_E, price_D, least)
    return slots_P.astype(np.int32)


def contradiction(problem: PlacementProblem, dead_D: NDArray[np.bool_]) -> str | None:
    """The smallest set of constraints that cannot hold together, in words; None where they can.

    Constraints: slots a layer, copies that survive, what memory holds, devices that are dead. Without duplicates on a
    device, `survive` + 1 domains for each expert need that the domains together take so many distinct copies, which is
    enough too (degree sequences of bipartite graphs). That slots fit memory was found when the problem was posed.
    """
    alive, survive = int((~dead_D).sum()), problem.survive
    rule_D = slots_per_device(problem.num_slots, problem.num_devices)
    by_memory = bool((problem.slots_of_devices < rule_D)[~dead_D].any())
    facts = {
        "slots": f"slots={problem.num_slots} a layer",
        "survive": f"survive={survive}, which needs {survive + 1} copies of each of {problem.num_experts} experts in "
        f"{survive + 1} failure domains",
        "memory": "what the devices' memory holds",
        "faults": f"{problem.num_devices - alive} dead of {problem.num_devices} devices",
    }
    asked = {"slots": True, "survive": survive > 0, "memory": by_memory, "faults": alive < problem.num_devices}
    names = [name for name in facts if asked[name]]
    for size in range(1, len(names) + 1):
        for chosen in itertools.combinations(names, size):
            if not _feasible(problem, rule_D, dead_D, {name: name in chosen for name in facts}):
                domains = np.unique(domain_of_devices(problem)).size
                together = " and ".join(facts[name] for name in chosen)
                what = "node" if problem.num_nodes > 1 else "device"
                return f"{together} cannot hold together; there are {domains} failure domains ({what}s)"
    return None


def _feasible(
    problem: PlacementProblem, rule_D: NDArray[np.int64], dead_D: NDArray[np.bool_], kept: Mapping[str, bool]
) -> bool:
    """Whether the constraints that are kept allow a placement; the others are as if nobody had asked."""
    experts, least = problem.num_experts, problem.survive + 1 if kept["survive"] else 1
    most_D = np.full(problem.num_devices, experts)
    if kept["slots"]:
        most_D = problem.slots_of_devices if kept["memory"] or kept["faults"] else rule_D
    elif kept["memory"]:  # how much more the others could hold is not known
        full_D = (problem.slots_of_devices < rule_D) & ~dead_D
        most_D = np.where(full_D, problem.slots_of_devices, most_D)
    if kept["faults"]:
        most_D = np.where(dead_D, 0, most_D)
    take_F = np.minimum(np.bincount(domain_of_devices(problem), weights=np.minimum(most_D, experts)), experts)
    return bool(take_F.sum() >= least * experts)


def _counts(problem: PlacementProblem, expert_of_slot_P: NDArray[np.integer]) -> NDArray[np.int64]:
    """Copies of each expert in each failure domain [E, F]."""
    domain_D = domain_of_devices(problem)
    domain_P = np.repeat(domain_D, problem.slots_of_devices)
    count_EF = np.zeros((problem.num_experts, int(domain_D.max()) + 1), dtype=np.int64)
    np.add.at(count_EF, (expert_of_slot_P, domain_P), 1)
    return count_EF


def _filled(load_E: NDArray[np.float64], rest_E: NDArray[np.int64], slots: int, least: int) -> NDArray[np.int64]:
    """At least `least` copies of each expert; the hottest keep what water-filling gave them as far as slots go."""
    copies_E = np.full(load_E.size, least, dtype=np.int64)
    left = slots - int(copies_E.sum())
    for expert in np.argsort(-load_E / np.maximum(rest_E, 1), kind="stable"):
        more = min(max(int(rest_E[expert]) - least, 0), left)
        copies_E[expert] += more
        left -= more
    return copies_E


def _topped(load_E: NDArray[np.float64], copies_E: NDArray[np.int64], slots: int) -> NDArray[np.int64]:
    """Slots that are left go one by one to the largest load per copy."""
    copies_E = copies_E.copy()
    for _ in range(slots - int(copies_E.sum())):
        copies_E[int(np.argmax(load_E / copies_E))] += 1
    return copies_E


@njit(cache=True, nogil=True)
def _spread(slots_P, device_P, held_ED, count_EF, domain_D, load_E, price_D, least):  # type: ignore[no-untyped-def]
    """Bring every expert into `least` domains."""
    for expert in range(load_E.size):
        while np.count_nonzero(count_EF[expert]) < least:
            best, best_slot, best_mine = np.inf, -1, -1
            for slot in range(slots_P.size):
                theirs, device = slots_P[slot], device_P[slot]
                domain = domain_D[device]
                if count_EF[expert, domain] or theirs == expert:
                    continue
                copies = held_ED[theirs].sum()
                spare = np.count_nonzero(count_EF[theirs]) - (1 if count_EF[theirs, domain] == 1 else 0)
                if copies > least and spare >= least:
                    cost = load_E[theirs] / copies
                    if cost < best:
                        best, best_slot, best_mine = cost, slot, -1
            if best_slot < 0:  # trade a copy of ours that shares its domain with another
                best_slot, best_mine = _trade_for(expert, slots_P, device_P, held_ED, count_EF, domain_D, load_E, least)
            if best_slot < 0:
                break
            if best_mine < 0:
                _give(best_slot, expert, slots_P, device_P, held_ED, count_EF, domain_D)
            else:
                theirs = slots_P[best_slot]
                _give(best_slot, expert, slots_P, device_P, held_ED, count_EF, domain_D)
                _give(best_mine, theirs, slots_P, device_P, held_ED, count_EF, domain_D)


@njit(cache=True, nogil=True)
def _trade_for(expert, slots_P, device_P, held_ED, count_EF, domain_D, load_E, least):  # type: ignore[no-untyped-def]
    """Slots (theirs, mine) that can trade so that `expert` gains a domain and theirs falls below `least` nowhere."""
    best, found, own = np.inf, -1, -1
    for mine in range(slots_P.size):
        here = device_P[mine]
        if slots_P[mine] != expert or count_EF[expert, domain_D[here]] < 2:
            continue
        for slot in range(slots_P.size):
            theirs, there = slots_P[slot], device_P[slot]
            if count_EF[expert, domain_D[there]] or held_ED[theirs, here]:
                continue
            domains = np.count_nonzero(count_EF[theirs])
            after = domains - (1 if count_EF[theirs, domain_D[there]] == 1 else 0)
            after += 1 if count_EF[theirs, domain_D[here]] == 0 else 0
            if after < min(least, domains):
                continue
            cost = abs(load_E[theirs] / held_ED[theirs].sum() - load_E[expert] / held_ED[expert].sum())
            if cost < best:
                best, found, own = cost, slot, mine
    return found, own


@njit(cache=True, nogil=True)
def _give(slot, expert, slots_P, device_P, held_ED, count_EF, domain_D):  # type: ignore[no-untyped-def]
    device, before = device_P[slot], slots_P[slot]
    held_ED[before, device] -= 1
    count_EF[before, domain_D[device]] -= 1
    held_ED[expert, device] += 1
    count_EF[expert, domain_D[device]] += 1
    slots_P[slot] = expert


@njit(cache=True, nogil=True)
def _level(slots_P, device_P, held_ED, count_EF, domain_D, load_E, price_D, least):  # type: ignore[no-untyped-def]
    """Trades off the most loaded device that keep every expert's domains, until none lowers it."""
    copies_E = held_ED.sum(axis=1)
    load_D = np.zeros(price_D.size)
    for slot in range(slots_P.size):
        load_D[device_P[slot]] += load_E[slots_P[slot]] / copies_E[slots_P[slot]] * price_D[device_P[slot]]
    for _ in range(16 * slots_P.size):
        hot = np.argmax(load_D)
        best, best_mine, best_slot = load_D[hot] * (1.0 - 1e-12), -1, -1
        for mine in range(slots_P.size):
            if device_P[mine] != hot:
                continue
            ours = slots_P[mine]
            for slot in range(slots_P.size):
                theirs, there = slots_P[slot], device_P[slot]
                given = load_E[ours] / copies_E[ours] - load_E[theirs] / copies_E[theirs]
                if there == hot or given <= 0.0 or held_ED[ours, there] or held_ED[theirs, hot]:
                    continue
                after = max(load_D[hot] - given * price_D[hot], load_D[there] + given * price_D[there])
                if after >= best:
                    continue
                here_F, there_F = domain_D[hot], domain_D[there]
                if here_F != there_F and not (
                    _kept_apart(count_EF[ours], here_F, there_F, least)
                    and _kept_apart(count_EF[theirs], there_F, here_F, least)
                ):
                    continue
                best, best_mine, best_slot = after, mine, slot
        if best_mine < 0:
            return
        ours, theirs, there = slots_P[best_mine], slots_P[best_slot], device_P[best_slot]
        given = load_E[ours] / copies_E[ours] - load_E[theirs] / copies_E[theirs]
        load_D[hot] -= given * price_D[hot]
        load_D[there] += given * price_D[there]
        _give(best_slot, ours, slots_P, device_P, held_ED, count_EF, domain_D)
        _give(best_mine, theirs, slots_P, device_P, held_ED, count_EF, domain_D)


@njit(cache=True, nogil=True)
def _kept_apart(count_F, leaves, comes, least):  # type: ignore[no-untyped-def]
    """Whether an expert keeps its domains when one copy moves from one to another."""
    domains = np.count_nonzero(count_F)
    after = domains - (1 if count_F[leaves] == 1 else 0) + (1 if count_F[comes] == 0 else 0)
    return after >= min(least, domains)
