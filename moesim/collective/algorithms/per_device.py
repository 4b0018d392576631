"""per_device: one copy per distinct destination device; kernels inside one NVLink domain."""

from moesim.collective.leg import Leg, Legs, own_waits
from moesim.traffic import TrafficCounts


def legs(traffic: TrafficCounts, devices_per_node: int, *, back: bool) -> Legs:
    """One leg; experts of one device share a token's copy, and add their outputs before sending it back."""
    leg = Leg.from_matrix(traffic.per_device_DD, engine=True)
    leg = leg.reversed() if back else leg
    return Legs(legs=(leg,), waits_W=own_waits(leg, 0))
