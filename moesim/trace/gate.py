"""A flat gate: one logit per expert from a token's query, a bias of hot experts and whatever training does to it.

Logits are summed in a fixed order, so that neither the batch nor the machine changes a bit of them.
Array letters: T token, D width of a query, E expert, K top-k.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.trace.counter_noise import bell, root_key, subkey
from moesim.trace.token_stream import TokenBatch, TokenStream

_SAMPLE_TOKENS = 4096  # tokens on which a gate is balanced
_ROUNDS = 40
SAMPLE_SEQUENCE = 2**40  # sequences from here on are for balancing, never in a trace
_MOST_WEIGHTS = 2**28  # of one gate: 1 GiB
_MOST_LOGITS = 2**27  # of tokens routed together: 512 MiB, and several times that in a router that sorts them
_MOST_SAMPLED = 2**29  # on which a gate is balanced, when nothing else is held


@dataclass(frozen=True, slots=True)
class GateState:
    """What training has done to a gate by some step.

    `bias_E` is added to the logits (standard deviation 1 over tokens), `noise` the standard deviation of noise drawn
    anew for every token and expert, `alive_E` the experts that can be chosen, `balance` 0..1 the share of
    the balancing bias in force.
    """

    bias_E: NDArray[np.float64]
    noise: float
    alive_E: NDArray[np.bool_]
    balance: float = 0.0


Evolution = Callable[[int, GateState], GateState]  # (step, state so far) -> state


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterLayer:
    """The layer a router is made for: its MoE ordinal `layer`, sizes (`top_k` ids a token in all), the seed, and how
    training changes its gate from step to step, which may need the gate `balanced`.
    """

    num_experts: int
    top_k: int
    layer: int = 0
    seed: int = 0
    evolutions: tuple[Evolution, ...] = ()
    balanced: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """The flat gate of one layer: made once, asked for logits batch by batch."""

    layer: RouterLayer
    stream: TokenStream
    weight_DE: NDArray[np.float32]
    hot_E: NDArray[np.float64]
    balancing_E: NDArray[np.float64]

    def logits(self, batch: TokenBatch) -> NDArray[np.float32]:
        """[T, E] logits, -inf for experts that cannot be chosen in this step.

        Raises InputError where so many tokens at once would take more than half a gibibyte.
        """
        _check_logits("routed together", len(batch), self.layer.num_experts, _MOST_LOGITS)
        start = GateState(self.hot_E, 0.0, np.ones(self.layer.num_experts, np.bool_))
        state = start
        for evolve in self.layer.evolutions:
            state = evolve(batch.step, state)
        logits_TE = raw_logits(self.stream.queries(batch, self.layer.layer), self.weight_DE)
        logits_TE += (state.bias_E + state.balance * self.balancing_E).astype(np.float32)
        if state.noise:
            key = root_key(self.layer.seed, 12, self.layer.layer, batch.step)
            add_noise(logits_TE, batch.first, key, np.full(1, state.noise, np.float32))
        if not state.alive_E.all():
            logits_TE[:, ~state.alive_E] = -np.inf
        return logits_TE


def make_gate(layer: RouterLayer, stream: TokenStream, *, balanced: bool = False) -> Gate:
    """The gate that `layer.seed` draws; `balanced` also finds the bias at which every expert is as likely as another.

    Raises InputError where the weights would take more than a gibibyte, or the logits of the balancing more than two.
    """
    width, num_experts = stream.knobs.width, layer.num_experts
    if width * num_experts > _MOST_WEIGHTS:
        raise InputError(
            f"a flat gate of width {width} for num_experts={num_experts} is more than {_MOST_WEIGHTS} numbers; "
            f"take router hierarchical or product_key"
        )
    is_balanced = balanced or layer.balanced
    if is_balanced:
        _check_logits("to balance the gate on", _SAMPLE_TOKENS, num_experts, _MOST_SAMPLED)
    rng = np.random.default_rng([layer.seed, 10, layer.layer])
    weight_DE = (rng.standard_normal((width, num_experts)) / width**0.5).astype(np.float32)
    hot_E = stream.knobs.hot * rng.standard_normal(num_experts)
    balancing_E = np.zeros(num_experts)
    gate = Gate(layer, stream, weight_DE, hot_E, balancing_E)
    if is_balanced:
        sample_TE = raw_logits(stream.queries(sample_batch(), layer.layer), weight_DE) + hot_E.astype(np.float32)
        balancing_E += balancing_bias(sample_TE, layer.top_k)
    return gate


def _check_logits(what: str, tokens: int, num_experts: int, most: int) -> None:
    if tokens * num_experts > most:
        raise InputError(
            f"{tokens} tokens {what} x num_experts={num_experts} are more than {most} logits; take fewer tokens at once "
            f"where the router has group_tokens, fewer experts, or router hierarchical or product_key"
        )


def sample_batch(step: int = 0) -> TokenBatch:
    """Tokens of many sequences that stand in no trace: what a router looks at to balance itself."""
    index_T = np.arange(_SAMPLE_TOKENS, dtype=np.int64)
    sequence_T = SAMPLE_SEQUENCE + step * _SAMPLE_TOKENS + index_T
    return TokenBatch(step, 0, sequence_T, np.zeros_like(index_T), np.full_like(index_T, step))


def balancing_bias(logits_TE: NDArray[np.float32], top_k: int) -> NDArray[np.float64]:
    """[E] the bias under which the top-k of these logits load every expert about alike, found by repeated correction.

    What an importance or a load loss strives for (Shazeer 2017, 4), reached by raising the logits of the idle.
    """
    num_tokens, num_experts = logits_TE.shape
    bias_E, mean = np.zeros(num_experts), num_tokens * top_k / num_experts
    for number in range(_ROUNDS):
        chosen_TK = top_of(logits_TE + bias_E.astype(np.float32), top_k)
        load_E = np.bincount(chosen_TK.ravel(), minlength=num_experts)
        bias_E -= 0.5 * 0.95**number * np.log((load_E + 0.1 * mean) / (1.1 * mean))
    return bias_E


def raw_logits(query_TD: NDArray[np.float32], weight_DE: NDArray[np.float32]) -> NDArray[np.float32]:
    """[T, E] query x weight, summed over D from its first number to its last."""
    logits_TE = np.empty((len(query_TD), weight_DE.shape[1]), np.float32)
    _raw_logits(query_TD, weight_DE, logits_TE)
    return logits_TE


def top_of(logits_TE: NDArray[np.float32], top_k: int) -> NDArray[np.int32]:
    """[T, K] columns of the K largest, the largest first, of equal ones the first; -1 where fewer are above -inf."""
    chosen_TK = np.empty((len(logits_TE), top_k), np.int32)
    _top_of(logits_TE, chosen_TK)
    return chosen_TK


def add_noise(logits_TE: NDArray[np.float32], first: int, key: np.uint64, scale_E: NDArray[np.float32]) -> None:
    """Add bell-shaped noise to each logit in place; the token at `first` of its step has the same noise in any batch.

    `scale_E` is the noise's standard deviation by expert, or one number for all.
    """
    _add_noise(logits_TE, first, key, scale_E)


@njit(cache=True, nogil=True)
def _raw_logits(query_TD, weight_DE, logits_TE):  # type: ignore[no-untyped-def]  # types are numba's
    for token in range(query_TD.shape[0]):
        row_E = logits_TE[token]
        row_E[:] = np.float32(0.0)
        for d in range(query_TD.shape[1]):
            number = query_TD[token, d]
            weight_E = weight_DE[d]
            for expert in range(len(row_E)):
                row_E[expert] += number * weight_E[expert]


@njit(cache=True, nogil=True)
def keep_top(value_E, best_K, index_K):  # type: ignore[no-untyped-def]  # types are numba's
    """Fill `best_K`, `index_K` with the largest of `value_E` in falling order; -inf and -1 where there are none."""
    top_k = len(best_K)
    best_K[:] = -np.inf
    index_K[:] = -1
    least = best_K[top_k - 1]
    for expert in range(len(value_E)):
        value = value_E[expert]
        if value > least:
            place = top_k - 1
            while place > 0 and best_K[place - 1] < value:
                best_K[place] = best_K[place - 1]
                index_K[place] = index_K[place - 1]
                place -= 1
            best_K[place] = value
            index_K[place] = expert
            least = best_K[top_k - 1]


@njit(cache=True, nogil=True)
def _top_of(logits_TE, chosen_TK):  # type: ignore[no-untyped-def]  # types are numba's
    best_K = np.empty(chosen_TK.shape[1], logits_TE.dtype)
    for token in range(logits_TE.shape[0]):
        keep_top(logits_TE[token], best_K, chosen_TK[token])


@njit(cache=True, nogil=True)
def _add_noise(logits_TE, first, key, scale_E):  # type: ignore[no-untyped-def]  # types are numba's
    for token in range(logits_TE.shape[0]):
        own = subkey(key, first + token)
        for expert in range(logits_TE.shape[1]):
            scale = scale_E[expert if len(scale_E) > 1 else 0]
            logits_TE[token, expert] += np.float32(scale * bell(subkey(own, expert)))
