"""The law of each router: what its paper promises, held against plain searches.

Array letters: T token, K top-k, E expert, D width of a query.
"""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from moesim.trace import gate as gates
from moesim.trace.gate import RouterLayer, balancing_bias, make_gate, raw_logits, top_of
from moesim.trace.routers import product_key
from moesim.trace.synthetic import make_router, route_step
from moesim.trace.token_batches import TokenDeal
from moesim.trace.token_stream import Knobs, TokenStream


def _rows(router: str, num_tokens: int, num_experts: int, top_k: int, step: int = 0, **parameters: Any) -> np.ndarray:
    made = make_router(router, num_layers=1, num_experts=num_experts, top_k=top_k, seed=3, parameters=parameters)
    steps = step + 1
    deal = TokenDeal(num_tokens=num_tokens * steps, num_steps=steps, num_ranks=1, sequence_tokens=64)
    return route_step(made, 0, deal, step)


def _load(rows_TK: np.ndarray, num_experts: int) -> np.ndarray:
    return np.bincount(rows_TK[rows_TK >= 0], minlength=num_experts)


@pytest.mark.parametrize(
    ("rows", "columns", "heads", "each"), [(4, 4, 1, 3), (16, 16, 2, 8), (5, 12, 3, 20), (40, 2, 2, 4)]
)
def test_product_keys_find_what_a_search_of_all_experts_finds(rows: int, columns: int, heads: int, each: int) -> None:
    """Per head the K largest of row score + column score over the whole grid; heads merged in order."""
    stream = TokenStream(Knobs(structure=0.6, hot=0.3), 3)
    layer = RouterLayer(num_experts=rows * columns, top_k=heads * each, seed=3)
    batch = TokenDeal(num_tokens=60, num_steps=1, num_ranks=1, sequence_tokens=20).batch(0, 0, 60)
    found_TK = product_key.build(layer, stream, heads=heads, rows=rows)(batch)
    rng = np.random.default_rng([3, 27, 0])
    (key_QR, hot_R), (key_QC, hot_C) = (product_key._keys(rng, number, 0.3) for number in (rows, columns))
    query_THSQ = stream.queries(batch, 0, heads * 16).reshape(60, heads, 2, 8)
    for token in range(60):
        expected: list[int] = []
        for query_SQ in query_THSQ[token].astype(np.float64):
            score = (query_SQ[0] @ key_QR + hot_R)[:, None] + (query_SQ[1] @ key_QC + hot_C)[None, :]
            expected += [e for e in np.argsort(-score.ravel())[:each].tolist() if e not in expected]
        assert sorted(expected) == sorted(found_TK[token][found_TK[token] >= 0].tolist())


def test_every_expert_chooses_the_same_number_of_tokens() -> None:
    """Expert choice: C = T x mean / E tokens of every group for every expert, however skewed the gate."""
    rows_TK = _rows("expert_choice", 512, 16, 8, group_tokens=128, mean_experts=3.0, hot=2.0, structure=0.9)
    for group in rows_TK.reshape(4, 128, 8):
        assert [24] * 16 == _load(group, 16).tolist()
    assert len({int((row >= 0).sum()) for row in rows_TK}) > 2


def test_no_token_and_expert_would_rather_have_each_other() -> None:
    """Expert choice with a limit per token is a stable matching."""
    layer, stream = RouterLayer(num_experts=8, top_k=3, seed=3), TokenStream(Knobs(structure=0.9, hot=1.0), 3)
    batch = TokenDeal(num_tokens=64, num_steps=1, num_ranks=1, sequence_tokens=64).batch(0, 0, 64)
    logits_TE = make_gate(layer, stream).logits(batch).astype(np.float64)
    weight_TE = np.exp(logits_TE) / np.exp(logits_TE).sum(axis=1, keepdims=True)
    rows_TK = _rows("expert_choice", 64, 8, 3, structure=0.9, hot=1.0)
    has_TE = (rows_TK[:, :, None] == np.arange(8)).any(axis=1)
    least_E = np.where(has_TE, weight_TE, np.inf).min(axis=0)
    for token in range(64):
        kept = weight_TE[token][has_TE[token]]
        for expert in np.flatnonzero(~has_TE[token] & (weight_TE[token] > least_E)):
            assert len(kept) == 3
            assert kept.min() > weight_TE[token, expert]


def test_base_layers_assign_best_and_evenly() -> None:
    """BASE: every expert has T / E tokens, and no exchange of tokens would raise the summed logits."""
    layer, stream = RouterLayer(num_experts=8, top_k=1, seed=3), TokenStream(Knobs(), 3)
    batch = TokenDeal(num_tokens=64, num_steps=1, num_ranks=1, sequence_tokens=64).batch(0, 0, 64)
    logits_TE = make_gate(layer, stream).logits(batch).astype(np.float64)
    chosen_T = _rows("base_assignment", 64, 8, 1)[:, 0]
    assert [8] * 8 == _load(chosen_T, 8).tolist()
    token, slot = linear_sum_assignment(-np.repeat(logits_TE, 8, axis=1))
    assert np.isclose(np.repeat(logits_TE, 8, axis=1)[token, slot].sum(), logits_TE[np.arange(64), chosen_T].sum())
    assert [4, 4, 4, 4, 5, 5, 5, 5] == sorted(_load(_rows("base_assignment", 36, 8, 1), 8).tolist())


@pytest.mark.parametrize(
    ("router", "top_k", "capacity"), [("switch_top1", 1, 10), ("gshard_top2", 2, 20)], ids=["switch", "gshard"]
)
def test_capacity_is_kept_and_used(router: str, top_k: int, capacity: int) -> None:
    """No expert of a group has more than its capacity; without one, nothing is dropped that a hot expert wants."""
    rows_TK = _rows(router, 256, 16, top_k, group_tokens=128, capacity_factor=1.25, hot=1.0)
    loads = [_load(group, 16) for group in rows_TK.reshape(2, 128, top_k)]
    assert capacity == max(load.max() for load in loads)
    free_TK = _rows(router, 256, 16, top_k, group_tokens=128, capacity_factor=100.0, hot=1.0)
    assert (free_TK[:, 0] >= 0).all()
    assert _load(free_TK[:128], 16).max() > capacity


def test_groups_limit_and_bias_updates_balance() -> None:
    """DeepSeek-V3: at most 4 of 8 groups a token; two hundred updates leave the load far more even than none."""
    tokens: dict[str, Any] = {"topic_tokens": 1.0, "structure": 0.3, "hot": 1.0}
    first_TK = _rows("group_limited_sigmoid_bias", 4000, 64, 4, updates=0, **tokens)
    last_TK = _rows("group_limited_sigmoid_bias", 4000, 64, 4, updates=200, **tokens)
    assert max(len(set((row // 8).tolist())) for row in last_TK) <= 4
    skew = [_load(rows, 64).max() / _load(rows, 64).mean() for rows in (first_TK, last_TK)]
    assert skew[1] < 1.0 + 0.4 * (skew[0] - 1.0)


def test_the_balance_knob_runs_from_skewed_to_even() -> None:
    """Noisy top-k: the larger `balance`, the more even the load."""
    tokens: dict[str, Any] = {"topic_tokens": 1.0, "structure": 0.2, "hot": 1.0, "noise": 0.5}
    peaks = [_load(_rows("noisy_topk", 4000, 32, 4, balance=balance, **tokens), 32).max() for balance in (0, 0.5, 1)]
    assert peaks[0] > 1.2 * peaks[1] > 1.2 * peaks[2]


def test_zero_experts_take_the_share_asked_for() -> None:
    """LongCat: as many real experts a token as asked, on average, and the number differs from token to token."""
    rows_TK = _rows("zero_experts", 6000, 32, 6, zero=16, real=4.0, topic_tokens=1.0)
    counts = (rows_TK >= 0).sum(axis=1)
    assert abs(counts.mean() - 4.0) < 0.3
    assert counts.std() > 0.5


def test_modalities_never_share_an_expert() -> None:
    """Every row lies in one pool, and both pools are used."""
    pools = _rows("modality", 2000, 16, 3, pools=2, run_tokens=20.0) // 8
    assert (pools == pools[:, :1]).all()
    assert {0, 1} == set(pools.ravel().tolist())


def test_a_word_hashes_to_the_same_experts() -> None:
    """Hash: as many kinds of rows as words at most; with a gate in front, its choice stands first."""
    rows_TK = _rows("hash", 2000, 64, 4, vocabulary=10)
    assert len({tuple(row) for row in rows_TK.tolist()}) <= 10
    mixed_TK = _rows("hash", 2000, 64, 4, vocabulary=10, gated=2)
    assert mixed_TK[:, :2].tolist() == _rows("softmax_topk", 2000, 64, 2).tolist()


def test_hierarchical_gates_choose_few_groups_of_many_experts() -> None:
    """131,072 experts as 256 groups: top-4 experts lie in two groups."""
    rows_TK = _rows("hierarchical", 300, 131_072, 4, width=4)
    assert {2} == {len(set((row // 512).tolist())) for row in rows_TK}


def test_latent_topics_draw_by_popularity() -> None:
    """One topic, all of the structure: loads follow its lognormal shares; no structure and no hot experts: even."""
    skewed = _load(_rows("latent_topic", 8000, 16, 1, topics=1, structure=1.0, contrast=1.0), 16)
    share_E = np.exp(np.random.default_rng([3, 20, 0]).standard_normal(32)[16:])
    assert np.abs(skewed / 8000 - share_E / share_E.sum()).max() < 0.02
    even = _load(_rows("latent_topic", 8000, 16, 1, structure=0.0, hot=0.0), 16)
    assert np.abs(even / 500 - 1).max() < 0.2


def test_the_top_of_a_row_is_a_sort() -> None:
    """Falling values, of equal ones the first column; -1 where only -inf is left."""
    rng = np.random.default_rng(0)
    logits_TE = rng.integers(0, 6, (200, 9)).astype(np.float32)
    logits_TE[:100, 3:] = -np.inf
    expected_TK = np.argsort(-logits_TE, axis=1, kind="stable")[:, :5].astype(np.int32)
    expected_TK[:100, 3:] = -1
    assert expected_TK.tolist() == top_of(logits_TE, 5).tolist()


def test_logits_are_a_matrix_product_and_the_balancing_bias_balances_them() -> None:
    """Against numpy in double precision; under the bias no expert is more than a fifth off the mean."""
    rng = np.random.default_rng(0)
    query_TD, weight_DE = rng.standard_normal((3000, 8), np.float32), rng.standard_normal((8, 20), np.float32)
    logits_TE = raw_logits(query_TD, weight_DE) + np.linspace(0, 3, 20, dtype=np.float32)
    exact_TE = query_TD.astype(np.float64) @ weight_DE + np.linspace(0, 3, 20)
    assert np.allclose(exact_TE, logits_TE, atol=1e-5)
    chosen_TK = top_of(logits_TE + balancing_bias(logits_TE, 3).astype(np.float32), 3)
    assert np.abs(_load(chosen_TK, 20) / 450 - 1).max() < 0.2
    assert gates.SAMPLE_SEQUENCE > 2**31
