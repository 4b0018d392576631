"""PlanView: what a plan changes, in the arrays that its page draws.

Array letters: L MoE ordinal, E expert, D device, N node (or device where there are few).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlanView:
    """A plan beside what was there before, on the steps it was made for; means over steps.

    `before`: what "before" is ("experts in order" or "the old plan"). Loads: (token, expert) pairs a device computes.
    Traffic: bytes a dispatch sends from one node to another (`between` "nodes", or "devices" where there is one node), a
    token once to each. `copies_LE`: copies of each expert. Seconds: dispatch, experts and combine of each layer by the
    closed form, and what no plan beats (None: nothing is proven). `moved_L`: copies that their device did not hold before.
    """

    layers: tuple[int, ...]
    node_of_device_D: Ints
    before: str
    between: str
    load_before_LD: Floats
    load_after_LD: Floats
    traffic_before_NN: Floats
    traffic_after_NN: Floats
    copies_LE: Ints
    before_s_L: Floats
    after_s_L: Floats
    bound_s_L: Floats | None
    moved_L: Ints
    binding: tuple[str, ...] = ()
