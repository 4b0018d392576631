"""The program that trains a model with a PEER layer and records its routing, in a tiny configuration."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import peer_recording  # noqa: E402
import record_peer as program  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from key_structure import key_structure, usage  # noqa: E402
from peer_checkpoints import trained_model  # noqa: E402
from peer_language_model import PeerLanguageModel, PeerShape, count_parameters  # noqa: E402
from peer_training import RowwiseAdagrad, Trained, train  # noqa: E402
from product_key_experts import ProductKeys, SingleNeuronExperts  # noqa: E402
from record_public_domain import OtherTrainingError  # noqa: E402
from training import Training  # noqa: E402

from moesim.trace import load_trace  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")
TINY = PeerShape(
    num_symbols=24,
    context=8,
    d_model=16,
    num_heads=2,
    dense_d_ff=16,
    num_keys=12,
    heads=2,
    per_head=4,
    key_width=8,
)
BRIEF = Training(steps=14, windows_per_step=4, warm_up_steps=2, peak_rate=1e-2)


def _documents(count: int, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [np.cumsum(rng.integers(1, 3, rng.integers(12, 40))) % TINY.num_symbols for _ in range(count)]


def _silent(_: str) -> None:
    return None


@pytest.fixture(scope="module")
def stream() -> Any:
    return np.concatenate(_documents(40, 0))


@pytest.fixture(scope="module")
def trained(stream: Any) -> Trained:
    torch.set_num_threads(1)
    return train(TINY, stream, BRIEF, _silent, with_experts=True)


def test_training_lowers_the_loss_and_repeats(stream: Any, trained: Trained) -> None:
    """Some steps bring the held-out loss below an untrained model's, about ln(symbols); a second training is the same."""
    documents = _documents(5, 1)
    torch.manual_seed(BRIEF.seed)
    before = peer_recording.record(PeerLanguageModel(TINY, with_experts=True).eval(), documents, TINY, 1000).loss
    after = peer_recording.record(trained.model, documents, TINY, 1000).loss
    assert abs(before - math.log(TINY.num_symbols)) < 0.5
    assert after < before - 0.5
    again = train(TINY, stream, BRIEF, _silent, with_experts=True)
    assert all(torch.equal(a, b) for a, b in zip(trained.model.parameters(), again.model.parameters(), strict=True))


@settings(max_examples=15)
@given(st.integers(0, 2**31 - 1), st.sampled_from([(1, 1), (1, 4), (3, 5), (2, 12)]))
def test_product_keys_choose_what_a_search_of_all_experts_would(seed: int, heads_each: tuple[int, int]) -> None:
    """For every head the experts are the best of all N x N by row score + column score, best first."""
    torch.manual_seed(seed)
    heads, each = heads_each
    keys = ProductKeys(6, 12, heads, each, 4).double()
    torch.nn.init.normal_(keys.keys)
    x_TD = torch.randn(7, 6, dtype=torch.float64)
    experts_TK, weights_TK = keys(x_TD)
    query = keys.norm(keys.to_query(x_TD)).view(7, heads, 2, 2)
    row, column = (query[:, :, half] @ keys.keys[half].T for half in range(2))
    best = (row.unsqueeze(3) + column.unsqueeze(2)).flatten(2).topk(each, dim=-1)
    assert torch.equal(best.indices.flatten(1), experts_TK)
    torch.testing.assert_close(best.values.softmax(dim=-1).flatten(1), weights_TK)


def test_sparse_gradients_are_those_of_the_formula() -> None:
    """Output and every gradient equal those of sum_k weight gelu(down . x) up; only chosen rows have gradients."""
    torch.manual_seed(5)
    layer = SingleNeuronExperts(6, 30).double()
    for table in layer.parameters():
        torch.nn.init.normal_(table)
    x_TD = torch.randn(9, 6, dtype=torch.float64, requires_grad=True)
    weights_TK = torch.rand(9, 4, dtype=torch.float64, requires_grad=True)
    experts_TK = torch.randint(20, (9, 4))
    inputs = [x_TD, weights_TK, layer.down, layer.up]
    inner_TK = (layer.down[experts_TK] * x_TD.unsqueeze(1)).sum(-1)
    expected = ((weights_TK * torch.nn.functional.gelu(inner_TK)).unsqueeze(2) * layer.up[experts_TK]).sum(1)
    out = layer(x_TD, experts_TK, weights_TK)
    torch.testing.assert_close(expected, out)
    gradients = torch.autograd.grad(out.square().sum(), inputs)
    for of_formula, of_layer in zip(torch.autograd.grad(expected.square().sum(), inputs), gradients, strict=True):
        torch.testing.assert_close(of_formula, of_layer.to_dense() if of_layer.is_sparse else of_layer)
    assert experts_TK.unique().tolist() == gradients[2].coalesce().indices()[0].tolist()


def test_rowwise_adagrad_moves_only_rows_with_gradients() -> None:
    """The first step moves a row by the rate x gradient / its root mean square; other rows stay."""
    table = torch.nn.Parameter(torch.zeros(5, 2))
    optimizer = RowwiseAdagrad([table])
    table.grad = torch.sparse_coo_tensor([[3]], [[3.0, -4.0]], (5, 2))
    optimizer.step(0.5)
    root = math.sqrt(12.5)
    torch.testing.assert_close(table.detach()[3], torch.tensor([-1.5 / root, 2.0 / root]))
    assert not table.detach()[[0, 1, 2, 4]].any()
    assert table.grad is None


def test_twin_computes_as_much() -> None:
    """The twin's MLP does the PEER layer's multiply-adds within one unit of width, and has far fewer weights."""
    shape = PeerShape()
    mlp = 3 * shape.d_model * shape.twin_d_ff
    assert shape.peer_multiply_adds <= mlp < shape.peer_multiply_adds + 3 * shape.d_model
    with_experts, twin = count_parameters(shape)
    assert with_experts - twin == (
        2 * shape.d_model * shape.num_experts
        + shape.key_width * (shape.heads * shape.d_model + shape.num_keys)
        - 3 * shape.d_model * shape.twin_d_ff
    )


def test_recorded_rows_obey_the_format(trained: Trained, tmp_path: Path) -> None:
    """moesim reads the file; rows ascend without a repeat, documents beyond the asked tokens are left out."""
    documents = _documents(5, 2)
    lengths = [len(document) - 1 for document in documents]
    recording = peer_recording.record(trained.model, documents, TINY, sum(lengths[:3]) + 1)
    paths = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for path in paths:
        peer_recording.write(path, recording, peer_recording.trace_info(TINY, BRIEF, recording, {"held_out": 1.0}), {})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    info = load_trace(paths[0]).info
    assert (sum(lengths[:3]), 144, 8, (1,)) == (info.num_tokens, info.num_experts, info.top_k, info.layers)
    assert lengths[:3] == np.bincount(recording.sequence_T).tolist()
    rises = np.diff(np.where(recording.experts_TK < 0, 10**6, recording.experts_TK), axis=1)
    assert ((rises > 0) | (recording.experts_TK[:, 1:] < 0)).all()
    assert 0.0 < recording.used <= 1.0


def test_a_document_is_read_alone(trained: Trained) -> None:
    """A document's routing is the same whatever is recorded with it."""
    documents = _documents(4, 3)
    together = peer_recording.record(trained.model, documents, TINY, 1000)
    alone = peer_recording.record(trained.model, documents[1:2], TINY, 1000)
    assert np.array_equal(alone.experts_TK, together.experts_TK[together.sequence_T == 1])


def test_checkpoint_of_another_training_is_refused(stream: Any, tmp_path: Path) -> None:
    """A checkpoint gives back the model it was written with, but not for another seed, whose split differs."""
    kept = {"checkpoints": tmp_path / "models", "with_experts": True}
    written = trained_model(TINY, BRIEF, stream, _silent, **kept)
    read = trained_model(TINY, BRIEF, stream, _silent, **kept)
    assert written.loss == read.loss
    assert all(torch.equal(a, b) for a, b in zip(written.model.parameters(), read.model.parameters(), strict=True))
    with pytest.raises(OtherTrainingError, match="'seed': 1"):
        trained_model(TINY, replace(BRIEF, seed=2), stream, _silent, **kept)


def test_missing_text_exits_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the texts the program names the package to install in one sentence and writes nothing."""
    assert 2 == program.main(["--root", str(tmp_path), "--out", str(tmp_path / "x.parquet")])
    assert "apt-get install" in capsys.readouterr().err
    assert not (tmp_path / "x.parquet").exists()


def test_key_structure_of_a_known_routing() -> None:
    """Two tokens of a 4 x 4 grid: rows {0, 1} and columns {0, 1}, then row 1 alone with columns {1, 2}."""
    experts_TK = np.array([[0, 1, 5, -1], [5, 6, -1, -1]], np.int32)
    figures = key_structure(experts_TK, np.zeros(2, np.int32), 4)
    assert (2.5, 1.5, 2.0) == tuple(figures[n] for n in ("experts_per_token", "distinct_rows", "distinct_columns"))
    assert (0.5, 1.0, 0.5) == tuple(figures[n] for n in ("shared_experts", "shared_rows", "shared_columns"))
    assert 2.4 == figures["load_rows_max_over_mean"]
    assert round((1.0 + (1 + 1) * 0.5**2 * 0 + 0.25) / 1.5, 4) == figures["shared_rows_any"]


def test_usage_of_known_scores() -> None:
    """Even scores have unevenness 0; all on one of E experts ln E."""
    assert (1.0, 0.0) == usage(np.full(8, 0.3))
    used, unevenness = usage(np.eye(8)[2])
    assert (0.125, pytest.approx(math.log(8))) == (used, unevenness)
