"""Capacity: how many tokens an expert accepts, and which (token, expert) pairs are dropped when more come.

Array letters: T token, K top-k, E expert, U scope unit (one source rank, or one expert-parallel group), F pair.

Rules (T tokens of the unit, K experts a token, E experts, factor cf):
  megatron   ceil(T*K/E*cf). Megatron-LM, megatron/core/transformer/moe/moe_utils.py: get_capacity, called by
             apply_router_token_dropping with num_tokens * topk.
  deepspeed  max(ceil(T*K/E*cf), min_capacity). DeepSpeed, deepspeed/moe/sharded_moe.py: _capacity, called with the factor
             times k; min_capacity is 4 in deepspeed/moe/layer.py. (DeepSpeed multiplies in float32; here it is float64.)
  gshard     floor(T*K/E*cf) of one group of tokens, rounded up to a multiple of 4; 1 where that floor is 0 or 1. GShard
             (arXiv 2006.16668, section 2.2): each of G groups grants each expert 2N/(G*E), so its K = 2 is in the
             factor; the rounding is that of its code, praxis gshard_utils.py and lingvo/core/gshard_layers.py.
Policies:
  drop_by_probability  an expert keeps the pairs of largest gate weight: Megatron's drop policy `probs` (its default) and
                       DeepSpeed's top-k gate; of equal weights the earlier token stays.
  drop_by_position     an expert keeps the earliest tokens: `position` in both. (GShard and DeepSpeed's top-2 gate let all
                       first choices go before any second choice; a recorded row need not be in that order.)
  pad                  the same dropping (by weight where the trace has weights, else by position), then every expert's
                       buffer is filled to exactly its capacity: Megatron's pad_to_capacity, the [E, capacity] buffers
                       that DeepSpeed and GShard always send.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.errors import InputError, unknown_name

POLICIES = ("dropless", "drop_by_probability", "drop_by_position", "pad")
RULES = ("megatron", "deepspeed", "gshard")
SCOPES = ("rank", "group")
MOST_FACTOR = 1e6
_GSHARD_MULTIPLE = 4
_MOST_PADDING = 1 << 26  # rows that one group's padding may take: they are counted one by one


class CapacityCounts(NamedTuple):
    """(token, expert) pairs that were routed and kept, and rows of padding computed beside them."""

    routed: int = 0
    kept: int = 0
    padding: int = 0

    @property
    def drop_rate(self) -> float:
        """Dropped over routed pairs, 0..1; 0 when nothing was routed."""
        return (self.routed - self.kept) / self.routed if self.routed else 0.0

    @property
    def padding_rate(self) -> float:
        """Rows of padding over all rows the experts compute, 0..1."""
        rows = self.kept + self.padding
        return self.padding / rows if rows else 0.0


NO_COUNTS = CapacityCounts()


def total_counts(parts: list[CapacityCounts]) -> CapacityCounts:
    """The sum of several counts; all zero for none."""
    return CapacityCounts(*(sum(column) for column in zip(*parts, strict=True))) if parts else NO_COUNTS


@dataclass(frozen=True, slots=True, kw_only=True)
class CappedRouting:
    """The pairs that were kept, as rows with -1 at the end; `padding_UE` rows fill up each buffer (None: no padding)."""

    experts_TK: NDArray[np.int32]
    counts: CapacityCounts
    padding_UE: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """A capacity rule and what happens beyond it; `factor` = tokens an expert accepts / mean load.

    `scope` says whose tokens share one capacity: those of each source rank, or of the whole expert-parallel group.
    `min_capacity` is read by rule deepspeed only, `factor`, `rule` and `scope` by every policy but dropless.
    """

    policy: str = "dropless"
    factor: float | None = None
    rule: str = "megatron"
    scope: str = "rank"
    min_capacity: int = 4

    def __post_init__(self) -> None:
        for name, value, known in (
            ("capacity.policy", self.policy, POLICIES),
            ("capacity.rule", self.rule, RULES),
            ("capacity.scope", self.scope, SCOPES),
        ):
            if value not in known:
                raise unknown_name(name, value, known)
        if self.factor is None and not self.is_dropless:
            raise InputError(f"capacity.policy {self.policy} needs capacity.factor, such as 1.25")
        if self.factor is not None and not 0.0 < self.factor <= MOST_FACTOR:
            raise InputError(f"capacity.factor is {self.factor}; it must be above 0 and at most {MOST_FACTOR:g}")
        if self.min_capacity < 0:
            raise InputError(f"capacity.min_capacity is {self.min_capacity}; it must be 0 or more")

    @property
    def is_dropless(self) -> bool:
        """Whether every pair is kept, whatever the load."""
        return self.policy == "dropless"

    def of_tokens(self, num_tokens: int, top_k: int, num_experts: int) -> int:
        """Pairs one expert accepts from a unit of `num_tokens` tokens; needs a factor.

        >>> Capacity(policy="pad", factor=1.25).of_tokens(100, 2, 16)
        16
        """
        assert self.factor is not None  # checked for every policy that asks
        share = num_tokens * top_k / num_experts * self.factor  # in this order: the frameworks' own rounding
        if self.rule == "megatron":
            return math.ceil(share)
        if self.rule == "deepspeed":
            return max(math.ceil(share), self.min_capacity)
        whole = math.floor(share)
        return -(-whole // _GSHARD_MULTIPLE) * _GSHARD_MULTIPLE if whole > 1 else 1

    def buffer_rows(self, rank_tokens: int, num_ranks: int, top_k: int, num_experts: int) -> int | None:
        """Most rows one expert gets from `num_ranks` ranks of `rank_tokens` tokens; None where nothing limits them."""
        if self.is_dropless:
            return None
        if self.scope == "group":
            return self.of_tokens(rank_tokens * num_ranks, top_k, num_experts)
        return self.of_tokens(rank_tokens, top_k, num_experts) * num_ranks

    def cap(
        self,
        experts_TK: NDArray[np.int32],
        weights_TK: NDArray[np.float32] | None,
        rank_T: NDArray[np.int32],
        num_ranks: int,
        num_experts: int,
    ) -> CappedRouting:
        """Keep what fits of one layer's routing on the ranks 0..num_ranks-1 of one expert-parallel group.

        `rank_T` ascends; `experts_TK` has -1 for no expert; `weights_TK` gate weights or None. Raises InputError where
        drop_by_probability finds no weights, and where padding would take more than 2**26 rows.
        """
        routed = int(np.count_nonzero(experts_TK >= 0))
        if self.is_dropless:
            return CappedRouting(experts_TK=experts_TK, counts=CapacityCounts(routed, routed))
        if self.policy == "drop_by_probability" and weights_TK is None:
            raise no_weights()
        tokens_U = np.bincount(rank_T, minlength=num_ranks) if self.scope == "rank" else np.array([len(rank_T)])
        capacity_U = np.array([self.of_tokens(int(n), experts_TK.shape[1], num_experts) for n in tokens_U])
        kept_TK = np.array(experts_TK, dtype=np.int32, order="C")  # a copy: the dealt step stays as it is
        by_weight = weights_TK is not None and self.policy != "drop_by_position"
        used_TK = weights_TK if weights_TK is not None and by_weight else np.zeros((0, 0), np.float32)
        offsets_U1 = np.concatenate(([0], np.cumsum(tokens_U)))
        _drop(kept_TK, np.ascontiguousarray(used_TK), offsets_U1, capacity_U, num_experts, by_weight)
        kept = int(np.count_nonzero(kept_TK >= 0))
        if self.policy != "pad":
            return CappedRouting(experts_TK=kept_TK, counts=CapacityCounts(routed, kept))
        padding = int(capacity_U.sum()) * num_experts - kept
        if max(padding, len(tokens_U) * num_experts) > _MOST_PADDING:
            raise InputError(
                f"padding to capacity {int(capacity_U.max())} takes {padding} rows of {num_experts} experts in one group "
                f"and layer, more than {_MOST_PADDING}; lower capacity.factor or capacity.min_capacity"
            )
        padding_UE = capacity_U[:, None] - _kept_by_unit(kept_TK, tokens_U, num_experts)
        return CappedRouting(experts_TK=kept_TK, counts=CapacityCounts(routed, kept, padding), padding_UE=padding_UE)

    def sentence(self, *, has_weights: bool) -> str:
        """What was assumed, for the reader of a result."""
        if self.is_dropless:
            return "capacity: dropless, every expert takes all tokens routed to it"
        least = f", at least {self.min_capacity}" if self.rule == "deepspeed" else ""
        whose = "each source rank" if self.scope == "rank" else "each expert-parallel group"
        kept = "the earliest tokens" if self.policy == "drop_by_position" or not has_weights else "the largest weights"
        padded = (
            ""
            if self.policy != "pad"
            else "; buffers are padded to it"
            + (" and sent whole" if self.scope == "rank" else " where the experts lie")
        )
        return (
            f"capacity: rule {self.rule}, factor {self.factor:g}{least}, over the tokens of {whose}; an expert keeps "
            f"{kept}{padded}"
        )


DROPLESS = Capacity()


def no_weights() -> InputError:
    """The refusal of drop_by_probability on routing without gate weights."""
    return InputError(
        "capacity.policy drop_by_probability needs gate weights, which this routing does not have; use drop_by_position, "
        "or a trace recorded with weights"
    )


def _kept_by_unit(experts_TK: NDArray[np.int32], tokens_U: NDArray[np.int64], num_experts: int) -> NDArray[np.int64]:
    """Kept pairs of each expert from each unit, [U, E]."""
    unit_T = np.repeat(np.arange(len(tokens_U)), tokens_U)
    cell_TK = unit_T[:, None] * num_experts + experts_TK
    kept = np.bincount(cell_TK[experts_TK >= 0], minlength=len(tokens_U) * num_experts)
    return kept.reshape(len(tokens_U), num_experts).astype(np.int64)


@njit(cache=True, nogil=True)
def _drop(experts_TK, weights_TK, offsets_U1, capacity_U, num_experts, by_weight):  # type: ignore[no-untyped-def]
    """Replace dropped pairs by -1, in place, and move those to the end of their row.

    Only pairs of overfull experts are ordered: by weight, largest first, or as they stand; then each expert takes pairs
    until it is full. Counters are stamped with their unit: nothing to clear between units.
    """
    top_k = experts_TK.shape[1]
    load_E, load_unit_E = np.zeros(num_experts, np.int64), np.full(num_experts, -1, np.int64)
    taken_E, taken_unit_E = np.zeros(num_experts, np.int64), np.full(num_experts, -1, np.int64)
    for unit in range(capacity_U.size):
        first, end, room = offsets_U1[unit], offsets_U1[unit + 1], capacity_U[unit]
        overfull = 0
        for token in range(first, end):
            for k in range(top_k):
                expert = experts_TK[token, k]
                if expert >= 0:
                    if load_unit_E[expert] != unit:
                        load_unit_E[expert], load_E[expert] = unit, 0
                    load_E[expert] += 1
                    if load_E[expert] == room + 1:
                        overfull += load_E[expert]
                    elif load_E[expert] > room:
                        overfull += 1
        if overfull == 0:
            continue
        pair_F = np.empty(overfull, np.int64)
        weight_F = np.empty(overfull if by_weight else 0, np.float32)
        found = 0
        for token in range(first, end):
            for k in range(top_k):
                expert = experts_TK[token, k]
                if expert >= 0 and load_E[expert] > room:
                    pair_F[found] = token * top_k + k
                    if by_weight:
                        weight_F[found] = -weights_TK[token, k]
                    found += 1
        if by_weight:
            pair_F = pair_F[np.argsort(weight_F, kind="mergesort")]  # stable: of equal weights the earlier token
        for pair in pair_F:
            token, k = pair // top_k, pair % top_k
            expert = experts_TK[token, k]
            if taken_unit_E[expert] != unit:
                taken_unit_E[expert], taken_E[expert] = unit, 0
            if taken_E[expert] < room:
                taken_E[expert] += 1
            else:
                experts_TK[token, k] = -1
    for token in range(experts_TK.shape[0]):
        kept = 0
        for k in range(top_k):
            expert = experts_TK[token, k]
            if expert >= 0:
                experts_TK[token, kept] = expert
                kept += 1
        for k in range(kept, top_k):
            experts_TK[token, k] = -1
