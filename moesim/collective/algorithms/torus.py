"""torus: the copies of `direct` on the links of a torus, whose path policy decides through which chips they go (TPU ICI)."""

from moesim.collective.algorithms import direct
from moesim.collective.leg import Legs
from moesim.traffic import TrafficCounts


def legs(traffic: TrafficCounts, devices_per_node: int, *, back: bool) -> Legs:
    """One leg, one copy per (token, expert); chips in between pass on what is not theirs."""
    return direct.legs(traffic, devices_per_node, back=back)
