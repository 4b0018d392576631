"""Product-key rows to nodes, columns to devices: tokens pick whole crosses of the grid, so a row stays on one node.

Both by load: copies of rows by water-filling where slots leave room, then the heaviest row to the lightest node with room,
all nodes as many rows as their slots hold; in each node the same for columns. Memory is even, loads as even as whole rows
allow. Array letters: E expert, R row, C column, N node, D device, P slot.
"""

import numpy as np
from numpy.typing import NDArray

from moesim.errors import Declined
from moesim.placement import ExpertPlacement
from moesim.planner.packing import pack_longest_first
from moesim.planner.problem import PlacementAnswer, PlacementProblem
from moesim.planner.product_keys import KeyGrid, square_grid
from moesim.planner.water_fill import water_fill

REPLICA_POLICY = "nearest"
Ints = NDArray[np.int64]


def place(problem: PlacementProblem) -> PlacementAnswer:
    """Every layer on the square grid of its experts; raises Declined where experts are no square or rows do not fit nodes."""
    try:
        grid = square_grid(problem.num_experts)
    except Declined as error:
        raise Declined(f"key_grid on slots={problem.num_slots}: {error}") from None
    rows_N = np.bincount(problem.node_of_devices, weights=problem.slots_of_devices).astype(np.int64) // grid.columns
    if rows_N.sum() < grid.rows:
        raise Declined(
            f"nodes hold {rows_N.sum()} whole rows of {grid.columns} experts with slots={problem.num_slots}, fewer than the "
            f"{grid.rows} of the grid; take more slots, or fewer nodes"
        )
    return PlacementAnswer(tuple(_layer(problem, load_E, grid, rows_N) for load_E in problem.load_LE))


def _layer(problem: PlacementProblem, load_E: NDArray[np.float64], grid: KeyGrid, rows_N: Ints) -> ExpertPlacement:
    load_RC = load_E.reshape(grid)
    load_R = load_RC.sum(axis=1)
    copies_R = water_fill(load_R, int(rows_N.sum()), int((rows_N > 0).sum()))
    row_of_slot = pack_longest_first(load_R, copies_R, rows_N.size, rows_N)
    ends_N = np.cumsum(rows_N)
    per_node, slots_D = problem.devices_per_node, problem.slots_of_devices
    by_load_E = np.argsort(-load_E, kind="stable")
    parts = []
    for node, end in enumerate(ends_N):
        rows = np.unique(row_of_slot[end - rows_N[node] : end]).astype(np.int64)
        share_RC = load_RC[rows] / copies_R[rows][:, None]
        mine_D = slots_D[node * per_node : (node + 1) * per_node]
        parts.append(_columns(grid, rows, share_RC, mine_D, by_load_E))
    return problem.placement(np.concatenate(parts))


def _columns(grid: KeyGrid, rows: Ints, share_RC: NDArray[np.float64], slots_D: Ints, by_load_E: Ints) -> Ints:
    """The slots of a node's devices: whole columns of its rows, then the columns that fit no device whole, then copies."""
    room_D = slots_D // max(rows.size, 1) if rows.size else slots_D * 0
    order_C = np.argsort(-share_RC.sum(axis=0), kind="stable")
    whole = order_C[: min(int(room_D.sum()), grid.columns)]
    room_D = _cut(room_D, int(room_D.sum()) - whole.size)
    packed = pack_longest_first(share_RC.sum(axis=0)[whole], np.ones(whole.size, dtype=np.int64), slots_D.size, room_D)
    experts = [
        (rows[:, None] * grid.columns + whole[columns][None, :]).ravel()
        for columns in np.split(packed, np.cumsum(room_D)[:-1])
    ]
    loose = (rows[:, None] * grid.columns + order_C[whole.size :][None, :]).ravel()
    left = int(slots_D.sum()) - sum(part.size for part in experts) - loose.size
    # More slots than the node's rows need: the experts with most load it lacks, then its own once more.
    held = np.zeros(by_load_E.size, dtype=np.bool_) if left > 0 else None
    if held is not None:
        held[(rows[:, None] * grid.columns + np.arange(grid.columns)).ravel()] = True
        lacking = by_load_E[~held[by_load_E]][:left]
        loose = np.concatenate([loose, lacking, np.resize(by_load_E, left - lacking.size)])
    free_D = slots_D - np.array([part.size for part in experts])
    loose_parts = np.split(loose, np.cumsum(free_D)[:-1])
    return np.concatenate([part for pair in zip(experts, loose_parts, strict=True) for part in pair]).astype(np.int64)


def _cut(room_D: Ints, spare: int) -> Ints:
    """`room_D` with `spare` less in all, taken from the devices with most."""
    room_D = room_D.copy()
    for _ in range(spare):
        room_D[int(np.argmax(room_D))] -= 1
    return room_D
