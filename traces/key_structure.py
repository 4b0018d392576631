"""How far the experts of tokens concentrate on rows and columns of the product-key grid, and how evenly all are used.

Array letters: T token, K top-k, N half-keys, E experts (N x N).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def key_structure(experts_TK: NDArray[np.int32], sequence_T: NDArray[np.int32], num_keys: int) -> dict[str, Any]:
    """Figures of routing with expert = row x num_keys + column and -1 for no expert; tokens of a sequence in order.

    For rows and columns: `distinct_*` a token's mean number, `distinct_*_uniform` what as many experts drawn uniformly
    would have, `shared_*` the mean share of a token's that the token before it in its sequence also has,
    `shared_*_any` the same of two tokens drawn anywhere, `load_*_max_over_mean` of the ids, `load_*_top_tenth` the share
    of ids on the busiest tenth. `experts_per_token` is the mean number of ids, `shared_experts` as `shared_rows`.
    """
    there_TK = experts_TK >= 0
    ids_T = there_TK.sum(axis=1)
    follows_T = np.flatnonzero(sequence_T[1:] == sequence_T[:-1]) + 1
    figures: dict[str, Any] = {
        "experts_per_token": float(ids_T.mean()),
        "shared_experts": _shared_experts(experts_TK, follows_T),
    }
    keys = {"rows": experts_TK // num_keys, "columns": experts_TK % num_keys}
    for name, keys_TK in keys.items():
        touched_TN = np.zeros((len(experts_TK), num_keys), bool)
        np.put_along_axis(touched_TN, np.where(there_TK, keys_TK, keys_TK[:, :1]), True, axis=1)
        load_N = np.sort(np.bincount(keys_TK[there_TK], minlength=num_keys))[::-1]
        touched_T = touched_TN.sum(axis=1)
        uniform_T = num_keys * (1.0 - (1.0 - 1.0 / num_keys) ** ids_T)
        share_N = touched_TN.mean(axis=0)
        figures |= {
            f"distinct_{name}": float(touched_T.mean()),
            f"distinct_{name}_uniform": float(uniform_T.mean()),
            f"shared_{name}": float(
                ((touched_TN[follows_T] & touched_TN[follows_T - 1]).sum(axis=1) / touched_T[follows_T]).mean()
            ),
            f"shared_{name}_any": float((share_N**2).sum() / touched_T.mean()),
            f"load_{name}_max_over_mean": float(load_N[0] / load_N.mean()),
            f"load_{name}_top_tenth": float(load_N[: -(-num_keys // 10)].sum() / load_N.sum()),
        }
    return {name: round(value, 4) for name, value in figures.items()}


def usage(score_E: NDArray[np.float64]) -> tuple[float, float]:
    """(share of experts with any score, unevenness): PEER's two figures (arXiv 2407.04153, section 3.3).

    `score_E` sums the router's weights over the text; unevenness is the Kullback-Leibler divergence in nats of its
    distribution from the uniform one: 0 = even, ln E = all on one expert.
    """
    share = score_E[score_E > 0] / score_E.sum()
    return float((score_E > 0).mean()), float((share * np.log(share * len(score_E))).sum())


def add_scores(score_E: NDArray[np.float64], experts: Sequence[NDArray[np.int32]], weights: Sequence[Any]) -> None:
    """Add every weight to the score of its expert, in place."""
    for experts_TK, weights_TK in zip(experts, weights, strict=True):
        score_E += np.bincount(experts_TK.ravel(), weights_TK.ravel(), minlength=len(score_E))


def _shared_experts(experts_TK: NDArray[np.int32], follows_T: NDArray[np.int64]) -> float:
    """A row holds an expert once, so in two rows sorted together an expert of both stands twice in succession."""
    later_TK, earlier_TK = experts_TK[follows_T], experts_TK[follows_T - 1]
    both_TK = np.sort(np.concatenate([later_TK, earlier_TK], axis=1), axis=1)
    shared_T = ((both_TK[:, 1:] == both_TK[:, :-1]) & (both_TK[:, 1:] >= 0)).sum(axis=1)
    return float((shared_T / (later_TK >= 0).sum(axis=1)).mean())
