"""Dealt steps from a synthetic router instead of a recording.

Array letters: L MoE ordinal, T token, K top-k.
"""

import inspect
from collections.abc import Iterator

import numpy as np

from moesim.errors import InputError, unknown_name
from moesim.registry import Registry
from moesim.routing import DealtStep

ROUTERS = Registry("moesim.trace.routers", kind="router", attribute="route")
_GIVEN = ("num_layers", "num_tokens", "num_experts", "top_k", "rng", "seed")
_MOST_IDS = 2**31  # expert ids of one step: 8 GiB


def synthetic_steps(
    router: str,
    *,
    num_layers: int,
    num_experts: int,
    top_k: int,
    num_ranks: int,
    tokens_per_rank: int,
    steps: tuple[int, int] = (0, 1),
    seed: int = 0,
    **parameters: float,  # each router has its own, checked against its signature
) -> Iterator[DealtStep]:
    """Steps `steps` (half open) of full ranks, routed by `router`; a step depends on `seed` and its number only.

    Raises InputError, before the first step, for an unknown router or parameter and for numbers out of range.
    """
    route = ROUTERS.get(router)
    known = [name for name in inspect.signature(route).parameters if name not in _GIVEN]
    for name in parameters:
        if name not in known:
            raise unknown_name(f"parameter of router {router}", name, known)
    sizes = {"num_layers": num_layers, "num_experts": num_experts, "top_k": top_k}
    sizes |= {"num_ranks": num_ranks, "tokens_per_rank": tokens_per_rank}
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"router {router}: {name} must be >= 1, got {value}")
    if top_k > num_experts:
        raise InputError(f"router {router}: top_k={top_k} is more than num_experts={num_experts}")
    if num_layers * num_ranks * tokens_per_rank * top_k > _MOST_IDS:
        raise InputError(
            f"router {router}: layers x ranks x tokens_per_rank x top_k of {sizes} is more than {_MOST_IDS}"
        )
    if not 0 <= steps[0] < steps[1]:
        raise InputError(f"router {router}: steps {steps[0]}:{steps[1]} must be a range a:b with 0 <= a < b")
    if seed < 0:
        raise InputError(f"router {router}: seed must be >= 0, got {seed}")

    def dealt(step: int) -> DealtStep:
        experts_LTK = route(
            num_layers=num_layers,
            num_tokens=num_ranks * tokens_per_rank,
            num_experts=num_experts,
            top_k=top_k,
            rng=np.random.default_rng([seed, step]),
            seed=seed,
            **parameters,
        )
        return DealtStep(step, np.repeat(np.arange(num_ranks, dtype=np.int32), tokens_per_rank), experts_LTK, None, 1.0)

    return map(dealt, range(*steps))
