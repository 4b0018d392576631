"""An auxiliary loss at work: the gate nears balance step by step, the faster the stronger the loss."""

import math
from dataclasses import replace

from moesim.trace.gate import Evolution, GateState
from moesim.trace.token_groups import check_between


def evolve(*, num_experts: int, seed: int, strength: float = 0.1, reach: float = 1.0) -> Evolution:
    """In step s a share reach x (1 - exp(-strength x s)) of the bias that balances the gate is in force.

    `strength` 0..100 a step; `reach` 0..1: how near balance the loss would get in the end.
    """
    check_between("dynamics balance_loss", "strength", strength, 0.0, 100.0)
    check_between("dynamics balance_loss", "reach", reach, 0.0, 1.0)

    def change(step: int, state: GateState) -> GateState:
        return replace(state, balance=reach * (1.0 - math.exp(-strength * step)))

    return change
