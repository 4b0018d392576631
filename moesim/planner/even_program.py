"""Even copies to devices by CP-SAT: the program behind moesim.planner.strategies.routing_ilp.

Array letters: E expert, D device.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.planner.solver import WORK_S

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EvenAnswer:
    """Copies of each expert on each device [E, D]; status optimal, feasible or out of time (then the hint's)."""

    status: str
    copies_ED: Ints


def solve_even_copies(
    share_E: Ints, copies_E: Ints, slots_D: Ints, speed_D: Ints, hint_ED: Ints, work_limit: float, seed: int
) -> EvenAnswer:
    """Minimise T with every device's sum of `share_E` over its copies <= T x speed.

    Expert e has `copies_E[e]` copies, a device holds at most as many of them as needed, and all its slots are filled.
    """
    from ortools.sat.python import cp_model  # late: takes a tenth of a second, and most commands solve nothing

    model = cp_model.CpModel()
    experts, devices = hint_ED.shape
    most_E = -(-copies_E // max(int((slots_D > 0).sum()), 1))
    y = [[model.new_int_var(0, int(most_E[e]), "") for _ in range(devices)] for e in range(experts)]
    scale = 1000  # T in thousandths of a token over speed
    most = scale * (int((share_E * copies_E).sum()) // max(int(speed_D.min()), 1) + 1)
    t = model.new_int_var(0, most, "")
    for e in range(experts):
        model.add(sum(y[e]) == int(copies_E[e]))
    for d in range(devices):
        column = [y[e][d] for e in range(experts)]
        model.add(sum(column) == int(slots_D[d]))
        model.add(scale * sum(int(share_E[e]) * column[e] for e in range(experts)) <= int(speed_D[d]) * t)
    model.minimize(t)
    for e, d in np.ndindex(hint_ED.shape):
        model.add_hint(y[e][d], int(hint_ED[e, d]))
    model.add_hint(t, min(int(np.ceil(scale * ((share_E @ hint_ED) / speed_D).max())), most))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed % (1 << 31)
    solver.parameters.symmetry_level = 0  # or presolve loses the hint
    solver.parameters.max_deterministic_time = WORK_S * work_limit
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return EvenAnswer("out of time", hint_ED)
    copies_ED = np.array([[solver.value(cell) for cell in row] for row in y], dtype=np.int64)
    if ((share_E @ copies_ED) / speed_D).max() > ((share_E @ hint_ED) / speed_D).max():
        return EvenAnswer("feasible", hint_ED)
    return EvenAnswer("optimal" if status == cp_model.OPTIMAL else "feasible", copies_ED)
