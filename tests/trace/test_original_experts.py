"""Routing recorded after a permutation comes back as that of the model before."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import moesim
from moesim.cli import main
from moesim.errors import InputError
from moesim.exporters.expert_order import read_orders
from moesim.trace.convert import convert_trace
from moesim.trace.store import open_trace, read_rows
from tests.exporters.test_checkpoints import plan_with_groups
from tests.exporters.test_serving import MODEL
from tests.strategies.scenario import TINY_MODEL


def rows_of(path, name):
    """A column of a whole trace."""
    return np.concatenate([getattr(rows, name) for _, rows in read_rows(open_trace(path))])


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32), orders=st.tuples(st.permutations(range(16)), st.permutations(range(16))))
def test_tokens_and_counts_come_back(seed, orders, tmp_path_factory):
    """Route, rename experts as the permuted model would (old id e is at its position), convert with the permutation."""
    folder = tmp_path_factory.mktemp("original")
    orders = {layer: np.array(order, np.int32) for layer, order in zip((1, 2), orders, strict=True)}
    old_LTK = np.argsort(np.random.default_rng(seed).random((2, 5, 16)), axis=2)[:, :, :2].astype(np.int32)
    new_LTK = np.stack([np.argsort(orders[layer])[ids] for layer, ids in zip((1, 2), old_LTK, strict=True)])
    for name, ids in (("old", old_LTK), ("new", new_LTK)):
        np.savez(folder / f"{name}.npz", topk_ids=ids.astype(np.int32), layers=[1, 2], num_experts=16)
        counts = np.stack([np.bincount(layer.ravel(), minlength=16) for layer in ids])
        np.savez(folder / f"{name}_counts.npz", counts=counts, layers=[1, 2])
    for kind, column in (("", "experts_WK"), ("_counts", "tokens_W")):
        shapes = {}
        for name, given_orders in (("old", None), ("new", orders)):
            out = folder / f"{name}{kind}.parquet"
            convert_trace(folder / f"{name}{kind}.npz", out, model=MODEL, orders=given_orders)
            shapes[name] = rows_of(out, column)
        np.testing.assert_array_equal(shapes["old"], shapes["new"])


def test_the_permutation_of_another_model_is_refused(tmp_path):
    """A layer without an order, or with fewer experts."""
    np.savez(tmp_path / "t.npz", topk_ids=np.tile(np.arange(2, dtype=np.int32), (2, 3, 1)), layers=[1, 2])
    for orders in ({1: np.arange(16)}, {1: np.arange(16), 2: np.arange(8)}):
        with pytest.raises(InputError, match="layer 2, and the permutation has"):
            convert_trace(tmp_path / "t.npz", tmp_path / "t.parquet", orders=orders, model=MODEL)
    assert not (tmp_path / "t.parquet").exists()


def test_the_command_reads_an_exported_permutation(tmp_path, monkeypatch, capsys):
    """`--permutation` takes the file that an export writes."""
    plan = plan_with_groups(5)
    (path,) = moesim.export(plan, "hf-checkpoint", tmp_path / "p.json").files
    (tmp_path / "tiny.yaml").write_text(TINY_MODEL)
    new_ids = np.arange(16, dtype=np.int32).reshape(1, 8, 2).repeat(2, axis=0)
    np.savez(tmp_path / "t.npz", topk_ids=new_ids, layers=[1, 2])
    words = ["trace", "convert", tmp_path / "t.npz", tmp_path / "t.parquet", "--model", tmp_path / "tiny.yaml"]
    monkeypatch.setattr("sys.argv", ["moesim", *map(str, words), "--permutation", str(path), "--json"])
    try:
        main()
    except SystemExit as stop:
        assert not stop.code
    capsys.readouterr()
    assert [expert for row in plan.expert_of_slot for expert in row] == rows_of(
        tmp_path / "t.parquet", "experts_WK"
    ).ravel().tolist()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{}", "no expert permutation: 'permutation'"),
        (b"PK\x03\x04", "no expert permutation"),
        (b'{"permutation": 3, "layers": [1]}', "a list of experts for every layer"),
        (b'{"permutation": [[0, 1], [1, 1]], "layers": [1, 2]}', "name each of 2 experts once"),
        (b'{"permutation": [[0], [0, 1]], "layers": [1, 2]}', "no expert permutation"),
    ],
)
def test_other_files_are_no_permutation(content, words, tmp_path):
    """One sentence with the file's name."""
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(InputError, match=words) as refused:
        read_orders(tmp_path / "p")
    assert str(tmp_path / "p") in str(refused.value)
