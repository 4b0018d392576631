"""A damaged file either reads as it was or is refused in one sentence; nothing else ever happens."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.trace.convert import convert_trace
from moesim.trace.store import open_trace, read_rows
from tests.strategies.routing import recording_of


@pytest.fixture(scope="module")
def parquet_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "t.parquet"
    recording_of([20, 30, 14], with_weights=True).write(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def npz_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "t.npz"
    recording = recording_of([20, 30, 14])
    np.savez_compressed(
        path,
        topk_ids=recording.experts_LTK.astype(np.uint8),
        seq_len=np.array([20, 30, 14], np.int32),
        layers=np.array([1, 3], np.int16),
    )
    return path.read_bytes()


# (place as a share of the file, new byte): a few flips; or a cut at a share of the file
flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3)
cuts = st.floats(0, 1, exclude_max=True)


def _flipped(content: bytes, places: list[tuple[float, int]]) -> bytes:
    changed = bytearray(content)
    for share, value in places:
        changed[int(share * len(content))] = value
    return bytes(changed)


def _parquet_outcome(path: Path, content: bytes) -> object:
    path.write_bytes(content)
    try:
        trace = open_trace(path)
        batches = [rows for _, rows in read_rows(trace)]
    except InputError as error:
        assert "\n" not in str(error)
        return "refused"
    columns = [
        (rows.step_W, rows.layer_W, rows.rank_W, rows.token_W, rows.experts_WK, rows.weights_WK) for rows in batches
    ]
    return trace.info, [[column.tolist() for column in part] for part in columns]


def _npz_outcome(path: Path, content: bytes) -> object:
    path.write_bytes(content)
    out = path.with_suffix(".parquet")
    out.unlink(missing_ok=True)
    try:
        convert_trace(path, out)
    except InputError as error:
        assert "\n" not in str(error)
        assert not out.exists()
        return "refused"
    trace = open_trace(out)
    origin_free = trace.info.model_copy(update={"origin": ""})  # the digest of the changed file stands there
    return origin_free, [rows.experts_WK.tolist() for _, rows in read_rows(trace)]


@settings(max_examples=120)
@given(flips)
def test_a_parquet_trace_with_changed_bytes(
    tmp_path_factory: pytest.TempPathFactory, parquet_bytes: bytes, places: list[tuple[float, int]]
) -> None:
    """Changed bytes are refused wherever they change what is read."""
    path = tmp_path_factory.getbasetemp() / "flipped.parquet"
    outcome = _parquet_outcome(path, _flipped(parquet_bytes, places))
    assert outcome == "refused" or outcome == _parquet_outcome(path, parquet_bytes)


@given(cuts)
def test_a_truncated_parquet_trace(
    tmp_path_factory: pytest.TempPathFactory, parquet_bytes: bytes, share: float
) -> None:
    """No part of a file passes for the file."""
    path = tmp_path_factory.getbasetemp() / "cut.parquet"
    assert "refused" == _parquet_outcome(path, parquet_bytes[: int(share * len(parquet_bytes))])


@settings(max_examples=120)
@given(flips)
def test_an_npz_trace_with_changed_bytes(
    tmp_path_factory: pytest.TempPathFactory, npz_bytes: bytes, places: list[tuple[float, int]]
) -> None:
    """Changed bytes are refused wherever they change what is read."""
    path = tmp_path_factory.getbasetemp() / "flipped.npz"
    outcome = _npz_outcome(path, _flipped(npz_bytes, places))
    assert outcome == "refused" or outcome == _npz_outcome(path, npz_bytes)


@given(cuts)
def test_a_truncated_npz_trace(tmp_path_factory: pytest.TempPathFactory, npz_bytes: bytes, share: float) -> None:
    """No part of a file passes for the file."""
    path = tmp_path_factory.getbasetemp() / "cut.npz"
    assert "refused" == _npz_outcome(path, npz_bytes[: int(share * len(npz_bytes))])
