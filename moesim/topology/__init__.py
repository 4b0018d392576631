"""Topology files to clusters: shapes build them, `load_topology` reads them, `describe_topology` sums them up."""

from moesim.topology.describe import describe_topology
from moesim.topology.load import list_topologies, load_topology

__all__ = ["describe_topology", "list_topologies", "load_topology"]
