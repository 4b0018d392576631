"""Hypothesis strategies for placements, routed tokens and placement problems, small and uneven."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from moesim.placement import ExpertPlacement
from moesim.planner import PlacementProblem

Routed = tuple[NDArray[np.int32], NDArray[np.int32]]  # experts_TK with -1 anywhere, source_T


@st.composite
def placements(draw: st.DrawFn, max_experts: int = 9, max_extra: int = 9, max_devices: int = 7) -> ExpertPlacement:
    """Any placement: every expert once, extra copies anywhere, also twice on a device, some devices without a slot."""
    experts = draw(st.integers(1, max_experts))
    extra = draw(st.lists(st.integers(0, experts - 1), max_size=max_extra))
    order = draw(st.permutations([*range(experts), *extra]))
    return ExpertPlacement(np.array(order, dtype=np.int32), experts, draw(st.integers(1, max_devices)))


@st.composite
def routed(draw: st.DrawFn, num_experts: int, num_devices: int, max_tokens: int = 12) -> Routed:
    """Rows of distinct experts on any devices; no tokens and no experts at all are possible."""
    tokens, top_k = draw(st.integers(0, max_tokens)), draw(st.integers(0, min(4, num_experts)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    experts_TK = np.array([rng.permutation(num_experts)[:top_k] for _ in range(tokens)], dtype=np.int32)
    experts_TK = experts_TK.reshape(tokens, top_k)
    experts_TK[rng.random((tokens, top_k)) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = -1
    return experts_TK, rng.integers(0, num_devices, tokens, dtype=np.int32)


@st.composite
def problems(draw: st.DrawFn, max_experts: int = 24, max_devices: int = 9) -> PlacementProblem:
    """Problems with ties, zero loads and loads of 1e18; any number of slots from experts to thrice as many; little work."""
    experts, layers = draw(st.integers(1, max_experts)), draw(st.integers(1, 2))
    load = st.one_of(st.integers(0, 3).map(float), st.floats(0, 1e4, width=32), st.just(1e18))
    return PlacementProblem(
        load_LE=draw(hnp.arrays(np.float64, (layers, experts), elements=load)),
        num_devices=draw(st.integers(1, max_devices)),
        devices_per_node=draw(st.integers(1, 4)),
        num_slots=draw(st.integers(experts, 3 * experts)),
        num_groups=draw(st.sampled_from([g for g in range(1, experts + 1) if experts % g == 0])),
        seed=draw(st.integers(0, 3)),
        work_limit=0.02,
    )
