"""Hosts: which host and which local device every rank has, with real host names where the user gives them."""

import re
from dataclasses import dataclass

import numpy as np

from moesim.cluster import Cluster
from moesim.errors import InputError
from moesim.exporters.export import Check, ExportRequest

_MOST_HOSTS = 1 << 17
_NAME = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$")
_BRACKETS = re.compile(r"^([^\[\]]*)\[([0-9,-]+)\]([^\[\]]*)$")


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Where one rank runs."""

    rank: int
    host: str
    local_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTable:
    """All ranks in order, the hosts in the order of their nodes, and devices per host."""

    places: tuple[RankPlace, ...]
    hosts: tuple[str, ...]
    devices_per_host: int

    @property
    def num_ranks(self) -> int:
        """Ranks of the whole job."""
        return len(self.places)


def rank_table(request: ExportRequest) -> RankTable:
    """Rank i on device i of the cluster; option hosts=LIST (`n[01-04],gpu7`) names the nodes in their order."""
    cluster = request.need_site().cluster
    given = request.option("hosts")
    hosts = expand_hosts(given) if given else _node_names(cluster)
    if len(hosts) != cluster.num_nodes:
        raise InputError(f"{request.target}: hosts names {len(hosts)} hosts; the cluster has {cluster.num_nodes} nodes")
    places = tuple(RankPlace(device.index, hosts[device.node], device.local_index) for device in cluster.devices)
    return RankTable(places=places, hosts=hosts, devices_per_host=cluster.devices_per_node)


def rank_checks(ranks_hosts: list[tuple[int, str]], table: RankTable) -> tuple[Check, ...]:
    """Rule 9 for what was written: every rank once, no host with more ranks than devices."""
    counts = np.unique([host for _, host in ranks_hosts], return_counts=True)[1]
    expected = [(place.rank, place.host) for place in table.places]
    return (
        Check("every rank exactly once", [rank for rank, _ in sorted(ranks_hosts)] == list(range(table.num_ranks))),
        Check("no host has more ranks than slots", bool((counts <= table.devices_per_host).all())),
        Check("ranks are on the devices the plan numbers so", sorted(ranks_hosts) == expected),
    )


def expand_hosts(text: str) -> tuple[str, ...]:
    """Names of a list in Slurm's notation; raises InputError for a bad or repeated name.

    >>> expand_hosts("n[08-10],login")
    ('n08', 'n09', 'n10', 'login')
    """
    names: list[str] = []
    for part in re.split(r",(?![^\[]*\])", text):
        names += _expanded(part.strip())
        if len(names) > _MOST_HOSTS:
            raise InputError(f"hosts lists more than {_MOST_HOSTS} hosts")
    for name in names:
        if not _NAME.match(name):
            raise InputError(f"{name[:60]!r} in hosts is not a host name")
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise InputError(f"host {twice!r} is named twice in hosts; a node is one host")
    return tuple(names)


def _expanded(part: str) -> list[str]:
    found = _BRACKETS.match(part)
    if found is None:
        return [part]
    names: list[str] = []
    for piece in found[2].split(","):
        low, _, high = piece.partition("-")
        high = high or low
        if not (low.isdecimal() and high.isdecimal() and len(high) < 9) or int(high) - int(low) >= _MOST_HOSTS:
            raise InputError(f"{part[:60]!r} in hosts is not a list such as n[01-04]")
        names += [f"{found[1]}{index:0{len(low)}d}{found[3]}" for index in range(int(low), int(high) + 1)]
    return names


def _node_names(cluster: Cluster) -> tuple[str, ...]:
    """What stands before the dot in the names of each node's devices, where that tells nodes apart."""
    names = [""] * cluster.num_nodes
    for device in reversed(cluster.devices):
        names[device.node] = device.name.rpartition(".")[0]
    distinct = len(set(names)) == len(names) and all(_NAME.match(name) for name in names)
    return tuple(names) if distinct else tuple(f"node{node}" for node in range(cluster.num_nodes))
