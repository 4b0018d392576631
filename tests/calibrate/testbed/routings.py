"""Routings of small layers, for the tests beside this file."""

import numpy as np
from hypothesis import strategies as st

from calibrate.testbed.routes import Routing


@st.composite
def routings(draw: st.DrawFn) -> Routing:
    """1 to 3 nodes of 1 to 3 ranks, uneven numbers of tokens, rows with and without experts."""
    nodes, per_node = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    tokens = draw(st.lists(st.integers(0, 6), min_size=nodes * per_node, max_size=nodes * per_node))
    slots, top_k = draw(st.integers(nodes * per_node, 12)), draw(st.integers(1, 3))
    return routing_of(tokens, per_node, slots, min(top_k, slots), draw(st.integers(0, 1000)))


def routing_of(tokens: list[int], per_node: int, slots: int, top_k: int, seed: int) -> Routing:
    """Each rank's number of tokens, drawn to distinct slots; one pair in eight has no expert."""
    rng = np.random.default_rng(seed)
    source_T = np.repeat(np.arange(len(tokens)), tokens)
    slots_TK = np.argsort(rng.random((len(source_T), slots)), axis=1)[:, :top_k]
    slots_TK = np.where(rng.random(slots_TK.shape) < 0.125, -1, slots_TK)
    return Routing(source_T, slots_TK, np.sort(np.arange(slots) % len(tokens)), len(tokens), per_node)
