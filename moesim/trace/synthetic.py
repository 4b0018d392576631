"""Synthetic routing: a router made for every layer, and the dealt steps it gives instead of a recording.

Array letters: L MoE ordinal, T token, K top-k.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numba import get_num_threads
from numpy.typing import NDArray

from moesim.errors import InputError, unknown_name
from moesim.registry import Registry
from moesim.routing import DealtStep
from moesim.trace.evolution import parse_dynamics
from moesim.trace.gate import RouterLayer
from moesim.trace.knob_presets import knobs_of
from moesim.trace.token_batches import Mode, TokenDeal
from moesim.trace.token_groups import Route
from moesim.trace.token_stream import MOST_TOPICS, Knobs, TokenStream

ROUTERS = Registry("moesim.trace.routers", kind="router", attribute="build")
Parameter = float | str | bool
_MOST_IDS = 2**31  # expert ids of one step: 8 GiB
_EXPERTS_PER_TOPIC = 256  # at most, where topics are not given: fewer topics would leave most of a million experts idle
_OF_STREAMS = ("preset", "dynamics")


@dataclass(frozen=True, slots=True)
class SyntheticRouter:
    """One router made for every layer, and the knobs of the tokens it sees (the defaults where it sees none).

    `top_k` counts the ids of a token over all heads.
    """

    name: str
    routes: tuple[Route, ...]
    top_k: int
    knobs: Knobs


def make_router(
    router: str,
    *,
    num_layers: int,
    num_experts: int,
    top_k: int,
    seed: int = 0,
    parameters: dict[str, Parameter] | None = None,
) -> SyntheticRouter:
    """The router of each MoE ordinal; `top_k` counts the ids of a token over all heads.

    `parameters` are the router's own and, where it routes tokens of a stream, the knobs of that stream, `preset` (the
    name of a fitted set of knobs, others given override it) and `dynamics` (how training changes the gate).
    Raises InputError for an unknown router or parameter and for numbers out of range.
    """
    build, given = ROUTERS.get(router), dict(parameters or {})
    known = router_parameters(router)
    for name, value in given.items():
        if name not in known:
            raise unknown_name(f"parameter of router {router}", name, known)
        given[name] = _checked(router, name, value, known[name])
    sizes = {"num_layers": num_layers, "num_experts": num_experts, "top_k": top_k}
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"router {router}: {name} must be >= 1, got {size}")
    if top_k > num_experts:
        heads = f" ({given['heads']} heads x {top_k // int(given['heads'])})" if "heads" in given else ""
        raise InputError(f"router {router}: top_k={top_k}{heads} is more than num_experts={num_experts}")
    if seed < 0:
        raise InputError(f"router {router}: seed must be >= 0, got {seed}")
    own = {name: value for name, value in given.items() if name in _own_parameters(router)}
    evolutions, balanced = parse_dynamics(str(given.get("dynamics", "")), num_experts=num_experts, seed=seed)
    topics = min(num_experts // _EXPERTS_PER_TOPIC, MOST_TOPICS)
    many = {"topics": topics} if topics >= Knobs().topics else {}
    asked = {name: given[name] for name in given if name in _KNOBS}
    knobs = knobs_of(given.get("preset"), asked if "preset" in given else {**many, **asked})
    stream = (TokenStream(knobs, seed),) if _sees_tokens(router) else ()
    if evolutions and not _has_flat_gate(router):
        raise InputError(f"router {router} has no flat gate for dynamics to change; take softmax_topk or switch_top1")
    layers = (
        RouterLayer(
            num_experts=num_experts, top_k=top_k, layer=layer, seed=seed, evolutions=evolutions, balanced=balanced
        )
        for layer in range(num_layers)
    )
    routes = tuple(build(layer, *stream, **own) for layer in layers)
    return SyntheticRouter(router, routes, top_k, knobs)


_KNOBS = {field.name: field.type for field in fields(Knobs)}


def router_parameters(router: str) -> dict[str, Any]:
    """Type of every parameter that `router` takes, by name; raises UnknownName."""
    own = _own_parameters(router)
    return {**own, **_KNOBS, **dict.fromkeys(_OF_STREAMS, str)} if _sees_tokens(router) else own


def _own_parameters(router: str) -> dict[str, Any]:
    parameters = inspect.signature(ROUTERS.get(router)).parameters.values()
    return {one.name: one.annotation for one in parameters if one.kind is one.KEYWORD_ONLY}


def _sees_tokens(router: str) -> bool:
    return "stream" in inspect.signature(ROUTERS.get(router)).parameters


def _has_flat_gate(router: str) -> bool:
    return "make_gate" in vars(inspect.getmodule(ROUTERS.get(router)))


def _checked(router: str, name: str, value: Parameter, kind: type) -> Parameter:
    """`value` as a `kind`; a whole float is an int."""
    if kind is str and isinstance(value, str):
        return value
    if kind is not str and isinstance(value, (int, float)) and not isinstance(value, bool):
        if kind is float:
            return float(value)
        if value == int(value) if np.isfinite(value) else False:
            return int(value)
    needed = {int: "a whole number", float: "a number", str: "text"}[kind]
    raise InputError(f"router {router}: {name} must be {needed}, got {str(value)[:40]!r}")


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
    mode: Mode = "prefill",
    **parameters: Parameter,
) -> Iterator[DealtStep]:
    """Steps `steps` (half open) of full ranks, routed by `router`; a step depends on `seed` and its number only.

    `mode` says how a rank's tokens follow sequences (see `TokenDeal`). Raises InputError, before the first step, for an
    unknown router or parameter and for numbers out of range.
    """
    made = make_router(
        router, num_layers=num_layers, num_experts=num_experts, top_k=top_k, seed=seed, parameters=parameters
    )
    return routed_steps(made, num_ranks=num_ranks, tokens_per_rank=tokens_per_rank, steps=steps, mode=mode)


def routed_steps(
    made: SyntheticRouter, *, num_ranks: int, tokens_per_rank: int, steps: tuple[int, int], mode: Mode
) -> Iterator[DealtStep]:
    """`synthetic_steps` of a router that is made already."""
    num_layers, top_k = len(made.routes), made.top_k
    _check_steps(made, num_ranks, tokens_per_rank, steps)
    per_step = num_ranks * tokens_per_rank
    deal = TokenDeal(
        num_tokens=per_step * steps[1],
        num_steps=steps[1],
        num_ranks=num_ranks,
        sequence_tokens=made.knobs.sequence_tokens,
        mode=mode,
    )

    def dealt(step: int) -> DealtStep:
        experts_LTK = np.empty((num_layers, per_step, top_k), np.int32)
        batches = [deal.batch(step, *span) for span in deal.blocks(step)]
        work = [(layer, batch) for layer in range(num_layers) for batch in batches]

        def route(layer: int, batch: Any) -> None:
            experts_LTK[layer, batch.first : batch.first + len(batch)] = made.routes[layer](batch)

        _on_threads(lambda item: route(*item), work)
        rank_T = np.repeat(np.arange(num_ranks, dtype=np.int32), tokens_per_rank)
        return DealtStep(step, rank_T, experts_LTK, None, 1.0)

    return map(dealt, range(*steps))


def _check_steps(made: SyntheticRouter, num_ranks: int, tokens_per_rank: int, steps: tuple[int, int]) -> None:
    """Refuse ranks without tokens, steps out of order and a step that is too large with InputError."""
    sizes = {"num_ranks": num_ranks, "tokens_per_rank": tokens_per_rank}
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"router {made.name}: {name} must be >= 1, got {value}")
    sizes |= {"num_layers": len(made.routes), "top_k": made.top_k}
    if math.prod(sizes.values()) > _MOST_IDS:
        raise InputError(
            f"router {made.name}: layers x ranks x tokens_per_rank x top_k of {sizes} is more than {_MOST_IDS}"
        )
    if not 0 <= steps[0] < steps[1]:
        raise InputError(f"router {made.name}: steps {steps[0]}:{steps[1]} must be a range a:b with 0 <= a < b")


def _on_threads(call: Callable[[Any], None], items: Iterable[Any]) -> None:
    with ThreadPoolExecutor(get_num_threads()) as threads:  # kernels hold no interpreter lock
        list(threads.map(call, items))


def route_step(router: SyntheticRouter, layer: int, deal: TokenDeal, step: int) -> NDArray[np.int32]:
    """[T, K] experts of all tokens of a step at one MoE ordinal."""
    return np.concatenate([router.routes[layer](deal.batch(step, *span)) for span in deal.blocks(step)])
