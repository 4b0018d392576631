"""Switch routing (Fedus, Zoph, Shazeer 2021, arXiv 2101.03961): the largest logit, jittered, within a capacity."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moesim.trace.gate import Evolution, GateState, RouterLayer, make_gate, top_of
from moesim.trace.token_groups import Route, check_between, check_top_k, in_groups, keep_within
from moesim.trace.token_stream import TokenBatch, TokenStream


def build(
    layer: RouterLayer,
    stream: TokenStream,
    *,
    capacity_factor: float = 1.25,
    jitter: float = 0.01,
    group_tokens: int = 1024,
) -> Route:
    """One expert a token, or none: of a group of T tokens an expert takes the first ceil(T / E x capacity_factor).

    `jitter` 0..1 is the standard deviation of noise on each logit (the paper multiplies the input by 1 +- 0.01).
    Groups are of about `group_tokens` tokens (the paper: those of a core).
    """
    check_top_k("switch_top1", layer.top_k, 1)
    check_between("router switch_top1", "capacity_factor", capacity_factor, 1e-6, 1e6)
    check_between("router switch_top1", "jitter", jitter, 0.0, 1.0)
    check_between("router switch_top1", "group_tokens", group_tokens, 1, 2**20)

    gate = make_gate(replace(layer, evolutions=(*layer.evolutions, _jittered(jitter))), stream)

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        capacity = math.ceil(len(batch) / layer.num_experts * capacity_factor)
        return keep_within(top_of(gate.logits(batch), 1), capacity, layer.num_experts)

    return lambda batch: in_groups(batch, group_tokens, route)


def _jittered(jitter: float) -> Evolution:
    def evolve(step: int, state: GateState) -> GateState:
        return replace(state, noise=math.hypot(state.noise, jitter))

    return evolve
