"""Foreign files become traces by the stated rules for layers, sequences and weights; everything else is refused.

Array letters: L layer row, T token, K top-k, E expert.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moesim.errors import InputError
from moesim.routing import RoutedModel
from moesim.trace import npz
from moesim.trace.convert import READERS, convert_trace, recognised_format
from moesim.trace.rows import CountRows
from moesim.trace.store import open_trace, read_rows
from tests.strategies.routing import recording_of


@dataclass(frozen=True)
class Model:
    """A model of 5 layers, 2 and 4 of them MoE, 8 experts, top-2."""

    name: str = "tiny"
    num_layers: int = 5
    moe_layer_indices: tuple[int, ...] = (2, 4)
    num_experts: int = 8
    top_k: int = 2
    has_heads_merged: bool = False


IDS_LTK = np.array([[[0, 1], [2, 3], [4, 7]], [[7, 6], [5, 4], [3, 2]]], np.uint8)
LOAD_LE = np.arange(16).reshape(2, 8)


def _npz(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def _converted(tmp_path: Path, model: RoutedModel | None, arrays: dict[str, Any], **options: Any) -> Any:
    out = tmp_path / "out.parquet"
    answer = convert_trace(_npz(tmp_path / "in.npz", **arrays), out, model=model, **options)
    trace = open_trace(out)
    return answer, trace.info, [rows for _, rows in read_rows(trace)]


def test_top_k_rows_keep_their_order_as_one_step_of_one_rank(tmp_path: Path) -> None:
    """Ids, sequences and the model's MoE layers; rank and step 0."""
    arrays = {"topk_ids": IDS_LTK, "seq_len": np.array([1, 2])}
    answer, info, (first, second) = _converted(tmp_path, Model(), arrays)
    assert {"out": str(tmp_path / "out.parquet"), "rows": 6, "tokens": 3} == answer
    assert ("tiny", (2, 4), 8, 2, 3, 1, 1) == (
        *(info.model, info.layers, info.num_experts, info.top_k),
        *(info.num_tokens, info.num_ranks, info.num_steps),
    )
    assert IDS_LTK.tolist() == [first.experts_WK.tolist(), second.experts_WK.tolist()]
    assert ([0, 1, 1], [0, 1, 2], [0, 0, 0], [4, 4, 4]) == tuple(
        column.tolist() for column in (second.sequence_W, second.token_W, second.rank_W, second.layer_W)
    )


@pytest.mark.parametrize(
    ("name", "stored", "expected"),
    [
        ("topk_weights", np.full((2, 3, 2), 0.25, np.float32), 0.25),
        ("topk_scores", np.full((2, 3, 2), 0.5, np.float16), 0.5),
        ("topk_weights_x1e4", np.full((2, 3, 2), 2500, np.uint16), 0.25),
    ],
)
def test_gate_weights_come_along(tmp_path: Path, name: str, stored: Any, expected: float) -> None:
    """Under any of three names, one of which counts ten-thousandths."""
    _, info, (first, _) = _converted(tmp_path, Model(), {"topk_ids": IDS_LTK, name: stored})
    assert info.has_weights
    assert [[expected] * 2] * 3 == first.weights_WK.tolist()


def test_layers_of_the_file_and_of_the_caller(tmp_path: Path) -> None:
    """Without a model the file's `layers` hold, the caller's before them; rows are sorted by layer."""
    arrays = {"topk_ids": IDS_LTK, "layers": np.array([9, 3])}
    _, info, (first, _) = _converted(tmp_path, None, arrays)
    assert ((3, 9), IDS_LTK[1].tolist()) == (info.layers, first.experts_WK.tolist())
    assert (8, ("num_experts 8 is inferred from the largest expert id; no model was named",)) == (
        info.num_experts,
        info.notes,
    )
    assert (1, 2) == _converted(tmp_path, None, arrays, layers=[1, 2])[1].layers


def test_rows_for_all_layers_drop_the_dense_ones(tmp_path: Path) -> None:
    """Five rows for a model of five layers: those of its dense layers are empty and go."""
    ids_LTK = np.zeros((5, 3, 2), np.int8)
    ids_LTK[[2, 4]] = IDS_LTK
    _, info, (first, _) = _converted(tmp_path, Model(), {"topk_ids": ids_LTK})
    assert ((2, 4), IDS_LTK[0].tolist()) == (info.layers, first.experts_WK.tolist())
    load_LE = np.zeros((5, 8), int)
    load_LE[[2, 4]] = LOAD_LE
    _, info, rows = _converted(tmp_path, Model(), {"counts": load_LE})
    assert ((2, 4), LOAD_LE.tolist()) == (
        info.layers,
        np.concatenate([r.tokens_W for r in rows]).reshape(2, 8).tolist(),
    )


def test_counts_know_their_tokens_by_the_models_top_k(tmp_path: Path) -> None:
    """Tokens = the largest layer's load / top-k; unknown without a model."""
    answer, info, (rows,) = _converted(tmp_path, Model(), {"counts": LOAD_LE})
    assert (16, 46, "count", 2) == (answer["rows"], answer["tokens"], info.level, info.top_k)
    assert isinstance(rows, CountRows)
    assert list(range(16)) == rows.tokens_W.tolist()
    answer, info, _ = _converted(tmp_path, None, {"counts": LOAD_LE}, layers=[0, 7])
    assert (None, 0, (0, 7)) == (answer["tokens"], info.top_k, info.layers)


def test_a_key_picks_one_of_several_counts(tmp_path: Path) -> None:
    """Without it the names are listed."""
    arrays = {"maths": LOAD_LE, "poems": LOAD_LE[::-1]}
    _, _, (rows,) = _converted(tmp_path, Model(), arrays, key="poems")
    assert 8 == rows.tokens_W[0]
    with pytest.raises(InputError, match="pick one with --key: maths, poems"):
        _converted(tmp_path, Model(), arrays)
    with pytest.raises(InputError, match=r"unknown array of counts .*'poem'; did you mean 'poems'"):
        _converted(tmp_path, Model(), arrays, key="poem")


def test_heads_are_merged_only_where_the_model_has_several(tmp_path: Path) -> None:
    """Duplicates across heads become one entry of summed weight; without heads they are refused."""
    arrays = {"topk_ids": np.array([[[3, 3], [3, 5]]]), "topk_weights": np.array([[[0.25, 0.5], [0.5, 0.5]]])}
    heads = Model(moe_layer_indices=(2,), has_heads_merged=True)
    _, _, (rows,) = _converted(tmp_path, heads, arrays)
    assert ([[3, -1], [3, 5]], [[0.75, 0.0], [0.5, 0.5]]) == (rows.experts_WK.tolist(), rows.weights_WK.tolist())
    with pytest.raises(InputError, match=r"row 0 .*occurs twice"):
        _converted(tmp_path, Model(moe_layer_indices=(2,)), arrays)


def test_our_own_files_convert_to_themselves(tmp_path: Path) -> None:
    """A Parquet trace is recognised, checked and copied row by row."""
    recording = recording_of([5, 4], with_weights=True)
    recording.write(tmp_path / "in.parquet")
    answer = convert_trace(tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert (18, 9) == (answer["rows"], answer["tokens"])
    assert recording.info == open_trace(tmp_path / "out.parquet").info


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"topk_ids": IDS_LTK.astype(float)}, "must be integers in 3 dimensions, got float64"),
    ({"topk_ids": IDS_LTK[0]}, "must be integers in 3 dimensions"),
    ({"topk_ids": IDS_LTK[:, :0]}, "holds no routing"),
    ({"topk_ids": IDS_LTK + np.uint8(1)}, "row 2 .*outside 0..7"),
    ({"topk_ids": IDS_LTK.astype(np.uint64) + 2**63}, "no int64 can"),
    ({"topk_ids": IDS_LTK.astype(np.int64) + 2**32}, "outside 0..7"),
    ({"topk_ids": IDS_LTK[:, :, :1]}, "top-1 rows, but tiny is top-2"),
    ({"topk_ids": IDS_LTK[:1]}, "has 1 layer rows, but tiny has 2 MoE layers of 5 layers"),
    ({"topk_ids": IDS_LTK, "layers": np.array([0, 1])}, "has routing for layer 0, which is not a MoE layer"),
    ({"topk_ids": IDS_LTK, "layers": np.array([2])}, "must name 2 different layers"),
    ({"topk_ids": IDS_LTK, "layers": np.array([2, 2])}, "must name 2 different layers"),
    (
        {"topk_ids": IDS_LTK, "seq_len": np.array([1, 1])},
        "seq_len must be >= 1 and sum to its 3 tokens, got a sum of 2",
    ),
    ({"topk_ids": IDS_LTK, "seq_len": np.array([4, -1])}, "seq_len must be >= 1"),
    ({"topk_ids": IDS_LTK, "topk_weights": np.full((2, 3, 2), np.nan)}, "row 0 .*finite and >= 0"),
    ({"topk_ids": IDS_LTK, "topk_weights": np.full((2, 3, 2), 1e9)}, "row 0 .*finite and >= 0"),
    ({"topk_ids": IDS_LTK, "topk_weights": np.full((2, 3, 2), -0.1)}, "row 0 .*finite and >= 0"),
    ({"topk_ids": IDS_LTK, "topk_weights": np.ones((2, 3, 1))}, "topk_weights must be numbers of shape"),
    ({"topk_ids": IDS_LTK, "topk_weights": np.ones((2, 3, 2)), "topk_scores": np.ones((2, 3, 2))}, "keep one"),
    ({"counts": LOAD_LE[:, :4]}, "has experts 4, but tiny has 8"),
    ({"counts": -LOAD_LE}, "counts are >= 0"),
    ({"counts": LOAD_LE * 2**50}, "num_tokens: Input should be less than"),
    ({"counts": np.zeros((2, 8), int)}, "layer 2 is all zero, but that is a MoE layer"),
    ({"counts": np.ones((5, 8), int)}, "layer 0 has counts, but that is not a MoE layer"),
    ({"counts": LOAD_LE.astype(float)}, "none of the trace formats"),
]


@pytest.mark.parametrize(("arrays", "sentence"), WRONG)
def test_wrong_arrays_are_refused_and_nothing_is_written(tmp_path: Path, arrays: dict[str, Any], sentence: str) -> None:
    """In one sentence that names the array or the row."""
    with pytest.raises(InputError, match=sentence) as refusal:
        _converted(tmp_path, Model(), arrays)
    assert "\n" not in str(refusal.value)
    assert ["in.npz"] == sorted(path.name for path in tmp_path.iterdir())


def test_rows_without_layers_or_model_are_refused(tmp_path: Path) -> None:
    """Which layers the rows are is never guessed."""
    with pytest.raises(InputError, match="does not say which layers its 2 rows are; give --model NAME or --layers"):
        _converted(tmp_path, None, {"topk_ids": IDS_LTK})


def _npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


@pytest.mark.parametrize(
    ("member", "sentence"),
    [
        (_npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1250000000000, 1, 1), }"), "lies about its size"),
        (_npy("{'descr': '<i8', 'fortran_order': False, 'shape': (-1, 1, 1), }"), "lies about its size"),
        (_npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1, 1), }", b"cos\nsystem\n"), "Python objects"),
        (_npy("{'descr': '<i8', 'fortran_order': False, 'shape': (2, 1, 1), }", b"12345678"), "lies about its size"),
        (_npy("__import__('os').system('true')"), "cannot read .* as an .npz file"),
        (_npy("(" * 110), "cannot read .* as an .npz file"),
        (b"plain text", "cannot read .* as an .npz file"),
    ],
)
def test_arrays_that_lie_or_hold_objects_are_refused(tmp_path: Path, member: bytes, sentence: str) -> None:
    """A size field of ten terabytes, objects and nonsense are refused before memory is taken or code is run."""
    path = tmp_path / "in.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("topk_ids.npy", member)
    with pytest.raises(InputError, match=sentence) as refusal:
        convert_trace(path, tmp_path / "out.parquet", format="npz_topk")
    assert "\n" not in str(refusal.value)


def test_a_real_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros that unpack to more than one array may be are refused by their honest size."""
    monkeypatch.setattr(npz, "MOST_ARRAY_BYTES", 2**20)
    with pytest.raises(InputError, match="unpacks to 2097152 bytes, more than 1048576"):
        _converted(tmp_path, None, {"topk_ids": np.zeros((1, 2**21, 1), np.uint8)}, layers=[0])


def test_formats_are_known_by_content(tmp_path: Path) -> None:
    """Each reader recognises its own files and no other's; unknown content and names are refused."""
    recording_of([3]).write(tmp_path / "a")
    with open(tmp_path / "b", "wb") as stream:
        np.savez(stream, topk_ids=IDS_LTK)
    with open(tmp_path / "c", "wb") as stream:
        np.savez(stream, counts=LOAD_LE)
    assert ["parquet", "npz_topk", "npz_counts"] == [recognised_format(tmp_path / name) for name in "abc"]
    assert {"npz_counts", "npz_topk", "parquet"} < set(READERS.names())
    (tmp_path / "d").write_text("step,layer\n")
    with pytest.raises(InputError, match=r"none of the trace formats .*npz_counts, npz_topk, .*parquet"):
        convert_trace(tmp_path / "d", tmp_path / "out.parquet")
    with pytest.raises(InputError, match="unknown trace format 'npz_top'; did you mean 'npz_topk'"):
        convert_trace(tmp_path / "b", tmp_path / "out.parquet", format="npz_top")


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    """By name."""
    with pytest.raises(InputError, match=r"there is no file .*nowhere"):
        convert_trace(tmp_path / "nowhere", tmp_path / "out.parquet")
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match="is empty"):
        convert_trace(tmp_path / "empty", tmp_path / "out.parquet")


def test_a_wrong_row_of_our_own_file_is_refused_in_its_own_name(tmp_path: Path) -> None:
    """Rows are checked where they are read, in another thread than the one that writes; nothing is written."""
    recording_of([5, 9]).write(tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    layers = table["layer"].to_numpy().copy()
    layers[-1] = 31_000
    place = table.schema.get_field_index("layer")
    table = table.set_column(place, table.schema.field("layer"), pa.array(layers, pa.int16()))
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t\.parquet: row \d+ .*its layer is not one of the trace's layers"):
        convert_trace(tmp_path / "t.parquet", tmp_path / "out.parquet")
    assert ["t.parquet"] == [path.name for path in tmp_path.iterdir()]


def test_a_parquet_trace_of_another_model_is_refused(tmp_path: Path) -> None:
    """Its name, experts and layers must be the model's."""
    recording_of([3], num_experts=9).write(tmp_path / "in.parquet")
    with pytest.raises(InputError, match="has experts 9, but tiny has 8"):
        convert_trace(tmp_path / "in.parquet", tmp_path / "out.parquet", model=Model())
