"""Expert dropout: in every step some experts cannot be chosen."""

from dataclasses import replace

import numpy as np

from moesim.trace.gate import Evolution, GateState
from moesim.trace.token_groups import check_between


def evolve(*, num_experts: int, seed: int, chance: float = 0.1) -> Evolution:
    """Every expert is out of a step with `chance` (0..1), drawn anew for each step; one always stays."""
    check_between("dynamics dropout", "chance", chance, 0.0, 1.0)

    def change(step: int, state: GateState) -> GateState:
        drawn_E = np.random.default_rng([seed, 31, step]).random(num_experts)
        stays_E = (drawn_E >= chance) | (drawn_E == drawn_E.max())
        return replace(state, alive_E=state.alive_E & stays_E)

    return change
