"""The Parquet store of traces: written under no name until whole, read a bounded batch of rows at a time.

A byte changed in a page is found by the page's checksum where the file has one (ours do). What a file claims about its
size is held against the size it has before memory is taken for it. No time stands in a file: same rows, same bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moesim.errors import InputError
from moesim.routing import RoutingTrace, TraceInfo
from moesim.trace.appearing_file import appearing_file
from moesim.trace.rows import CountRows, RowChecks, TokenRows, TraceRows
from moesim.trace.schema import read_info, schema_of, to_batch, to_rows

ROWS_PER_GROUP = 2**17
ROWS_PER_BATCH = 2**16
_MOST_LEAVES_PER_BATCH = 2**22  # expert ids read at once: 16 MiB
# zstd squeezes constant columns to nothing, but token ids differ from row to row: no honest file holds more rows a byte
_MOST_ROWS_PER_BYTE = 64
_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError, RuntimeError)


def write_trace(trace: TraceRows, path: Path) -> int:
    """Write `trace` to `path`, checking every row not checked before; the number of rows written.

    Nothing is left behind on failure.
    """
    path = Path(path)
    try:
        with appearing_file(path) as stream:
            num_rows = _write_rows(trace, stream, str(path))
            _check_num_rows(trace.info, num_rows, str(path))
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error}); choose another output path") from None
    return num_rows


def _write_rows(trace: TraceRows, stream: Any, target: str) -> int:
    schema, checks, num_rows = schema_of(trace.info), RowChecks(trace.info, target), 0
    options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True, "use_dictionary": ["step", "layer"]}
    if trace.info.level == "token":  # ids are small numbers: their upper bytes apart compress to nothing
        options["column_encoding"] = {"experts.list.element": "BYTE_STREAM_SPLIT"}
    with pq.ParquetWriter(stream, schema, **options) as writer:
        for rows in _made_ahead(trace.rows):
            if not trace.is_checked:
                checks.check(rows, num_rows)
            writer.write_batch(to_batch(rows, schema), row_group_size=ROWS_PER_GROUP)
            num_rows += len(rows)
    return num_rows


def _made_ahead(parts: Iterable[TokenRows | CountRows]) -> Iterator[TokenRows | CountRows]:
    """The same parts, the next one made by another thread while one is written: Arrow and numpy let both run."""
    iterator = iter(parts)
    with ThreadPoolExecutor(1) as worker:
        pending = worker.submit(next, iterator, None)
        while (part := pending.result()) is not None:
            pending = worker.submit(next, iterator, None)
            yield part


def _check_num_rows(info: TraceInfo, num_rows: int, source: str) -> None:
    if info.level == "token" and num_rows != info.num_tokens * info.num_layers:
        raise InputError(
            f"{source}: {info.num_tokens} tokens x {info.num_layers} layers are {info.num_tokens * info.num_layers} "
            f"rows, got {num_rows}; every token needs one row in every layer"
        )
    if info.level == "count" and num_rows > info.num_steps * info.num_layers * info.num_experts:
        raise InputError(f"{source}: {num_rows} rows are more than steps x layers x experts")


def open_trace(path: str | Path) -> RoutingTrace:
    """The trace in the Parquet file `path`: header, columns and sizes are checked, rows are not yet read."""
    path = Path(path)
    with _open(path) as file:
        return RoutingTrace(_checked_info(file, path), path)


def read_rows(trace: RoutingTrace) -> Iterator[tuple[int, TokenRows | CountRows]]:
    """Every row of `trace`, checked, as (number of the first row, bounded batch of rows)."""
    checks = RowChecks(trace.info, str(trace.path))
    for first_row, batch in read_batches(trace):
        rows = to_rows(batch, trace.info, str(trace.path))
        checks.check(rows, first_row)
        yield first_row, rows


def read_batches(
    trace: RoutingTrace, columns: Sequence[str] | None = None, row_groups: Sequence[int] | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Some columns of some row groups (all when None) as (number of the first row, unchecked Arrow batch)."""
    leaves_per_row = max(trace.info.top_k, 1)
    size = max(1, min(ROWS_PER_BATCH, _MOST_LEAVES_PER_BATCH // leaves_per_row))
    with _open(trace.path) as file:
        if _checked_info(file, trace.path) != trace.info:
            raise InputError(f"{trace.path} has changed since it was opened; load it again")
        starts = row_group_starts(file.metadata)
        for group in range(len(starts) - 1) if row_groups is None else row_groups:
            yield from _read_group(file, trace, group, (starts[group], starts[group + 1]), size, columns)


def _read_group(
    file: pq.ParquetFile,
    trace: RoutingTrace,
    group: int,
    span: tuple[int, int],
    size: int,
    columns: Sequence[str] | None,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    row, end = span
    with _reading(trace.path):
        batches = file.iter_batches(size, [group], list(columns) if columns else None, use_threads=False)
    while True:
        with _reading(trace.path):
            batch = next(batches, None)
            if batch is not None:
                batch.validate()
        if batch is None:
            break
        if row + batch.num_rows > end:
            break
        yield row, batch
        row += batch.num_rows
    if row != end:
        raise InputError(f"{trace.path}: row group {group} claims {end - span[0]} rows but does not hold that number")


def group_spans(trace: RoutingTrace) -> list[tuple[int, int]]:
    """(first row, end) of every row group of the file, for choosing those worth reading."""
    with _open(trace.path) as file:
        starts = row_group_starts(file.metadata)
    return list(pairwise(starts))


def row_group_starts(metadata: pq.FileMetaData) -> list[int]:
    """First row of every row group, and the number of rows at the end."""
    starts = [0]
    for group in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return starts


@contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    if not path.is_file():
        raise InputError(f"there is no trace file {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; expected a Parquet trace")
    with _reading(path):
        limit = max(2**16, path.stat().st_size)  # what a footer claims cannot be larger than the file it stands in
        file = pq.ParquetFile(
            path,
            page_checksum_verification=True,
            thrift_string_size_limit=limit,
            thrift_container_size_limit=limit,
        )
    with file:
        yield file


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what Arrow raises on a damaged file into one sentence; nothing but calls of Arrow stands inside."""
    try:
        yield
    except _UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise InputError(
            f"cannot read {path} as a Parquet trace ({reason}); it is truncated, damaged or another format: "
            f"`moesim trace convert` reads other formats"
        ) from None


def _checked_info(file: pq.ParquetFile, path: Path) -> TraceInfo:
    with _reading(path):
        schema, metadata, size = file.schema_arrow, file.metadata, path.stat().st_size
        starts = row_group_starts(metadata)
    if metadata.num_rows != starts[-1] or any(end < start for start, end in pairwise(starts)):
        raise InputError(f"{path}: the file claims {metadata.num_rows} rows, its row groups {starts[-1]}")
    if metadata.num_rows > _MOST_ROWS_PER_BYTE * size + ROWS_PER_BATCH:
        raise InputError(f"{path}: {metadata.num_rows} rows cannot be in {size} bytes; the file lies about its size")
    info = read_info(schema, str(path))
    _check_num_rows(info, metadata.num_rows, str(path))
    return info
