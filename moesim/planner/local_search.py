"""Local search on one layer: swap copies, retarget a slot to another expert, send sources to another copy.

Moves are drawn from a seeded generator, half of them at the device that computes longest in a drawn window, and kept when
the value of the state falls; so the search never worsens it. Work is counted, not timed.
Array letters: E expert, D device, W window.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.planner.search_costs import SearchCosts
from moesim.planner.search_state import (
    SearchState,
    SearchTokens,
    add_sums,
    compute_s,
    power,
    root,
    set_table,
    value,
)

_FLOOR = 1e-9  # relative gain below which a move is not worth keeping


@njit(cache=True, nogil=True)
def improve(costs, tokens, state, work, seed):  # type: ignore[no-untyped-def]  # types are numba's
    """Search until so much `work` (units of some 10 ns, see set_table) is spent; returns the value reached.

    The state changes in place.
    """
    num_devices = state.fill_D.size
    random = np.array([np.uint64(seed) * np.uint64(2654435769) + np.uint64(88172645463325252)], dtype=np.uint64)
    best = value(tokens, state)
    if tokens.source_T.size == 0:
        return best
    spent, since = 0.0, 0
    copies = state.copies_E.sum() > state.copies_E.size or state.fill_D.sum() < state.slots_D.sum()
    while spent < work:
        kind = _below(random, 10) if copies else 0
        device = _busiest(costs, state, _below(random, tokens.window_weight_W.size)) % num_devices
        if _below(random, 2) == 0:
            device = _below(random, num_devices)
        if kind < 4:
            cost, best = _try_swap(costs, tokens, state, device, random, best)
        elif kind < 7:
            cost, best = _try_resend(costs, tokens, state, random, best)
        else:
            cost, best = _try_retarget(costs, tokens, state, device, random, best)
        spent += cost
        since += 1
        if since == 512:
            add_sums(costs, state)
            best, since = value(tokens, state), 0
    add_sums(costs, state)
    return value(tokens, state)


@njit(cache=True, nogil=True)
def _draw(random):  # type: ignore[no-untyped-def]
    """The next number of a xorshift generator."""
    x = random[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    random[0] = x
    return x


@njit(cache=True, nogil=True)
def _below(random, bound):  # type: ignore[no-untyped-def]
    return np.int64((_draw(random) >> np.uint64(11)) % np.uint64(bound))


@njit(cache=True, nogil=True)
def _busiest(costs, state, window):  # type: ignore[no-untyped-def]
    """The rank that computes longest in a window."""
    longest, busiest = -1.0, 0
    for rank in range(state.read_s_WS.shape[1]):
        seconds = compute_s(costs, state, window, rank)
        if seconds > longest:
            longest, busiest = seconds, rank
    return busiest


@njit(cache=True, nogil=True)
def _held(state, device, random):  # type: ignore[no-untyped-def]
    """An expert that the device holds, drawn; -1 where it holds none."""
    if state.fill_D[device] == 0:
        return -1
    place = _below(random, state.fill_D[device])
    for expert in range(state.copies_E.size):
        if state.holds_ED[expert, device]:
            if place == 0:
                return expert
            place -= 1
    return -1


@njit(cache=True, nogil=True)
def _moved(table_D, old, new):  # type: ignore[no-untyped-def]
    """The table with every source of `old` on `new`."""
    moved_D = table_D.copy()
    for source in range(moved_D.size):
        if moved_D[source] == old:
            moved_D[source] = new
    return moved_D


@njit(cache=True, nogil=True)
def _compute_gain(costs, tokens, state, expert, device, other, target):  # type: ignore[no-untyped-def]
    """What the compute term loses when copies (expert, device) and (other, target) change places; exact, and quick.

    Only the two devices' sums are looked at; weight reads and arithmetic of both copies go with them.
    """
    num_devices = state.fill_D.size
    groups = state.read_s_WS.shape[1] // num_devices
    gain = 0.0
    for window in range(state.compute_sum_W.size):
        total = state.compute_sum_W[window]
        for group in range(groups):
            here, there = group * num_devices + device, group * num_devices + target
            column = window * groups + group
            leaves = _copy_s(costs, state, expert, device, column, here)
            comes = _copy_s(costs, state, other, target, column, there)
            seconds, seconds_there = compute_s(costs, state, window, here), compute_s(costs, state, window, there)
            speed = costs.byte_s_S[here] / costs.byte_s_S[there]
            total += power(max(seconds - leaves + comes * speed, 0.0)) - power(seconds)
            total += power(max(seconds_there - comes + leaves / speed, 0.0)) - power(seconds_there)
        gain += tokens.window_weight_W[window] * (root(state.compute_sum_W[window]) - root(total))
    return gain


@njit(cache=True, nogil=True)
def _copy_s(costs, state, expert, device, column, rank):  # type: ignore[no-untyped-def]
    """About what a copy adds to its device's time: by the roof that binds there."""
    rows = state.rows_EDV[expert, device, column]
    if rows <= 0.0:
        return 0.0
    window = column // (state.rows_EDV.shape[2] // state.read_s_WS.shape[0])
    seconds = rows * costs.activation_bytes_E[expert] * costs.moved_s_S[rank]
    if state.read_s_WS[window, rank] >= state.rows_s_WS[window, rank]:
        return seconds + costs.weight_bytes_E[expert] * costs.byte_s_S[rank]
    return seconds + max(rows + 0.5 * costs.tile, costs.tile) * costs.params_E[expert] * costs.flop_s_S[rank]


@njit(cache=True, nogil=True)
def _try_swap(costs, tokens, state, device, random, best):  # type: ignore[no-untyped-def]
    """A drawn copy of `device` and one elsewhere change places, with their sources; or move into a free slot."""
    target = _below(random, state.fill_D.size)
    expert, other = _held(state, device, random), _held(state, target, random)
    free = state.fill_D[target] < state.slots_D[target]
    if device == target or expert < 0 or state.holds_ED[expert, target]:
        return 60.0, best
    if other < 0 or state.holds_ED[other, device] or (free and _below(random, 2) == 0):
        if not free:
            return 60.0, best
        other = -1
    if other >= 0 and _compute_gain(costs, tokens, state, expert, device, other, target) < -0.004 * best:
        return 40.0, best
    other_D = _moved(state.device_ED[max(other, 0)], target, device)
    moved_D = _moved(state.device_ED[expert], device, target)
    work, now, kept = _attempt(costs, tokens, state, expert, moved_D, other, other_D, best)
    if kept:
        state.holds_ED[expert, device], state.holds_ED[expert, target] = False, True
        if other >= 0:
            state.holds_ED[other, target], state.holds_ED[other, device] = False, True
        else:
            state.fill_D[device] -= 1
            state.fill_D[target] += 1
    return work, now


@njit(cache=True, nogil=True)
def _attempt(costs, tokens, state, first, first_D, second, second_D, best):  # type: ignore[no-untyped-def]
    """Give two experts new tables (-1: there is none), and take them back unless the value falls.

    Returns the work, the value and whether they were kept. Every move is tried here, and `set_table` is called in one
    place only: it is inlined wherever it is called, and each copy of it takes seconds to compile.
    """
    old_first_D, old_second_D = state.device_ED[max(first, 0)].copy(), state.device_ED[max(second, 0)].copy()
    work = 0.0
    for turn in range(4):  # first, second; then, taken back, second, first
        if turn == 2:
            now = value(tokens, state)
            if now < best * (1.0 - _FLOOR):
                return work, now, True
        expert = first if turn == 0 or turn == 3 else second
        table_D = first_D if turn == 0 else second_D if turn == 1 else old_second_D if turn == 2 else old_first_D
        if expert >= 0:
            work += set_table(costs, tokens, state, expert, table_D)
    return work, best, False


@njit(cache=True, nogil=True)
def _try_resend(costs, tokens, state, random, best):  # type: ignore[no-untyped-def]
    """Some sources of an expert with several copies go to another copy: one, those of a node, or all of a copy."""
    num_experts, num_devices = state.holds_ED.shape
    expert = _below(random, num_experts)
    for _ in range(num_experts):
        if state.copies_E[expert] > 1:
            break
        expert = (expert + 1) % num_experts
    if state.copies_E[expert] < 2:
        return 60.0, best
    old_D = state.device_ED[expert].copy()
    row, kind = _below(random, num_devices), _below(random, 4)
    new = _copy_number(state, expert, _below(random, state.copies_E[expert]))
    table_D = old_D.copy()
    if kind == 3:  # every source to the copy it is nearest to, as far as that is `new`
        for source in range(num_devices):
            if source // costs.devices_per_node == new // costs.devices_per_node:
                table_D[source] = new
    else:
        for source in range(num_devices):
            same_node = source // costs.devices_per_node == row // costs.devices_per_node
            if source == row or (old_D[source] == old_D[row] and (kind == 2 or (kind == 1 and same_node))):
                table_D[source] = new
    if (table_D == old_D).all():
        return 60.0, best
    work, now, _ = _attempt(costs, tokens, state, expert, table_D, np.int64(-1), old_D, best)
    return work, now


@njit(cache=True, nogil=True)
def _copy_number(state, expert, number):  # type: ignore[no-untyped-def]
    """The device of an expert's copy by its place in the order of devices."""
    for device in range(state.fill_D.size):
        if state.holds_ED[expert, device]:
            if number == 0:
                return device
            number -= 1
    return -1


@njit(cache=True, nogil=True)
def _try_retarget(costs, tokens, state, device, random, best):  # type: ignore[no-untyped-def]
    """A slot of some device holds another expert from now on: one that is hot on `device`, copied elsewhere or nearby.

    The old expert's sources go to its other copies; sources near the new copy, or half of the hot copy's, go to it.
    """
    num_experts, num_devices = state.holds_ED.shape
    added = _held(state, device, random) if _below(random, 2) == 0 else _below(random, num_experts)
    target = _below(random, num_devices)
    if added < 0 or state.holds_ED[added, target]:
        return 60.0, best
    dropped = -1
    if state.fill_D[target] >= state.slots_D[target]:
        dropped = _spare(state, target, random)
        if dropped < 0:
            return 60.0, best
    dropped_D = _without(costs, state, max(dropped, 0), target)
    added_D = _with(costs, state, added, target, device, random)
    work, now, kept = _attempt(costs, tokens, state, dropped, dropped_D, added, added_D, best)
    if kept:
        state.holds_ED[added, target] = True
        state.copies_E[added] += 1
        if dropped >= 0:
            state.holds_ED[dropped, target] = False
            state.copies_E[dropped] -= 1
        else:
            state.fill_D[target] += 1
    return work, now


@njit(cache=True, nogil=True)
def _spare(state, device, random):  # type: ignore[no-untyped-def]
    """An expert on the device that has another copy elsewhere, an idle one first; -1 where there is none."""
    found, count = -1, 0
    for expert in range(state.copies_E.size):
        if state.holds_ED[expert, device] and state.copies_E[expert] > 1:
            if state.uses_ED[expert, device] == 0:
                return expert
            count += 1
            if _below(random, count) == 0:
                found = expert
    return found


@njit(cache=True, nogil=True)
def _without(costs, state, expert, device):  # type: ignore[no-untyped-def]
    """The expert's table when its copy on `device` is gone: sources go to a copy of their node, else to the quietest."""
    table_D = state.device_ED[expert].copy()
    for source in range(table_D.size):
        if table_D[source] != device:
            continue
        chosen, chosen_key = -1, 0.0
        for copy in range(table_D.size):
            if copy == device or not state.holds_ED[expert, copy]:
                continue
            far = source // costs.devices_per_node != copy // costs.devices_per_node
            key = 1e6 * far + state.uses_ED[expert, copy]
            if chosen < 0 or key < chosen_key:
                chosen, chosen_key = copy, key
        table_D[source] = chosen
    return table_D


@njit(cache=True, nogil=True)
def _with(costs, state, expert, new, device, random):  # type: ignore[no-untyped-def]
    """The expert's table with a copy on `new`: used by its node, by every other source of `device`'s copy, or by both."""
    table_D = state.device_ED[expert].copy()
    kind, parity = _below(random, 3), _below(random, 2)
    for source in range(table_D.size):
        near = source // costs.devices_per_node == new // costs.devices_per_node
        half = table_D[source] == device and source % 2 == parity
        if source == new or (kind != 1 and near) or (kind != 0 and half):
            table_D[source] = new
    return table_D


def busiest_devices(costs: SearchCosts, tokens: SearchTokens, state: SearchState) -> NDArray[np.float64]:
    """Seconds each rank computes, mean over windows [S]."""
    seconds_S: NDArray[np.float64] = _seconds(costs, tokens, state)
    return seconds_S


def swap_into(
    costs: SearchCosts, tokens: SearchTokens, state: SearchState, expert: int, table_D: NDArray[np.int32]
) -> None:
    """Give an expert another source table; the copies it names must be there, or be noted by the caller."""
    set_table(costs, tokens, state, expert, table_D)


@njit(cache=True, nogil=True)
def _seconds(costs, tokens, state):  # type: ignore[no-untyped-def]
    seconds_S = np.zeros(state.read_s_WS.shape[1])
    for window in range(state.compute_sum_W.size):
        for rank in range(seconds_S.size):
            seconds_S[rank] += tokens.window_weight_W[window] * compute_s(costs, state, window, rank)
    return seconds_S
