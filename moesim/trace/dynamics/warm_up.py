"""Router warm-up: noise on the logits, annealed until the gate decides alone."""

import math
from dataclasses import replace

from moesim.trace.gate import Evolution, GateState
from moesim.trace.token_groups import check_between


def evolve(*, num_experts: int, seed: int, start: float = 5.0, final: float = 0.0, steps: int = 10) -> Evolution:
    """Noise of standard deviation `start` (logits have 1) at step 0, falling evenly to `final` at step `steps`.

    Noise on logits is temperature on choices: at 5 they are nearly uniform. 0..1000 both, `steps` 1..10^6.
    """
    check_between("dynamics warm_up", "start", start, 0.0, 1e3)
    check_between("dynamics warm_up", "final", final, 0.0, 1e3)
    check_between("dynamics warm_up", "steps", steps, 1, 10**6)

    def change(step: int, state: GateState) -> GateState:
        noise = final + (start - final) * max(0.0, 1.0 - step / steps)
        return replace(state, noise=math.hypot(state.noise, noise))

    return change
