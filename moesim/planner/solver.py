"""The door to OR-Tools: a linear program as arrays, solved by GLOP, and solver statuses as words a person knows."""

from dataclasses import dataclass

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
    from ortools.linear_solver import pywraplp  # late: takes a tenth of a second, and most commands solve nothing

    solver = pywraplp.Solver.CreateSolver("GLOP")
    variables = [solver.NumVar(0.0, float(upper), "") for upper in upper_V]
    constraints = []
    for row in range(rows_BV.shape[0]):
        low = float(most_B[row]) if equal_B[row] else -solver.infinity()
        constraint = solver.Constraint(low, float(most_B[row]))
        for place in range(rows_BV.indptr[row], rows_BV.indptr[row + 1]):
            constraint.SetCoefficient(variables[rows_BV.indices[place]], float(rows_BV.data[place]))
        constraints.append(constraint)
    objective = solver.Objective()
    for variable, cost in zip(variables, cost_V, strict=True):
        if cost:
            objective.SetCoefficient(variable, float(cost))
    objective.SetMinimization()
    status = solver.Solve()
    if status not in (pywraplp.Solver.OPTIMAL, pywraplp.Solver.FEASIBLE):
        word = "infeasible" if status == pywraplp.Solver.INFEASIBLE else "out of time"
        return LinearAnswer(word, np.full(len(variables), np.nan), np.full(len(constraints), np.nan))
    return LinearAnswer(
        "optimal",
        np.array([variable.solution_value() for variable in variables]),
        -np.array([constraint.dual_value() for constraint in constraints]),
    )
