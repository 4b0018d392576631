"""Bigram entropies: what a model must beat to have learnt more than which token follows which."""

import numpy as np
from numpy.typing import NDArray

_DISCOUNT = 0.75


def smoothed_cross_entropy(
    train_pairs: NDArray[np.int64], held_out_pairs: NDArray[np.int64], num_symbols: int
) -> float:
    """Nats per token of `held_out_pairs` under an interpolated Kneser-Ney bigram counted on `train_pairs`.

    Both are [pairs, 2] of (previous, next) token.
    """
    count = _count(train_pairs, num_symbols).astype(np.float64)
    seen = (count > 0).astype(np.float64)
    total = np.maximum(count.sum(axis=1), 1.0)
    followed = seen.sum(axis=1)
    # A token never seen in train still gets half a pair's worth of probability.
    continuation = (seen.sum(axis=0) + 0.5) / (seen.sum() + 0.5 * num_symbols)
    previous, following = held_out_pairs[:, 0], held_out_pairs[:, 1]
    back_off = np.where(followed > 0, _DISCOUNT * followed / total, 1.0)[previous]
    kept = np.maximum(count[previous, following] - _DISCOUNT, 0.0) / total[previous]
    return float(-np.log(kept + back_off * continuation[following]).mean())


def empirical_entropy(pairs: NDArray[np.int64], num_symbols: int) -> float:
    """Conditional entropy H(next | previous) in nats of the pairs' own counts.

    A lower bound of what any bigram reaches on these very pairs, since it is fitted to them.
    """
    count = _count(pairs, num_symbols).astype(np.float64)
    row = count.sum(axis=1, keepdims=True)
    probability = np.divide(count, row, out=np.ones_like(count), where=count > 0)
    return float(-(count * np.log(probability)).sum() / count.sum())


def _count(pairs: NDArray[np.int64], num_symbols: int) -> NDArray[np.int64]:
    flat = np.bincount(pairs[:, 0] * num_symbols + pairs[:, 1], minlength=num_symbols**2)
    return flat.astype(np.int64).reshape(num_symbols, num_symbols)
