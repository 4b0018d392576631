"""Statistics of traces against plain counting, and closed cases.

Array letters: L layer, T token, K top-k, E expert.
"""

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.trace import stats
from moesim.trace.inspect import inspect_trace
from moesim.trace.stats import gini, max_over_mean
from moesim.trace.store import write_trace
from tests.strategies.routing import Recording, counts_of, recording_of, recordings, with_own_deal


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=12))
def test_gini_is_the_mean_difference_of_two_experts(load_E: list[int]) -> None:
    """Gini = sum of |a - b| over all ordered pairs / (2 E x total)."""
    total = sum(load_E)
    expected = sum(abs(a - b) for a in load_E for b in load_E) / (2 * len(load_E) * total) if total else 0.0
    assert np.isclose(expected, gini(np.array([load_E]))[0])


def test_load_ratios_of_closed_cases() -> None:
    """Balanced = 1, all on one of four = 4, no load = 0."""
    assert [1.0, 4.0, 0.0] == max_over_mean(np.array([[3, 3, 3, 3], [0, 8, 0, 0], [0, 0, 0, 0]])).tolist()


def _neighbours(recording: Recording, layer: int) -> list[tuple[set[int], set[int]]]:
    key_T = recording.rank_T if recording.sequence_T is None else recording.sequence_T
    sets = [{int(expert) for expert in row if expert >= 0} for row in recording.experts_LTK[layer]]
    found = []
    for key in sorted(set(key_T.tolist())):
        found += list(pairwise(np.flatnonzero(key_T == key).tolist()))
    return [(sets[a], sets[b]) for a, b in found]


@settings(max_examples=50)
@given(recordings())
def test_inspection_counts_what_plain_counting_counts(
    tmp_path_factory: pytest.TempPathFactory, recording: Recording
) -> None:
    """Load, overlap of neighbours in a sequence, joint choices: the same as over python sets."""
    path = tmp_path_factory.getbasetemp() / "stats.parquet"
    recording.write(path)
    answer, info = inspect_trace(path), recording.info
    for layer in range(info.num_layers):
        ids_TK = recording.experts_LTK[layer]
        load_E = np.bincount(ids_TK[ids_TK >= 0], minlength=info.num_experts)
        assert np.isclose(load_E.max() / max(load_E.mean(), 1e-9), answer["max_over_mean"][layer])
        assert (load_E == 0).sum() == answer["dead_experts"][layer]
        pairs = _neighbours(recording, layer)
        if not pairs:
            assert answer["adjacent_overlap"][layer] is None
        else:
            shared = sum(len(one & other) for one, other in pairs) / len(pairs) / info.top_k
            assert np.isclose(shared, answer["adjacent_overlap"][layer])
        expected = sum((load_E / info.num_tokens) ** 2) / info.top_k
        assert np.isclose(expected, answer["adjacent_overlap_independent"][layer])
        assert np.isclose(_mean_lift(ids_TK, load_E), answer["coactivation"][layer]["mean_lift"] or 0.0)


def _mean_lift(ids_TK: np.ndarray, load_E: np.ndarray) -> float:
    pairs = [pair for row in ids_TK for pair in combinations(sorted(e for e in row.tolist() if e >= 0), 2)]
    if not pairs:
        return 0.0
    return sum(pairs.count((a, b)) * len(ids_TK) / (load_E[a] * load_E[b]) for a, b in pairs) / len(pairs)


def test_the_keys_of_an_inspection(tmp_path: Path) -> None:
    """The promised names with the promised meanings."""
    with_own_deal(recording_of([40, 9]), 3, 2).write(tmp_path / "t.parquet")
    answer = inspect_trace(tmp_path / "t.parquet")
    expected = {"level": "token", "model": None, "layers": 2, "experts": 8, "top_k": 2, "tokens": 49}
    expected |= {"ranks": 3, "steps": 2, "origin": "random", "layer_indices": [1, 3]}
    assert expected == {key: answer[key] for key in expected}
    assert [2, 2] == [len(answer["max_over_mean"]), len(answer["gini"])]


def test_inspecting_counts(tmp_path: Path) -> None:
    """Loads of all steps together; what only tokens can tell is None."""
    write_trace(counts_of(np.array([[[2, 0, 0]], [[2, 2, 0]]])), tmp_path / "c.parquet")
    answer = inspect_trace(tmp_path / "c.parquet")
    assert ("count", [2.0], [1], None, 6) == (
        *(answer["level"], answer["max_over_mean"], answer["dead_experts"]),
        *(answer["coactivation"], answer["load_tokens"]),
    )


def test_pairs_chosen_together_are_listed_by_lift(tmp_path: Path) -> None:
    """Experts 0 and 1 always together in a quarter of the tokens: lift 4."""
    ids_TK = np.repeat([[0, 1], [2, 3], [4, 5], [6, 7]], 50, axis=0)
    whole = recording_of([200], num_layers=1)
    recording = Recording(whole.info, whole.step_T, whole.rank_T, whole.sequence_T, ids_TK[None], None)
    recording.write(tmp_path / "t.parquet")
    (layer,) = inspect_trace(tmp_path / "t.parquet")["coactivation"]
    assert {"experts": [0, 1], "lift": 4.0, "tokens": 50} == layer["top_pairs"][0]
    assert 4.0 == layer["mean_lift"]


def test_memory_for_neighbours_and_pairs_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one place to remember, whole sequences in a row lose no pair; too many pairs of experts are left out."""
    recording_of([9, 5, 7]).write(tmp_path / "t.parquet")
    full = inspect_trace(tmp_path / "t.parquet")
    monkeypatch.setattr(stats, "_MOST_NEIGHBOUR_IDS", 1)
    monkeypatch.setattr(stats, "_MOST_PAIRS", 1)
    small = inspect_trace(tmp_path / "t.parquet")
    assert full["adjacent_overlap"] == small["adjacent_overlap"]
    assert small["coactivation"] is None
