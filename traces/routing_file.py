"""Writes token-level routing as Parquet, format version 1, small: byte-split ids, zstd at a high level."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moesim.trace.appearing_file import appearing_file

FORMAT_VERSION = 1
_ZSTD_LEVEL = 19


def routing_table(experts_LTK: NDArray[np.int32], sequence_T: NDArray[np.int32], layers: tuple[int, ...]) -> pa.Table:
    """Rows sorted by layer then token: step, layer, rank, token, experts, sequence; step and rank are 0 throughout.

    `layers` are indices among all model layers, one for each of the L rows of `experts_LTK`.
    """
    num_layers, num_tokens, top_k = experts_LTK.shape
    rows = num_layers * num_tokens
    experts = pa.FixedSizeListArray.from_arrays(pa.array(experts_LTK.reshape(-1), pa.int32()), top_k)
    columns: dict[str, Any] = {
        "step": np.zeros(rows, np.int32),
        "layer": np.repeat(np.asarray(layers, np.int16), num_tokens),
        "rank": np.zeros(rows, np.int32),
        "token": np.tile(np.arange(num_tokens, dtype=np.int64), num_layers),
        "experts": experts,
        "sequence": np.tile(sequence_T.astype(np.int32), num_layers),
    }
    table = pa.table(columns)
    return table.cast(pa.schema([field.with_nullable(False) for field in table.schema]))


def write_routing(path: Path, table: pa.Table, info: dict[str, Any], recording: dict[str, Any]) -> None:
    """Writes `table` with `info` and `recording` as JSON under the schema keys `moesim` and `recording`.

    `info` is what every trace says about itself, with its digest beside it; `recording` is what only this program
    knows. The same input gives the same bytes. The file appears under its name when it is whole.
    """
    text = _as_json(info)
    metadata = {
        b"moesim": text,
        b"moesim_sha256": hashlib.sha256(text).hexdigest().encode(),
        b"recording": _as_json(recording),
    }
    described = table.replace_schema_metadata(metadata)
    with appearing_file(path) as stream:
        pq.write_table(
            described,
            stream,
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            use_dictionary=["step", "layer", "rank", "sequence"],
            # An id below 256 is one byte of four: split by byte, three streams vanish and one is left to the coder.
            column_encoding={"experts.list.element": "BYTE_STREAM_SPLIT", "token": "DELTA_BINARY_PACKED"},
            # One layer, one row group: a reader that wants some layers reads only those.
            row_group_size=len(table) // len(info["layers"]),
            write_page_checksum=True,
        )


def _as_json(described: dict[str, Any]) -> bytes:
    return json.dumps(described, sort_keys=True, separators=(",", ":")).encode()


def load_skew(experts_LTK: NDArray[np.int32], num_experts: int) -> list[float]:
    """Tokens of the hottest expert over the mean, per layer."""
    loads = [np.bincount(experts_TK.reshape(-1), minlength=num_experts) for experts_TK in experts_LTK]
    return [float(load.max() / load.mean()) for load in loads]
