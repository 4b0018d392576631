"""TokenSketch of a planning window: which tokens a planner looks at, and how many others each one stands for.

Array letters: L MoE ordinal, T token, K top-k, W window (one step).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.planner.problem import TokenSketch
from moesim.routing import DealtStep

MOST_TOKENS = 1 << 14
MOST_WINDOWS = 24


def make_sketch(
    steps: Sequence[DealtStep],
    num_ranks: int,
    *,
    group_size: int | None = None,
    most_tokens: int = MOST_TOKENS,
    most_windows: int = MOST_WINDOWS,
) -> TokenSketch:
    """Tokens of at most `most_windows` of the steps, evenly spaced, and about `most_tokens` of them in all.

    Each chosen step is one window. A step with more than its share of tokens is thinned: every so manyth token of each
    rank is kept, and stands for the rank's others. `group_size` (default all ranks) is that of the expert-parallel
    groups, within which tokens are numbered. Raises InputError without a step.
    """
    if not steps:
        raise InputError("no steps to plan on; give a planning window with at least one step")
    chosen = [
        steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, min(len(steps), most_windows)).round().astype(int))
    ]
    size = num_ranks if group_size is None else group_size
    kept = [_thinned(step.rank_T, max(most_tokens // len(chosen), 1)) for step in chosen]
    token_T = [_numbers(step, size)[keep] for step, (keep, _) in zip(chosen, kept, strict=True)]
    window_T = [np.full(len(keep), window, dtype=np.int32) for window, (keep, _) in enumerate(kept)]
    whole = all(len(keep) == step.num_tokens for step, (keep, _) in zip(chosen, kept, strict=True))
    return TokenSketch(
        experts_LTK=np.concatenate(
            [step.experts_LTK[:, keep] for step, (keep, _) in zip(chosen, kept, strict=True)], axis=1
        ),
        source_T=np.concatenate([step.rank_T[keep] for step, (keep, _) in zip(chosen, kept, strict=True)]),
        weight_T=np.concatenate([weight for _, weight in kept]),
        window_T=np.concatenate(window_T),
        window_weight_W=np.full(len(chosen), 1.0 / len(chosen)),
        token_T=np.concatenate(token_T),
        whole=whole,
    )


def pairs_by_expert(experts_TK: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Token and expert of every pair, by expert and then token; -1 is no expert.

    >>> [pairs.tolist() for pairs in pairs_by_expert(np.array([[1, 0], [0, -1]], dtype=np.int32))]
    [[0, 1, 0], [0, 0, 1]]
    """
    token, k = np.nonzero(experts_TK >= 0)
    expert = experts_TK[token, k]
    small = expert.size > 0 and expert.max() <= np.iinfo(np.uint16).max
    order = np.argsort(expert.astype(np.uint16) if small else expert, kind="stable")  # 16 bits are sorted by counting
    return token[order].astype(np.int32), expert[order]


def shuffled_sources(sketch: TokenSketch, num_ranks: int, seed: int) -> TokenSketch:
    """The sketch with every window's ranks dealt anew: what a rank sends is then what any rank might have sent.

    Tokens of one rank stay together, since the sequences they come from do. Draws depend on `seed` and window only.
    """
    source_T = sketch.source_T.copy()
    for window in range(sketch.num_windows):
        mine = sketch.window_T == window
        source_T[mine] = np.random.default_rng((seed, window)).permutation(num_ranks)[source_T[mine]]
    return dataclasses.replace(sketch, source_T=source_T.astype(np.int32), whole=False)


def join_sketches(sketches: Sequence[TokenSketch], weights: Sequence[float]) -> TokenSketch:
    """All windows of several sketches side by side; sketch i has `weights[i]` of the whole."""
    first_W = np.concatenate([[0], np.cumsum([sketch.num_windows for sketch in sketches])])
    share = np.asarray(weights, dtype=np.float64) / float(np.sum(weights))
    return TokenSketch(
        experts_LTK=np.concatenate([sketch.experts_LTK for sketch in sketches], axis=1),
        source_T=np.concatenate([sketch.source_T for sketch in sketches]),
        weight_T=np.concatenate([sketch.weight_T for sketch in sketches]),
        window_T=np.concatenate(
            [sketch.window_T + np.int32(first) for sketch, first in zip(sketches, first_W, strict=False)]
        ).astype(np.int32),
        window_weight_W=np.concatenate(
            [sketch.window_weight_W * part for sketch, part in zip(sketches, share, strict=True)]
        ),
        token_T=np.concatenate([sketch.token_T for sketch in sketches]),
        whole=all(sketch.whole for sketch in sketches),
    )


def every_so_manyth(sketch: TokenSketch, most_tokens: int) -> TokenSketch:
    """Every so manyth token, at most `most_tokens` of them; every window keeps the tokens it stands for."""
    stride = -(-sketch.num_tokens // most_tokens)
    if stride <= 1:
        return sketch
    keep = np.arange(0, sketch.num_tokens, stride)
    window_T, weight_T = sketch.window_T[keep], sketch.weight_T[keep]
    before_W = np.bincount(sketch.window_T, weights=sketch.weight_T, minlength=sketch.num_windows)
    after_W = np.bincount(window_T, weights=weight_T, minlength=sketch.num_windows)
    return dataclasses.replace(
        sketch,
        experts_LTK=sketch.experts_LTK[:, keep],
        source_T=sketch.source_T[keep],
        weight_T=weight_T * (before_W / np.maximum(after_W, 1e-300))[window_T],
        window_T=window_T,
        token_T=sketch.token_T[keep],
        whole=False,
    )


def select_windows(sketch: TokenSketch, windows: Sequence[int]) -> TokenSketch:
    """The sketch with only some of its windows, renumbered in the order given."""
    number_W = np.full(sketch.num_windows, -1, dtype=np.int32)
    number_W[list(windows)] = np.arange(len(windows), dtype=np.int32)
    keep = np.flatnonzero(number_W[sketch.window_T] >= 0)
    weight_W = sketch.window_weight_W[list(windows)]
    return TokenSketch(
        experts_LTK=sketch.experts_LTK[:, keep],
        source_T=sketch.source_T[keep],
        weight_T=sketch.weight_T[keep],
        window_T=number_W[sketch.window_T[keep]],
        window_weight_W=weight_W / weight_W.sum(),
        token_T=sketch.token_T[keep],
        whole=sketch.whole,
    )


def _thinned(rank_T: NDArray[np.int32], most: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which tokens of a step are kept, ascending, and how many tokens of its rank each one stands for."""
    if len(rank_T) <= most:
        return np.arange(len(rank_T)), np.ones(len(rank_T))
    stride = -(-len(rank_T) // most)
    order = np.argsort(rank_T, kind="stable")
    count_R = np.bincount(rank_T)
    place = np.arange(len(rank_T)) - np.repeat(np.cumsum(count_R) - count_R, count_R)  # of a token within its rank
    keep = np.sort(order[place % stride == 0])
    kept_R = np.bincount(rank_T[keep], minlength=len(count_R))
    return keep, (count_R / np.maximum(kept_R, 1))[rank_T[keep]]


def _numbers(step: DealtStep, group_size: int) -> NDArray[np.int64]:
    """The index by which replica policies draw for each token of the step, within its expert-parallel group."""
    group_T = step.rank_T // group_size
    order = np.argsort(group_T, kind="stable")
    count_G = np.bincount(group_T)
    number_T = np.empty(step.num_tokens, dtype=np.int64)
    number_T[order] = np.arange(step.num_tokens) - np.repeat(np.cumsum(count_G) - count_G, count_G)
    return number_T + step.step * step.num_tokens
