"""Counts expanded to tokens under the one named assumption `independent`, which every result repeats.

Sources are uniform: each rank sends the same number of tokens. Each token draws K distinct experts so that expert e is
among them with probability K x (its count) / (the layer's count), independent of other tokens and layers.
Array letters: L layer, T token, E expert, K top-k.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.routing import DealtStep, RoutingTrace
from moesim.trace.drawing import draw_by_share
from moesim.trace.rows import CountRows
from moesim.trace.store import read_rows

ASSUMPTION = "independent"


def expansion_note(trace: RoutingTrace) -> str:
    """The sentence a result repeats when it rests on an expanded count-level trace."""
    return (
        f"{trace.path.name} holds counts; expanded to tokens by the assumption '{ASSUMPTION}': sources uniform, "
        f"each token draws its distinct experts by load, at most once each, independent of other tokens and layers"
    )


def read_counts(trace: RoutingTrace) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """(step of the file, load_LE) of a count-level trace, in order; cells the file leaves out are 0."""
    shape = (trace.info.num_layers, trace.info.num_experts)
    step, load_LE = 0, np.zeros(shape, np.int64)
    for _, rows in read_rows(trace):
        assert isinstance(rows, CountRows)
        layer_W = np.searchsorted(trace.info.layers, rows.layer_W)
        for found in np.unique(rows.step_W).tolist():
            if found != step:
                yield step, load_LE
                step, load_LE = found, np.zeros(shape, np.int64)
            here_W = rows.step_W == found
            load_LE[layer_W[here_W], rows.expert_W[here_W]] = rows.tokens_W[here_W]
    yield step, load_LE


def num_expanded_steps(trace: RoutingTrace, *, num_ranks: int, tokens_per_rank: int, top_k: int | None = None) -> int:
    """Steps of num_ranks x tokens_per_rank tokens that the counted tokens fill, the last one perhaps in part."""
    size = _step_size(num_ranks, tokens_per_rank)
    return sum(-(-_num_tokens(load_LE, _top_k(trace, top_k)) // size) for _, load_LE in read_counts(trace))


def expand_counts(
    trace: RoutingTrace,
    *,
    num_ranks: int,
    tokens_per_rank: int,
    steps: tuple[int, int] | None = None,
    seed: int = 0,
    top_k: int | None = None,
) -> Iterator[DealtStep]:
    """Dealt steps drawn from a count-level trace; `steps` half open and absolute, None = all that the counts fill.

    `top_k` is for traces that do not know theirs. A step depends on `seed` and its number, not on the window asked.
    Raises InputError for steps beyond the trace and for a layer without enough experts in use.
    """
    known_top_k = _top_k(trace, top_k)
    num_steps = num_expanded_steps(trace, num_ranks=num_ranks, tokens_per_rank=tokens_per_rank, top_k=known_top_k)
    first, end = checked_steps(steps, num_steps, str(trace.path))
    return _expand(trace, num_ranks, tokens_per_rank, (first, end), seed, known_top_k)


def checked_steps(steps: tuple[int, int] | None, num_steps: int, source: str) -> tuple[int, int]:
    """`steps` if it is a part of 0..num_steps, all steps for None; else InputError naming the number of steps."""
    if steps is None:
        return 0, num_steps
    first, end = steps
    if not 0 <= first < end <= num_steps:
        raise InputError(
            f"steps {first}:{end} are not within the {num_steps} steps (0:{num_steps}) that {source} gives"
        )
    return first, end


def _expand(
    trace: RoutingTrace, num_ranks: int, tokens_per_rank: int, steps: tuple[int, int], seed: int, top_k: int
) -> Iterator[DealtStep]:
    size, before = num_ranks * tokens_per_rank, 0
    for file_step, load_LE in read_counts(trace):
        num_tokens = _num_tokens(load_LE, top_k)
        num_steps = -(-num_tokens // size)
        for step in range(max(steps[0], before), min(steps[1], before + num_steps)):
            share_LE = shares_of(load_LE, top_k, f"{trace.path}: step {file_step}", trace.info.layers)
            count = min(size, num_tokens - (step - before) * size)
            drawn = draw_by_share(share_LE, count, top_k, _key(seed, step))
            rank_T = np.sort(np.arange(count, dtype=np.int32) % np.int32(num_ranks))
            yield DealtStep(step, rank_T, drawn, None, count / size)
        before += num_steps


def _key(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])


def shares_of(load_LE: NDArray[np.int64], top_k: int, source: str, layers: tuple[int, ...]) -> NDArray[np.float64]:
    """Probability that a token picks each expert: top_k x load / layer's load, none above 1, rows summing to top_k.

    What a cap at 1 cuts off goes to the other experts in proportion. Raises InputError for a layer with fewer experts
    in use than top_k.
    """
    share_LE = load_LE.astype(np.float64)
    for layer, share_E in zip(layers, share_LE, strict=True):
        if np.count_nonzero(share_E) < top_k:
            raise InputError(
                f"{source}, layer {layer}: {np.count_nonzero(share_E)} experts have tokens, fewer than top_k={top_k}"
            )
        _cap(share_E, top_k)
    return share_LE


def _cap(share_E: NDArray[np.float64], top_k: int) -> None:
    """Scale in place to a sum of top_k with none above 1; every round fixes at least one expert at 1, so it ends."""
    full_E = np.zeros(len(share_E), bool)
    while True:
        rest = top_k - np.count_nonzero(full_E)
        if rest == 0:
            share_E[~full_E] = 0.0
            return
        share_E[~full_E] *= rest / share_E[~full_E].sum()
        over_E = ~full_E & (share_E >= 1.0)
        if not over_E.any():
            return
        share_E[over_E], full_E = 1.0, full_E | over_E


def _num_tokens(load_LE: NDArray[np.int64], top_k: int) -> int:
    return -(-int(load_LE.sum(axis=1).max()) // top_k)


def _step_size(num_ranks: int, tokens_per_rank: int) -> int:
    if num_ranks < 1 or tokens_per_rank < 1:
        raise InputError(f"num_ranks and tokens_per_rank must be >= 1, got {num_ranks} and {tokens_per_rank}")
    return num_ranks * tokens_per_rank


def _top_k(trace: RoutingTrace, top_k: int | None) -> int:
    known = trace.info.top_k or top_k
    if not known:
        raise InputError(f"{trace.path} does not know its top-k; convert it again with --model, or give top_k")
    if known > trace.info.num_experts:
        raise InputError(f"top_k={known} is more than the {trace.info.num_experts} experts of {trace.path}")
    return known
