"""Move rounds: in which order copies travel from device to device, nobody sending or receiving two at a time.

A copy that a device lacks is fetched from a device that held it before: which one is a min-cost flow (few sends from any
device, same node first), when is an edge colouring. Array letters: E expert, D device, M move.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Held = NDArray[np.bool_]
Move = tuple[int, int, int]  # expert, device that sends, device that receives


def arrivals(old_ED: Held, new_ED: Held) -> NDArray[np.int64]:
    """(expert, device) of every copy that a device lacks [M, 2], by device."""
    device, expert = np.nonzero((new_ED & ~old_ED).T)
    return np.stack([expert, device], axis=1)


def move_rounds(old_ED: Held, new_ED: Held, devices_per_node: int) -> tuple[tuple[Move, ...], ...]:
    """Every copy that travels, in as few rounds as its sends and receives allow: each device one of each at most.

    All arrive before the layer is switched over, so a copy can be fetched from a slot that gets another expert. A copy that
    no device held (its devices are lost) is sent by its receiver: it is loaded from the checkpoint.
    """
    wanted_M2 = arrivals(old_ED, new_ED)
    if not len(wanted_M2):
        return ()
    sender_M = _senders(wanted_M2, old_ED, devices_per_node)
    colour_M = _colours(sender_M, wanted_M2[:, 1], old_ED.shape[1])
    rounds: list[list[Move]] = [[] for _ in range(int(colour_M.max()) + 1)]
    for (expert, device), sender, colour in zip(wanted_M2.tolist(), sender_M.tolist(), colour_M.tolist(), strict=True):
        rounds[colour].append((expert, sender, device))
    return tuple(tuple(moves) for moves in rounds)


def _senders(wanted_M2: NDArray[np.int64], old_ED: Held, devices_per_node: int) -> NDArray[np.int64]:
    """The device each move is fetched from: least sends of any device, then most fetches within a node.

    Data        holders of each move's expert; capacity[d] sends of device d, all equal
    Variables   f[m, d] in {0, 1}: move m is sent by d
    Constraints sum over d of f[m, d] = 1 for every m;  sum over m of f[m, d] <= capacity
    Objective   min sends between nodes
    Solve       min-cost flow for the smallest capacity, from the most any device receives on, that has a solution
    """
    from ortools.graph.python import min_cost_flow  # late: takes a tenth of a second, and most commands move nothing

    count, num_devices = len(wanted_M2), old_ED.shape[1]
    move_A, sender_A = np.nonzero(old_ED[wanted_M2[:, 0]])
    orphan = np.setdiff1d(np.arange(count), move_A)
    move_A, sender_A = np.concatenate([move_A, orphan]), np.concatenate([sender_A, wanted_M2[orphan, 1]])
    far_A = (sender_A // devices_per_node != wanted_M2[move_A, 1] // devices_per_node).astype(np.int64)
    capacity = int(np.bincount(wanted_M2[:, 1]).max())
    sink = count + num_devices
    while True:
        flow = min_cost_flow.SimpleMinCostFlow()
        arcs = flow.add_arcs_with_capacity_and_unit_cost(
            move_A, count + sender_A, np.ones(move_A.size, dtype=np.int64), far_A
        )
        devices = np.arange(num_devices)
        flow.add_arcs_with_capacity_and_unit_cost(
            count + devices, np.full(num_devices, sink), np.full(num_devices, capacity), np.zeros(num_devices, np.int64)
        )
        flow.set_nodes_supplies(np.append(np.arange(count), sink), np.append(np.ones(count, np.int64), -count))
        if flow.solve() == flow.OPTIMAL:
            break
        capacity += 1  # at most `count`, where one device may send everything
    sender_M = np.zeros(count, dtype=np.int64)
    used = flow.flows(arcs) > 0
    sender_M[move_A[used]] = sender_A[used]
    return sender_M


def _colours(
    sender_M: Sequence[int] | NDArray[np.int64], receiver_M: NDArray[np.int64], size: int
) -> NDArray[np.int64]:
    """A round for each move, no two of a round with one sender or one receiver, as few rounds as possible (Koenig).

    A move takes the first round that is free at both ends; where there is none, moves on the path that alternates between
    the two ends' free rounds trade places.
    """
    most = int(max(np.bincount(sender_M).max(), np.bincount(receiver_M).max()))
    sent, got = np.full((size, most), -1), np.full((size, most), -1)  # the move of each device in each round
    colour_M = np.full(len(receiver_M), -1, dtype=np.int64)
    for move, (sender, receiver) in enumerate(zip(sender_M, receiver_M, strict=True)):
        free_out, free_in = sent[sender] < 0, got[receiver] < 0
        both = np.flatnonzero(free_out & free_in)
        if both.size:
            colour = int(both[0])
        else:
            colour, other = int(np.argmax(free_out)), int(np.argmax(free_in))
            _flip(int(receiver), colour, other, sent, got, colour_M, sender_M, receiver_M)
        sent[sender, colour] = got[receiver, colour] = move
        colour_M[move] = colour
    return colour_M


def _flip(
    receiver: int,
    colour: int,
    other: int,
    sent: NDArray[np.int64],
    got: NDArray[np.int64],
    colour_M: NDArray[np.int64],
    sender_M: Sequence[int] | NDArray[np.int64],
    receiver_M: NDArray[np.int64],
) -> None:
    """Exchange the two rounds along the path that starts with the receiver's move of round `colour`."""
    path, take, at_receiver = [], colour, True
    move = int(got[receiver, colour])
    while move >= 0:
        path.append(move)
        take, at_receiver = (other if take == colour else colour), not at_receiver
        move = int(got[receiver_M[move], take] if at_receiver else sent[sender_M[move], take])
    for move in path:
        sent[sender_M[move], colour_M[move]] = got[receiver_M[move], colour_M[move]] = -1
    for move in path:
        colour_M[move] = other if colour_M[move] == colour else colour
        sent[sender_M[move], colour_M[move]] = got[receiver_M[move], colour_M[move]] = move
