"""Tokens of a stream: each knob does what its line says, any stretch can be computed alone.

Array letters: T token, D width of a query.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.trace.token_batches import TokenDeal
from moesim.trace.token_stream import Knobs, TokenStream


def _deal(num_tokens: int = 6000, **changes: Any) -> TokenDeal:
    return TokenDeal(**({"num_tokens": num_tokens, "num_steps": 1, "num_ranks": 1, "sequence_tokens": 300} | changes))


def _queries(knobs: Knobs, seed: int = 1) -> np.ndarray:
    return TokenStream(knobs, seed).queries(_deal().batch(0, 0, 6000), 0).astype(np.float64)


def _adjacent(query_TD: np.ndarray) -> float:
    """Correlation of neighbouring tokens of a sequence."""
    inside_T = np.arange(1, len(query_TD)) % 300 > 0
    return float((query_TD[1:] * query_TD[:-1])[inside_T].mean())


@pytest.mark.parametrize("structure", [0.0, 0.4, 1.0])
def test_structure_is_the_topics_share_of_the_variance(structure: float) -> None:
    """Between topic means lies that share, and every query has variance 1."""
    stream = TokenStream(Knobs(structure=structure, topics=40, topic_tokens=1.0, repeat=0.0, focus=0.0, width=64), 1)
    batch = _deal().batch(0, 0, 6000)
    query_TD, topic_T = stream.queries(batch, 0).astype(np.float64), stream.topics(batch)
    assert abs(query_TD.var() - 1.0) < 0.1
    means = np.stack([query_TD[topic_T == topic].mean(axis=0) for topic in range(40)])
    weights = np.bincount(topic_T, minlength=40) / 6000
    assert abs((weights @ means**2).mean() - structure) < 0.1 * structure + 0.02


@given(
    structure=st.floats(0.0, 1.0),
    repeat=st.floats(0.0, 1.0),
    topic_tokens=st.floats(1.0, 50.0),
    phrase_tokens=st.floats(1.0, 10.0),
)
def test_neighbours_correlate_as_the_knobs_say(
    structure: float, repeat: float, topic_tokens: float, phrase_tokens: float
) -> None:
    """structure x chance to stay on the topic + the rest x repeat x chance to stay in the phrase (many topics)."""
    knobs = Knobs(structure=structure, repeat=repeat, topic_tokens=topic_tokens, phrase_tokens=phrase_tokens)
    knobs = replace(knobs, topics=2000, topic_skew=0.0, focus=0.0, width=64)
    stays = structure * (1 - 1 / topic_tokens) + (1 - structure) * repeat * (1 - 1 / phrase_tokens)
    assert abs(_adjacent(_queries(knobs)) - stays) < 0.09


def test_only_the_own_noise_differs_from_layer_to_layer() -> None:
    """Topics and phrases are the token's at every layer."""
    batch = _deal().batch(0, 0, 6000)
    same = TokenStream(Knobs(structure=0.5, repeat=1.0), 1)
    assert same.queries(batch, 0).tolist() == same.queries(batch, 5).tolist()
    fresh = TokenStream(Knobs(structure=0.0, repeat=0.0), 1)
    both = np.corrcoef(fresh.queries(batch, 0).ravel(), fresh.queries(batch, 5).ravel())
    assert abs(both[0, 1]) < 0.02


def test_focus_keeps_a_sequence_on_its_main_topic() -> None:
    """With focus 1 a sequence has one topic."""
    topic_T = TokenStream(Knobs(focus=1.0), 1).topics(_deal().batch(0, 0, 6000))
    assert all(1 == len(set(part.tolist())) for part in topic_T.reshape(20, 300))
    assert len(set(topic_T.tolist())) > 5


def _popularity(knobs: Knobs, step: int = 0) -> np.ndarray:
    deal = _deal(30_000, num_steps=10, sequence_tokens=10)
    return np.bincount(TokenStream(knobs, 1).topics(deal.batch(step, 0, 3000)), minlength=knobs.topics)


def test_tasks_and_drift_change_which_topics_are_popular() -> None:
    """Two tasks differ; without drift steps agree, with it the first and the last do not; drift is gradual."""
    knobs = Knobs(topics=16, topic_skew=1.5, topic_tokens=1.0, focus=0.0, tasks=2, task=0)
    first = _popularity(knobs)
    assert np.corrcoef(first, _popularity(replace(knobs, task=1)))[0, 1] < 0.5
    assert np.corrcoef(first, _popularity(knobs, 9))[0, 1] > 0.97
    moving = replace(knobs, drift=0.2)
    assert np.corrcoef(_popularity(moving), _popularity(moving, 9))[0, 1] < 0.5
    assert np.corrcoef(_popularity(moving, 2), _popularity(moving, 3))[0, 1] > 0.8


def test_words_are_zipf_and_follow_topics() -> None:
    """The first word is the most frequent without structure; with it, the most frequent word differs by topic."""
    batch = _deal().batch(0, 0, 6000)
    plain = TokenStream(Knobs(structure=0.0), 1).words(batch, 1000)
    assert 0 == int(np.bincount(plain).argmax())
    stream = TokenStream(Knobs(structure=1.0, topics=3), 1)
    word_T, topic_T = stream.words(batch, 1000), stream.topics(batch)
    assert 3 == len({int(np.bincount(word_T[topic_T == topic]).argmax()) for topic in range(3)})


@given(
    num_tokens=st.integers(1, 60),
    num_steps=st.integers(1, 5),
    num_ranks=st.integers(1, 4),
    mode=st.sampled_from(["prefill", "decode"]),
)
def test_every_rank_walks_through_its_sequences(num_tokens: int, num_steps: int, num_ranks: int, mode: Any) -> None:
    """No token is dealt twice; positions count up from 0 in every sequence; sequence i is on rank i mod R."""
    num_tokens *= num_steps * num_ranks if mode == "decode" else 1
    deal = _deal(num_tokens, num_steps=num_steps, num_ranks=num_ranks, sequence_tokens=7, mode=mode)
    seen: dict[int, list[int]] = {}
    for step in range(num_steps):
        size = deal.step_tokens(step)
        batch, rank_T = deal.batch(step, 0, size), deal.ranks(step, 0, size)
        assert (np.diff(rank_T) >= 0).all()
        assert (batch.sequence_T % num_ranks).tolist() == rank_T.tolist()
        assert (batch.born_T <= step).all()
        for sequence, position in zip(batch.sequence_T.tolist(), batch.position_T.tolist(), strict=True):
            seen.setdefault(sequence, []).append(position)
    assert num_tokens == sum(map(len, seen.values()))
    assert all(places == list(range(len(places))) for places in seen.values())


@pytest.mark.parametrize("wrong", [{"structure": -0.1}, {"structure": float("nan")}, {"topics": 0}, {"width": 10**6}])
def test_knobs_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    """Naming the knob and its bounds."""
    with pytest.raises(InputError, match=f"{next(iter(wrong))} must be"):
        Knobs(**wrong)
