"""The door to OR-Tools: programs as arrays, solved by GLOP or CP-SAT, and solver statuses as words a person knows.

Array letters: V variable, B row, E expert, D device.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LinearAnswer:
    """Values of the variables and duals of the rows (>= 0, what one more unit of a row's bound saves)."""

    status: str
    value_V: Floats
    dual_B: Floats


def solve_linear(
    cost_V: Floats, rows_BV: csr_matrix, most_B: Floats, equal_B: NDArray[np.bool_], upper_V: Floats
) -> LinearAnswer:
    """Minimise cost x subject to rows x <= most (= where `equal_B`), 0 <= x <= upper.

    GLOP (simplex, deterministic). The status is optimal, infeasible or out of time; values are NaN without a solution.
    """
    from ortools.linear_solver.python import model_builder_helper as door  # late: takes a tenth of a second

    program: Any = door.ModelBuilderHelper()  # its stubs take fewer arrays than it does
    free_B = np.where(equal_B, most_B, -np.inf)
    rows = csr_matrix(rows_BV, dtype=np.float64)
    program.fill_model_from_sparse_data(np.zeros(cost_V.size), upper_V, cost_V, free_B, most_B, rows)
    solver = door.ModelSolverHelper("glop")
    solver.solve(program)
    if not solver.has_solution():
        infeasible = solver.has_response() and solver.status() == door.SolveStatus.INFEASIBLE
        word = "infeasible" if infeasible else "out of time"
        return LinearAnswer(word, np.full(cost_V.size, np.nan), np.full(most_B.size, np.nan))
    return LinearAnswer("optimal", np.array(solver.variable_values()), -np.array(solver.dual_values()))


WORK_S = 0.2  # deterministic seconds of CP-SAT for one layer at work limit 1


@dataclass(frozen=True, slots=True)
class CpAnswer:
    """Copies and tokens of each expert on each device; status optimal, feasible or out of time (then the hint's copies)."""

    status: str
    held_ED: NDArray[np.bool_]
    tokens_ED: NDArray[np.int64]


def solve_least_loaded(
    load_E: NDArray[np.int64],
    slots_D: NDArray[np.int64],
    speed_D: NDArray[np.int64],
    hint_ED: NDArray[np.bool_],
    bound: float,
    work_limit: float,
    seed: int,
) -> CpAnswer:
    """The program of moesim.planner.strategies.exact: least T with tokens on device d <= T x speed[d]; `bound` <= T.

    `hint_ED` are the copies of a good answer, split evenly.
    """
    hinted_ED = _even_tokens(load_E, hint_ED)
    if float((hinted_ED.sum(axis=0) / speed_D).max()) <= bound * (1.0 + 1e-9):
        return CpAnswer("optimal", hint_ED, hinted_ED)  # nothing is left to prove
    from ortools.sat.python import cp_model  # late, as above

    model = cp_model.CpModel()
    cells = [(e, d) for e in range(load_E.size) for d in range(slots_D.size)]
    y = {cell: model.new_bool_var("") for cell in cells}
    x = {(e, d): model.new_int_var(0, int(load_E[e]), "") for e, d in cells}
    most = int(load_E.sum()) // max(int(speed_D.min()), 1) + 1
    scale = 1000  # T in thousandths of a token over speed
    t = model.new_int_var(int(np.floor(bound * scale)), most * scale, "")
    for e in range(load_E.size):
        model.add_bool_or([y[e, d] for d in range(slots_D.size)])
        model.add(sum(x[e, d] for d in range(slots_D.size)) == int(load_E[e]))
        for d in range(slots_D.size):
            model.add(x[e, d] <= int(load_E[e]) * y[e, d])
    for d in range(slots_D.size):
        model.add(sum(y[e, d] for e in range(load_E.size)) <= int(slots_D[d]))
        model.add(scale * sum(x[e, d] for e in range(load_E.size)) <= int(speed_D[d]) * t)
    model.minimize(t)
    for cell in cells:
        model.add_hint(y[cell], int(hint_ED[cell]))
        model.add_hint(x[cell], int(hinted_ED[cell]))
    model.add_hint(t, min(int(np.ceil(scale * (hinted_ED.sum(axis=0) / speed_D).max())), most * scale))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed % (1 << 31)
    solver.parameters.symmetry_level = 0
    solver.parameters.max_deterministic_time = WORK_S * work_limit
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return CpAnswer("out of time", hint_ED, hinted_ED)
    held_ED, tokens_ED = np.zeros_like(hint_ED), np.zeros(hint_ED.shape, dtype=np.int64)
    for cell in cells:
        held_ED[cell], tokens_ED[cell] = bool(solver.value(y[cell])), solver.value(x[cell])
    return CpAnswer("optimal" if status == cp_model.OPTIMAL else "feasible", held_ED, tokens_ED)


def _even_tokens(load_E: NDArray[np.int64], held_ED: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Whole tokens on each copy, equal up to one."""
    copies_E = np.maximum(held_ED.sum(axis=1), 1)
    rank_ED = np.cumsum(held_ED, axis=1) - 1
    each_ED = load_E[:, None] // copies_E[:, None] + (rank_ED < (load_E % copies_E)[:, None])
    tokens_ED: NDArray[np.int64] = np.where(held_ED, each_ED, 0)
    return tokens_ED
