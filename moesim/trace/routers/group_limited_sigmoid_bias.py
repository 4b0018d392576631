"""DeepSeek-V3's gate (arXiv 2412.19437, 2.1.2): sigmoid scores, groups by their two best, a bias that learns to balance.

Array letters: T token, E expert, G group, K top-k.
"""

import threading
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.trace.gate import Gate, RouterLayer, keep_top, make_gate, sample_batch
from moesim.trace.token_groups import Route, check_between, in_parts
from moesim.trace.token_stream import TokenBatch, TokenStream

_SAMPLE_TOKENS = 1024
_LAST_STEP = 1000  # steps after which the bias stays


def build(
    layer: RouterLayer,
    stream: TokenStream,
    *,
    num_groups: int = 0,
    top_groups: int = 0,
    update_speed: float = 0.01,
    updates: int = 50,
    updates_per_step: int = 1,
) -> Route:
    """The K of largest sigmoid(logit) + bias in those `top_groups` of `num_groups` groups whose two largest sum highest.

    The bias of an expert rises by `update_speed` in each update where it had less than the mean load, else falls:
    `updates` times before step 0 and `updates_per_step` times in each of the next 1000 steps, on tokens
    of no trace. Zeros: 8, 4, 2 or 1 groups, whichever divides the experts, and the fewest that are at least half of
    them and hold top_k. Raises InputError where the groups do not fit.
    """
    num_groups = num_groups or next(groups for groups in (8, 4, 2, 1) if layer.num_experts % groups == 0)
    size, left = divmod(layer.num_experts, max(num_groups, 1))
    top_groups = top_groups or max((num_groups + 1) // 2, -(-layer.top_k // max(size, 1)))
    if left or not 1 <= top_groups <= num_groups or top_groups * size < layer.top_k:
        raise InputError(
            f"router group_limited_sigmoid_bias: {top_groups} of num_groups={num_groups} of {layer.num_experts} experts "
            f"cannot give {layer.top_k} each; groups must divide the experts and those chosen hold top_k of them"
        )
    check_between("router group_limited_sigmoid_bias", "update_speed", update_speed, 0.0, 1.0)
    check_between("router group_limited_sigmoid_bias", "updates", updates, 0, 10_000)
    check_between("router group_limited_sigmoid_bias", "updates_per_step", updates_per_step, 0, 100)
    gate = make_gate(layer, stream)
    learner = _Learner(gate, num_groups, top_groups, update_speed, updates, updates_per_step)

    def route(batch: TokenBatch) -> NDArray[np.int32]:
        return _choose(_sigmoid(gate.logits(batch)), learner.bias(batch.step), num_groups, top_groups, layer.top_k)

    return lambda batch: in_parts(batch, layer.num_experts, route)


@dataclass(slots=True)
class _Learner:
    """The bias after each step; steps already learnt are remembered, so that any order of steps gives the same."""

    gate: Gate
    num_groups: int
    top_groups: int
    speed: float
    before: int
    per_step: int
    _biases: list[NDArray[np.float64]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def bias(self, step: int) -> NDArray[np.float64]:
        """[E] the bias in force in a step."""
        last = min(step, _LAST_STEP) if self.per_step else 0
        with self._lock:
            while len(self._biases) <= last:
                self._biases.append(self._learn(len(self._biases)))
            return self._biases[last]

    def _learn(self, step: int) -> NDArray[np.float64]:
        layer = self.gate.layer
        bias_E = self._biases[-1].copy() if step else np.zeros(layer.num_experts)
        score_TE = _sigmoid(self.gate.logits(sample_batch(step).part(0, _SAMPLE_TOKENS)))
        for _ in range(self.per_step if step else self.before):
            chosen_TK = _choose(score_TE, bias_E, self.num_groups, self.top_groups, layer.top_k)
            load_E = np.bincount(chosen_TK[chosen_TK >= 0], minlength=layer.num_experts)
            bias_E += self.speed * np.sign(load_E.mean() - load_E)
        return bias_E


def _sigmoid(logits_TE: NDArray[np.float32]) -> NDArray[np.float32]:
    """-inf stays: an expert that cannot be chosen."""
    score_TE: NDArray[np.float32] = np.reciprocal(np.float32(1.0) + np.exp(-np.maximum(logits_TE, np.float32(-80.0))))
    score_TE[np.isneginf(logits_TE)] = -np.inf
    return score_TE


def _choose(
    score_TE: NDArray[np.float32], bias_E: NDArray[np.float64], num_groups: int, top_groups: int, top_k: int
) -> NDArray[np.int32]:
    experts_TK = np.empty((len(score_TE), top_k), np.int32)
    _limited(score_TE, bias_E, num_groups, top_groups, experts_TK)
    return experts_TK


@njit(cache=True, nogil=True)
def _limited(score_TE, bias_E, num_groups, top_groups, experts_TK):  # type: ignore[no-untyped-def]  # types are numba's
    num_experts = len(bias_E)
    size = num_experts // num_groups
    score_E, sum_G = np.empty(num_experts), np.empty(num_groups)
    two, two_of = np.empty(min(2, size)), np.empty(min(2, size), np.int32)
    best_G, group_G = np.empty(top_groups), np.empty(top_groups, np.int32)
    best_K = np.empty(experts_TK.shape[1])
    for token in range(score_TE.shape[0]):
        for expert in range(num_experts):
            score_E[expert] = score_TE[token, expert] + bias_E[expert]
        for group in range(num_groups):
            keep_top(score_E[group * size : (group + 1) * size], two, two_of)
            sum_G[group] = two.sum()
        keep_top(sum_G, best_G, group_G)
        for group in range(num_groups):
            chosen = False
            for other in group_G:
                chosen = chosen or other == group
            if not chosen:
                score_E[group * size : (group + 1) * size] = -np.inf
        keep_top(score_E, best_K, experts_TK[token])
