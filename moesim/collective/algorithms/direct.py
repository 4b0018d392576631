"""direct: one copy per (token, expert), sent to the expert's device; low-latency kernels and plain all-to-all(v)."""

from moesim.collective.leg import Leg, Legs, own_waits
from moesim.traffic import TrafficCounts


def legs(traffic: TrafficCounts, devices_per_node: int, *, back: bool) -> Legs:
    """One leg; a token sent to three experts of one device crosses three times."""
    leg = Leg.from_matrix(traffic.per_expert_DD, engine=True)
    leg = leg.reversed() if back else leg
    return Legs(legs=(leg,), waits_W=own_waits(leg, 0))
