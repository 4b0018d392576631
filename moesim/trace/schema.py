"""Columns and metadata of the Parquet files that hold traces, and their translation to and from rows in memory.

Array letters: W row of the file, K top-k.
"""

import hashlib
import json
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from moesim.errors import InputError, unknown_name
from moesim.routing import FORMAT_VERSION, TraceInfo
from moesim.trace.rows import CountRows, TokenRows

INFO_KEY = b"moesim"
DIGEST_KEY = b"moesim_sha256"  # of the info's bytes: a changed byte in the footer is found as one in a page is
MOST_INFO_BYTES = 2**20


def schema_of(info: TraceInfo) -> pa.Schema:
    """The Arrow schema of a trace with this header, the header in its metadata."""
    text = json.dumps(info.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()
    metadata = {INFO_KEY: text, DIGEST_KEY: hashlib.sha256(text).hexdigest().encode()}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in _columns(info).items()], metadata)


def _columns(info: TraceInfo) -> dict[str, pa.DataType]:
    if info.level == "count":
        return {"step": pa.int32(), "layer": pa.int16(), "expert": pa.int32(), "tokens": pa.int64()}
    columns = {"step": pa.int32(), "layer": pa.int16(), "rank": pa.int32(), "token": pa.int64()}
    columns["experts"] = _row_of(pa.int32(), info.top_k)
    if info.has_weights:
        columns["weights"] = _row_of(pa.float16(), info.top_k)
    if info.has_sequences:
        columns["sequence"] = pa.int32()
    return columns


def _row_of(kind: pa.DataType, count: int) -> pa.DataType:
    """`count` values, none missing, which spares the file a level for each."""
    return pa.list_(pa.field("element", kind, nullable=False), count)


def read_info(schema: pa.Schema, source: str) -> TraceInfo:
    """The header in the metadata of `schema`, whose columns are held to it; raises InputError naming `source`."""
    text = (schema.metadata or {}).get(INFO_KEY)
    if text is None:
        raise InputError(
            f"{source} is a Parquet file without the metadata key 'moesim', so not a trace of this program"
        )
    digest = schema.metadata.get(DIGEST_KEY)
    if digest is not None and digest != hashlib.sha256(text).hexdigest().encode():
        raise InputError(
            f"{source}: the metadata does not match its digest; the file is damaged, convert or copy it again"
        )
    info = _parse_info(text, source)
    _check_columns(schema, info, source)
    return info


def _parse_info(text: bytes, source: str) -> TraceInfo:
    if len(text) > MOST_INFO_BYTES:
        raise InputError(f"{source}: the trace metadata is {len(text)} bytes, more than {MOST_INFO_BYTES}")
    try:
        version = json.loads(text).get("format_version")
        if version != FORMAT_VERSION:
            raise InputError(f"{source}: trace format_version is {version!r}; this program reads {FORMAT_VERSION}")
        return TraceInfo.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InputError(f"{source}: {unknown_name('metadata key', place, TraceInfo.model_fields)}") from None
        raise InputError(
            f"{source}: trace metadata {place}: {first['msg']}, got {str(first['input'])[:80]!r}"
        ) from None
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{source}: the trace metadata is not a JSON object ({type(error).__name__})") from None


def _check_columns(schema: pa.Schema, info: TraceInfo, source: str) -> None:
    expected = _columns(info)
    for name in expected:
        if schema.names.count(name) != 1:
            raise InputError(
                f"{source}: a {info.level}-level trace like this has one column {name!r}, got {schema.names}"
            )
    for field in schema:
        if field.name not in expected:
            raise InputError(f"{source}: {unknown_name('column', field.name, expected)}")
        if not _same_type(field.type, expected[field.name]):
            raise InputError(f"{source}: column {field.name!r} must be {expected[field.name]}, got {field.type}")


def _same_type(got: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_fixed_size_list(expected):  # the name of the list's field does not matter
        is_list = bool(pa.types.is_fixed_size_list(got))
        return is_list and got.value_type == expected.value_type and got.list_size == expected.list_size
    return bool(got == expected)


def to_batch(rows: TokenRows | CountRows, schema: pa.Schema) -> pa.RecordBatch:
    """`rows` as Arrow columns in the order of `schema`."""
    return pa.RecordBatch.from_arrays([_to_column(rows, field) for field in schema], schema=schema)


def _to_column(rows: TokenRows | CountRows, field: pa.Field) -> pa.Array:
    values = getattr(rows, f"{field.name}_WK" if field.name in ("experts", "weights") else f"{field.name}_W")
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=field.type)
    return pa.array(values, field.type)


def to_rows(batch: pa.RecordBatch, info: TraceInfo, source: str) -> TokenRows | CountRows:
    """The rows of one Arrow batch that holds all columns; raises InputError where a value is missing (null)."""
    columns = {name: column_values(batch, name, source) for name in batch.schema.names}
    if info.level == "count":
        return CountRows(columns["step"], columns["layer"], columns["expert"], columns["tokens"])
    return TokenRows(
        columns["step"],
        columns["layer"],
        columns["rank"],
        columns["token"],
        columns["experts"],
        columns.get("weights"),
        columns.get("sequence"),
    )


def column_values(batch: pa.RecordBatch, name: str, source: str) -> NDArray[Any]:
    """One column as a numpy array [W] or [W, K], without a copy where Arrow allows it."""
    column = batch.column(batch.schema.get_field_index(name))
    leaves = column
    if pa.types.is_fixed_size_list(column.type) and not column.null_count:
        leaves = column.flatten()
    if column.null_count or leaves.null_count:
        raise InputError(f"{source}: column {name!r} has missing values (nulls); write -1 for no expert")
    values: NDArray[Any] = np.asarray(leaves.to_numpy(zero_copy_only=False))
    return values.reshape(len(column), -1) if leaves is not column else values
