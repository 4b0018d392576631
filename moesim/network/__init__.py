"""Network: how long flows take that share links."""

from moesim.network.simulate import FlowTimes, simulate_flows

__all__ = ["FlowTimes", "simulate_flows"]
