"""The Parquet store gives back what was written, the same bytes each time, and refuses every wrong row by name."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from moesim.errors import InputError
from moesim.trace import load_trace
from moesim.trace.rows import CountRows, TokenRows, TraceRows
from moesim.trace.schema import INFO_KEY, schema_of
from moesim.trace.store import open_trace, read_rows, write_trace
from tests.strategies.routing import Recording, counts_of, recording_of, recordings, with_own_deal


def _columns(rows: list[TokenRows | CountRows]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(rows[0]) if getattr(rows[0], field.name) is not None]
    return {name: np.concatenate([getattr(part, name) for part in rows]).tolist() for name in names}


@settings(max_examples=40)
@given(recordings())
def test_what_is_read_is_what_was_written(tmp_path_factory: pytest.TempPathFactory, recording: Recording) -> None:
    """Header and rows survive the file."""
    path = tmp_path_factory.mktemp("store") / "trace.parquet"
    trace = recording.write(path)
    assert recording.info == trace.info
    assert _columns(list(recording.rows().rows)) == _columns([rows for _, rows in read_rows(trace)])


def test_counts_survive_the_file(tmp_path: Path) -> None:
    """Header and rows of a count-level trace survive the file."""
    counts = counts_of(np.arange(24).reshape(2, 3, 4))
    write_trace(counts, tmp_path / "c.parquet")
    trace = open_trace(tmp_path / "c.parquet")
    assert counts.info == trace.info
    assert _columns(list(counts.rows)) == _columns([rows for _, rows in read_rows(trace)])


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """No time, name or chance stands in a file."""
    recording = recording_of([5, 9], with_weights=True)
    recording.write(tmp_path / "one.parquet")
    recording.write(tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_loading_reads_the_header_only(tmp_path: Path) -> None:
    """`load_trace` gives the handle of what was written."""
    recording = recording_of([5, 9])
    recording.write(tmp_path / "t.parquet")
    assert recording.info == load_trace(str(tmp_path / "t.parquet")).info


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("experts_WK", [3, 3], "row 4 .*token 4.*an expert occurs twice in the top-2 row"),
        ("experts_WK", [3, 8], "row 4 .*outside 0..7"),
        ("experts_WK", [-2, 3], "row 4 .*outside 0..7"),
        ("experts_WK", [-1, 3], "row 4 .*only stand at the row's end"),
        ("weights_WK", [np.nan, 1], "row 4 .*finite and >= 0"),
        ("weights_WK", [np.inf, 1], "row 4 .*finite and >= 0"),
        ("weights_WK", [1, -0.5], "row 4 .*finite and >= 0"),
        ("step_W", 1, "row 4 .*step 1 is outside 0..0"),
        ("layer_W", 2, "row 4 .*its layer is not one"),
        ("layer_W", 0, "row 4 .*its layer is not one"),
        ("rank_W", 7, "row 4 .*rank 7 is outside 0..0"),
        ("token_W", -1, "row 4 .*token -1 is outside"),
        ("sequence_W", -1, "row 4 .*sequence -1 is outside"),
    ],
)
def test_a_wrong_row_is_refused_by_name(tmp_path: Path, column: str, value: object, sentence: str) -> None:
    """One wrong value in one row is refused on reading and on writing, naming the row; nothing is left behind."""
    recording = recording_of([9], with_weights=True)
    (rows,) = list(recording.rows(100).rows)[:1]
    assert isinstance(rows, TokenRows)
    changed = getattr(rows, column).copy()
    changed[4] = value
    wrong = [dataclasses.replace(rows, **{column: changed}), *list(recording.rows(100).rows)[1:]]
    with pytest.raises(InputError, match=sentence):
        write_trace(TraceRows(recording.info, wrong), tmp_path / "t.parquet")
    assert [] == list(tmp_path.iterdir())
    _write_unchecked(tmp_path / "t.parquet", recording, wrong)
    with pytest.raises(InputError, match=sentence):
        list(read_rows(open_trace(tmp_path / "t.parquet")))


def _write_unchecked(path: Path, recording: Recording, batches: list[Any]) -> None:
    """A file as another program would write it, whatever its rows."""
    schema = schema_of(recording.info)
    columns = {
        "step": np.concatenate([rows.step_W for rows in batches]),
        "layer": np.concatenate([rows.layer_W for rows in batches]),
        "rank": np.concatenate([rows.rank_W for rows in batches]),
        "token": np.concatenate([rows.token_W for rows in batches]),
        "experts": _lists(np.concatenate([rows.experts_WK for rows in batches])),
    }
    if recording.info.has_weights:
        columns["weights"] = _lists(np.concatenate([rows.weights_WK for rows in batches]))
    if recording.info.has_sequences:
        columns["sequence"] = np.concatenate([rows.sequence_W for rows in batches])
    pq.write_table(pa.table(columns, schema=schema), path)


def _lists(values_WK: Any) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_WK.reshape(-1)), values_WK.shape[1])


def test_rows_out_of_order_are_refused(tmp_path: Path) -> None:
    """Rows must be sorted by step, layer and rank, across batches too."""
    recording = with_own_deal(recording_of([9]), 3, 1)
    batches = list(recording.rows(4).rows)
    with pytest.raises(InputError, match="sorted by step, layer, rank"):
        write_trace(TraceRows(recording.info, reversed(batches)), tmp_path / "t.parquet")


def test_a_count_given_twice_is_refused(tmp_path: Path) -> None:
    """A (step, layer, expert) has one row."""
    counts = counts_of(np.ones((1, 1, 3), int))
    (rows,) = counts.rows
    with pytest.raises(InputError, match=r"row 3 .*each once"):
        write_trace(TraceRows(counts.info, [rows, dataclasses.replace(rows)]), tmp_path / "t.parquet")


def test_a_token_without_a_row_in_every_layer_is_refused(tmp_path: Path) -> None:
    """Tokens x layers is the number of rows."""
    recording = recording_of([9])
    with pytest.raises(InputError, match="9 tokens x 2 layers are 18 rows, got 17"):
        write_trace(TraceRows(recording.info, list(recording.rows(2).rows)[:-1]), tmp_path / "t.parquet")


def _with_info(path: Path, change: dict[str, Any] | bytes | None) -> None:
    """Rewrite the file at `path` with another header, or none, as another program would."""
    table = pq.read_table(path)
    info = json.loads(table.schema.metadata[INFO_KEY])
    text = change if isinstance(change, bytes) else json.dumps(info | (change or {})).encode()
    pq.write_table(table.replace_schema_metadata(None if change is None else {INFO_KEY: text}), path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (None, "without the metadata key 'moesim'"),
        (b"[1]", "not a JSON object"),
        (b"{", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        ({"format_version": 2}, "format_version is 2; this program reads 1"),
        ({"format_version": None}, "format_version is None"),
        ({"modell": "x"}, "unknown metadata key 'modell'; did you mean 'model'"),
        ({"top_k": 3}, "column 'experts' must be fixed_size_list<.*>\\[3\\], got .*\\[2\\]"),
        ({"top_k": -1}, "metadata top_k: .*got '-1'"),
        ({"top_k": 9}, "top_k=9 is more than num_experts=8"),
        ({"num_experts": 10**13}, "metadata num_experts"),
        ({"num_experts": 8.5}, "metadata num_experts"),
        ({"num_tokens": 10**13}, "10000000000000 tokens x 2 layers are 20000000000000 rows, got 18"),
        ({"num_tokens": 10**30}, "metadata num_tokens"),
        ({"num_steps": 10}, "num_steps=10 is more than num_tokens=9"),
        ({"num_ranks": 0}, "metadata num_ranks"),
        ({"layers": [1, 1]}, "layers must ascend"),
        ({"layers": [5, 70000]}, "layers must ascend"),
        ({"layers": [1, 2, 3]}, "9 tokens x 3 layers are 27 rows, got 18"),
        ({"layers": []}, "metadata layers"),
        ({"has_weights": True}, "one column 'weights'"),
        ({"has_sequences": False}, "unknown column 'sequence'"),
        ({"level": "count"}, "neither weights nor sequences"),
        ({"level": "words"}, "metadata level"),
    ],
)
def test_a_wrong_header_is_refused_in_one_sentence(tmp_path: Path, change: Any, sentence: str) -> None:
    """The header is checked by itself, against the columns and against the number of rows, before rows are read."""
    path = tmp_path / "t.parquet"
    recording_of([9]).write(path)
    _with_info(path, change)
    with pytest.raises(InputError, match=sentence) as refusal:
        open_trace(path)
    assert "\n" not in str(refusal.value)


def test_wrong_column_types_are_refused(tmp_path: Path) -> None:
    """A column of another type is refused, naming both types."""
    path = tmp_path / "t.parquet"
    recording_of([9]).write(path)
    table = pq.read_table(path)
    wide = table.set_column(0, "step", table["step"].cast(pa.int64())).replace_schema_metadata(table.schema.metadata)
    pq.write_table(wide, path)
    with pytest.raises(InputError, match="column 'step' must be int32, got int64"):
        open_trace(path)


def test_missing_values_are_refused(tmp_path: Path) -> None:
    """A null is not -1."""
    path = tmp_path / "t.parquet"
    recording_of([9]).write(path)
    table = pq.read_table(path)
    nulls = pa.array([None] * 18, pa.int32())
    pq.write_table(table.set_column(2, pa.field("rank", pa.int32()), nulls), path)
    with pytest.raises(InputError, match="column 'rank' has missing values"):
        list(read_rows(open_trace(path)))


def test_a_file_that_claims_more_rows_than_its_bytes_can_hold_is_refused(tmp_path: Path) -> None:
    """Ten million equal rows squeezed into less than a hundred thousand bytes are refused before memory is taken."""
    path, count = tmp_path / "t.parquet", 10_000_000
    info = counts_of(np.ones((1, 1, 3), int)).info
    table = {name: pa.DictionaryArray.from_arrays(np.zeros(count, np.int8), [0]) for name in ("step", "layer")}
    pq.write_table(pa.table(table).replace_schema_metadata(schema_of(info).metadata), path, compression="zstd")
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match=r"10000000 rows cannot be in .* bytes"):
        open_trace(path)


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1PAR1", b"PAR1" + b"\xff" * 16 + b"PAR1", b"PK\x03\x04", b"a: 1"]
)
def test_what_is_not_a_trace_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty files, other formats and footers that lie about their length are refused in one sentence."""
    path = tmp_path / "t.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError) as refusal:
        load_trace(path)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """The path is named."""
    with pytest.raises(InputError, match=r"there is no trace file .*nowhere"):
        load_trace(tmp_path / "nowhere.parquet")


def test_an_unwritable_target_is_refused(tmp_path: Path) -> None:
    """A folder that does not exist is the user's to make."""
    with pytest.raises(InputError, match=r"cannot write .*choose another output path"):
        recording_of([3]).write(tmp_path / "no" / "t.parquet")
