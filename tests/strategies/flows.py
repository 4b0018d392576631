"""Hypothesis strategies for flows on shared links."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from moesim.network.flow import Flows, Paths


@dataclass(frozen=True, slots=True)
class Case:
    """Links, simple paths and flows, as the network functions take them."""

    bandwidth: NDArray[np.float64]
    paths: tuple[tuple[int, ...], ...]
    size: NDArray[np.float64]
    weight: NDArray[np.float64]

    @property
    def csr(self) -> Paths:
        return paths_of(self.paths)

    def flows(self, latency: NDArray[np.float64] | None = None) -> Flows:
        ids = np.zeros(len(self.paths), np.int32)
        return Flows(ids, ids, self.size, self.csr, np.zeros(len(ids)) if latency is None else latency, self.weight)


def paths_of(paths: tuple[tuple[int, ...], ...]) -> Paths:
    offsets = np.cumsum([0, *(len(path) for path in paths)])
    return Paths(offsets, np.array([link for path in paths for link in path], np.int32))


@st.composite
def cases(draw: st.DrawFn, *, max_links: int = 7, max_flows: int = 14, weighted: bool = True) -> Case:
    """Small cases with ties made likely: few distinct bandwidths, sizes and weights, zero bytes and empty paths included."""
    num_links = draw(st.integers(1, max_links))
    bandwidth = draw(st.lists(st.sampled_from([1.0, 2.0, 3.0, 10.0, 0.7]), min_size=num_links, max_size=num_links))
    num_flows = draw(st.integers(0, max_flows))
    path = st.lists(st.integers(0, num_links - 1), max_size=4, unique=True).map(tuple)
    paths = draw(st.lists(path, min_size=num_flows, max_size=num_flows))
    sizes = st.sampled_from([0.0, 1.0, 1.0, 2.0, 5.0]) | st.floats(0.01, 20.0)
    size = draw(st.lists(sizes, min_size=num_flows, max_size=num_flows))
    weights = st.sampled_from([1.0, 1.0, 2.0, 0.3]) if weighted else st.just(1.0)
    weight = draw(st.lists(weights, min_size=num_flows, max_size=num_flows))
    return Case(np.array(bandwidth), tuple(paths), np.array(size, float), np.array(weight, float))


def star(num_hosts: int, seed: int | None, bandwidth: float = 50e9) -> Case:
    """All-to-all on a non-blocking switch: 1 MiB per pair, times lognormal(0, 1) if seeded (rows are senders)."""
    source, target = np.nonzero(~np.eye(num_hosts, dtype=bool))
    size = np.full(len(source), 2.0**20)
    if seed is not None:
        skew = np.random.default_rng(seed).lognormal(0, 1, (num_hosts, num_hosts))
        size = np.rint(2**20 * skew)[source, target]
    paths = tuple((int(s), num_hosts + int(t)) for s, t in zip(source, target, strict=True))
    return Case(np.full(2 * num_hosts, bandwidth), paths, size, np.ones(len(size)))
