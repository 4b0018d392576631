"""Expert collapse: what is chosen is trained and chosen more, until few experts are left."""

from dataclasses import replace

import numpy as np

from moesim.trace.gate import Evolution, GateState
from moesim.trace.token_groups import check_between


def evolve(*, num_experts: int, seed: int, rate: float = 0.05, most: float = 5.0) -> Evolution:
    """In step s the bias of expert e grows by min(rate x s, most) x z_e, z_e a standard normal number of its own.

    Odds between experts grow exponentially, as rich-get-richer feedback has it. `rate` 0..100 a step, `most` 0..100.
    """
    check_between("dynamics collapse", "rate", rate, 0.0, 100.0)
    check_between("dynamics collapse", "most", most, 0.0, 100.0)
    talent_E = np.random.default_rng([seed, 30]).standard_normal(num_experts)

    def change(step: int, state: GateState) -> GateState:
        return replace(state, bias_E=state.bias_E + min(rate * step, most) * talent_E)

    return change
