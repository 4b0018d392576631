"""Dynamically added experts: a model that begins with few and gets more."""

from dataclasses import replace

import numpy as np

from moesim.trace.gate import Evolution, GateState
from moesim.trace.token_groups import check_between


def evolve(*, num_experts: int, seed: int, start: int = 0, every: int = 1, added: int = 1) -> Evolution:
    """Experts 0..`start`-1 exist at step 0 (0: half of all), `added` more every `every` steps, until all are there."""
    check_between("dynamics growth", "start", start, 0, num_experts)
    check_between("dynamics growth", "every", every, 1, 10**6)
    check_between("dynamics growth", "added", added, 1, num_experts)
    first = start or max(1, num_experts // 2)

    def change(step: int, state: GateState) -> GateState:
        exists_E = np.arange(num_experts) < first + added * (step // every)
        return replace(state, alive_E=state.alive_E & exists_E)

    return change
