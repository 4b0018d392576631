"""The committed trace of a PEER layer: its format, its product keys, and that README says what the file says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from moesim.model import load_model
from moesim.trace import load_trace
from moesim.trace.inspect import inspect_trace

ROOT = Path(__file__).resolve().parents[2]
TRACE = ROOT / "traces" / "peer-262k-public-domain.parquet"
KEYS = 512


@pytest.fixture(scope="module")
def table() -> Any:
    return pq.read_table(TRACE)


@pytest.fixture(scope="module")
def recording(table: Any) -> dict[str, Any]:
    return dict(json.loads(table.schema.metadata[b"recording"]))


@pytest.fixture(scope="module")
def experts_TK(table: Any) -> Any:
    return table.column("experts").combine_chunks().flatten().to_numpy().reshape(len(table), -1)


@pytest.fixture(scope="module")
def inspected() -> dict[str, Any]:
    return inspect_trace(TRACE)


def test_file_is_small_and_the_models(experts_TK: Any) -> None:
    """At most 4 MB; moesim opens it; experts, ids per token and layer are those of the model file of the same name."""
    assert TRACE.stat().st_size <= 4_000_000
    info, model = load_trace(TRACE).info, load_model(TRACE.stem)
    assert (info.model, info.num_experts, info.top_k) == (model.name, model.num_experts, model.top_k)
    assert list(info.layers) == list(model.moe_layer_indices)
    assert (KEYS**2, 64) == (info.num_experts, experts_TK.shape[1])
    assert len(experts_TK) == info.num_tokens >= 16_384


def test_rows_ascend_without_a_repeat(experts_TK: Any) -> None:
    """Heads are merged: distinct ids, in order, -1 only at the end; every head brought 16, so at least 16 are left."""
    there = experts_TK >= 0
    assert (there[:, :-1] | ~there[:, 1:]).all()
    assert (there[:, 1:] <= (np.diff(experts_TK, axis=1) > 0)).all()
    assert experts_TK.max() < KEYS**2
    assert 16 <= there.sum(axis=1).min()
    assert there.sum(axis=1).mean() > 48


def test_every_document_is_one_sequence(table: Any, recording: dict[str, Any]) -> None:
    """Sequence ids ascend from 0, one for each document named."""
    sequence_T = table.column("sequence").to_numpy()
    assert set(np.diff(sequence_T).tolist()) == {0, 1}
    assert list(range(len(recording["sequences"]))) == np.unique(sequence_T).tolist()


def test_product_keys_show(experts_TK: Any) -> None:
    """A token's experts share rows and columns of the grid far more than as many experts drawn alone would.

    A head's 16 are among 16 x 16 pairs, so they have at most 16 rows; 64 ids drawn uniformly have 60 rows of 512.
    """
    for keys_TK in (experts_TK // KEYS, experts_TK % KEYS):
        distinct = [len(np.unique(keys[ids >= 0])) for keys, ids in zip(keys_TK[::50], experts_TK[::50], strict=True)]
        assert max(distinct) <= 64
        assert np.mean(distinct) < 45


def test_key_structure_is_as_recorded(experts_TK: Any, table: Any, recording: dict[str, Any]) -> None:
    """The figures in the metadata are those of the rows; neighbours share more than any two tokens."""
    key_structure = pytest.importorskip("key_structure")
    figures = recording["key_structure"]
    assert figures == key_structure.key_structure(experts_TK, table.column("sequence").to_numpy(), KEYS)
    assert figures["shared_rows"] > figures["shared_rows_any"]
    assert figures["shared_columns"] > figures["shared_columns_any"]


def test_inspect_tells_the_same(inspected: dict[str, Any], recording: dict[str, Any], experts_TK: Any) -> None:
    """`trace inspect` counts the same ids and neighbours as the recording program did, and finds the used experts."""
    assert inspected["load_tokens"] == int((experts_TK >= 0).sum())
    assert inspected["dead_experts"] == [KEYS**2 - len(np.unique(experts_TK[experts_TK >= 0]))]
    shared = recording["key_structure"]["shared_experts"]
    per_token = recording["key_structure"]["experts_per_token"]
    assert inspected["adjacent_overlap"] == [pytest.approx(shared * per_token / 64, rel=0.02)]
    assert inspected["adjacent_overlap"][0] > 1.5 * inspected["adjacent_overlap_independent"][0]


def test_weights_are_the_model_files(recording: dict[str, Any]) -> None:
    """The number of weights in the metadata is the model file's total."""
    assert recording["weights"] == load_model(TRACE.stem).total_params


def test_models_learnt_more_than_bigrams(recording: dict[str, Any]) -> None:
    """Held-out loss of the model with experts and of its dense twin lie below the smoothed bigram's."""
    losses = load_trace(TRACE).info.losses
    assert losses is not None
    assert max(losses["held_out"], losses["twin_held_out"]) < losses["bigram_smoothed"]


def test_readme_says_what_the_file_says(recording: dict[str, Any]) -> None:
    """Every loss, figure of the keys and size in README is the file's."""
    readme = (ROOT / "traces" / "README.md").read_text().partition(f"# {TRACE.name}")[2]
    info = load_trace(TRACE).info
    for name, value in (info.losses or {}).items():
        assert f"| {name} | {value:.4f} |" in readme
    for name, value in recording["key_structure"].items():
        assert f"| {name} | {value:.4f} |" in readme
    for name in ("experts_used", "unevenness"):
        assert f"| {name} | {recording[name]:.4f} |" in readme
    for figure in (TRACE.stat().st_size, info.num_tokens, recording["training_tokens"], recording["weights"]):
        assert f"{figure:,}" in readme
    assert f"seed {info.seed}" in readme


def test_the_example_replays_it() -> None:
    """The example names the model and the trace, and simulates in closed form."""
    from moesim.scenario import load_scenario
    from moesim.study import simulate

    path = ROOT / "examples" / "peer_recorded.yaml"
    assert TRACE.stem == yaml.safe_load(path.read_text())["model"] == yaml.safe_load(path.read_text())["trace"]["path"]
    result = simulate(load_scenario(path))
    assert result.step_time_s > 0
