"""Topology files to clusters: shapes build them, `load_topology` reads them, `describe_topology` sums them up."""

from moesim.topology.describe import describe_topology
from moesim.topology.load import GRAPH_SUFFIXES, list_topologies, load_topology

__all__ = ["GRAPH_SUFFIXES", "describe_topology", "list_topologies", "load_topology"]
