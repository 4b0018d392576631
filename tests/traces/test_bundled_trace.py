"""The committed trace: its format, its size, and that README says what the file says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from moesim.trace import load_trace

TRACES = Path(__file__).resolve().parents[2] / "traces"
TRACE = TRACES / "moe-64e-public-domain.parquet"


@pytest.fixture(scope="module")
def table() -> Any:
    return pq.read_table(TRACE)


@pytest.fixture(scope="module")
def info(table: Any) -> dict[str, Any]:
    return dict(json.loads(table.schema.metadata[b"moesim"]))


@pytest.fixture(scope="module")
def recording(table: Any) -> dict[str, Any]:
    return dict(json.loads(table.schema.metadata[b"recording"]))


@pytest.fixture(scope="module")
def experts_LTK(table: Any, info: dict[str, Any]) -> Any:
    flat = table.column("experts").combine_chunks().flatten().to_numpy()
    return flat.reshape(len(info["layers"]), info["num_tokens"], info["top_k"])


def test_file_is_small_and_large_enough(info: dict[str, Any]) -> None:
    """At most 4 MB, at least 2**17 tokens, 4 or more MoE layers of 64 experts, top-6; moesim opens it."""
    assert TRACE.stat().st_size <= 4_000_000
    opened = load_trace(TRACE).info
    assert opened.num_tokens == info["num_tokens"] >= 131_072
    assert (64, 6) == (opened.num_experts, opened.top_k)
    assert len(opened.layers) >= 4


def test_rows_are_sorted_and_distinct(table: Any, info: dict[str, Any], experts_LTK: Any) -> None:
    """Rows stand by layer, then token; step and rank are 0; the ids of a row differ and exist."""
    layers, tokens = len(info["layers"]), info["num_tokens"]
    assert np.array_equal(np.repeat(info["layers"], tokens), table.column("layer").to_numpy())
    assert np.array_equal(np.tile(np.arange(tokens), layers), table.column("token").to_numpy())
    assert not table.column("step").to_numpy().any()
    assert not table.column("rank").to_numpy().any()
    ordered = np.sort(experts_LTK, axis=-1)
    assert (np.diff(ordered, axis=-1) > 0).all()
    assert ordered.min() >= 0
    assert ordered.max() < info["num_experts"]


def test_every_document_is_one_sequence(table: Any, info: dict[str, Any], recording: dict[str, Any]) -> None:
    """Sequence ids ascend from 0 in every layer, one for each document named."""
    sequence_LT = table.column("sequence").to_numpy().reshape(len(info["layers"]), -1)
    assert (sequence_LT == sequence_LT[0]).all()
    names = recording["sequences"]
    assert list(range(len(names))) == np.unique(sequence_LT[0]).tolist()
    assert set(np.diff(sequence_LT[0]).tolist()) == {0, 1}
    assert len(set(names)) == len(names)


def test_model_beats_every_bigram(info: dict[str, Any]) -> None:
    """The held-out loss is clearly below the smoothed bigram's and below the text's own bigram entropies."""
    losses = info["losses"]
    assert losses["held_out"] < losses["bigram_smoothed"] - 0.5
    assert losses["held_out"] < losses["bigram_empirical_all_text"] - 0.3
    assert losses["held_out"] < losses["bigram_empirical_held_out"]


def test_load_is_skewed_but_not_collapsed(recording: dict[str, Any], experts_LTK: Any) -> None:
    """In every layer the hottest expert has 1.5 to 5 times the mean load, as recorded, and no expert is idle."""
    for expected, experts_TK in zip(recording["load_max_over_mean"], experts_LTK, strict=True):
        load_E = np.bincount(experts_TK.reshape(-1), minlength=64)
        assert expected == pytest.approx(load_E.max() / load_E.mean(), abs=1e-3)
        assert 1.5 < expected < 5.0
        assert load_E.min() > 0


def test_readme_says_what_the_file_says(info: dict[str, Any], recording: dict[str, Any]) -> None:
    """Every loss, load figure and size of README is the file's."""
    readme = (TRACES / "README.md").read_text()
    for name, value in info["losses"].items():
        assert f"| {name} | {value:.4f} |" in readme
    for layer, skew in zip(info["layers"], recording["load_max_over_mean"], strict=True):
        assert f"| {layer} | {skew:.3f} |" in readme
    for figure in (TRACE.stat().st_size, info["num_tokens"], len(recording["sequences"]), recording["training_tokens"]):
        assert f"{figure:,}" in readme
    assert f"seed {info['seed']}" in readme
