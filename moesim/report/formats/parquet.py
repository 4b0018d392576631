"""spans.parquet, links.parquet, devices.parquet: the tables behind the shown run, to recompute every number."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moesim.report.summary import as_comparison, summarise
from moesim.result import FORMAT_VERSION, PHASES, Comparison, SimulationResult, Tables


def render(subject: Comparison | SimulationResult) -> dict[str, bytes]:
    """Three tables of the fastest run (its name in the schema metadata); nothing where it kept no tables."""
    comparison = as_comparison(subject)
    result = comparison.results.get(summarise(comparison).best or "")
    if result is None or result.tables is None:
        return {}
    tables = {
        "spans": _spans(result.tables, _layer_index(result)),
        "links": _links(result),
        "devices": _devices(result.tables, _layer_index(result)),
    }
    return {f"{name}.parquet": _bytes(table, result.strategy) for name, table in tables.items()}


def _bytes(columns: dict[str, Any], strategy: str) -> bytes:
    metadata = {"moesim.format_version": str(FORMAT_VERSION), "moesim.strategy": strategy}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), sink, compression="zstd")
    return bytes(sink.getvalue())


def _layer_index(result: SimulationResult) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array([layer.layer for layer in result.layers], dtype=np.int32)


def _spans(tables: Tables, layer_index: np.ndarray[Any, np.dtype[np.int32]]) -> dict[str, Any]:
    spans = tables.spans
    inside = (spans.layer >= 0) & (spans.layer < layer_index.size)
    layer = np.full(spans.layer.size, -1, dtype=np.int32)
    layer[inside] = layer_index[spans.layer[inside]]
    return {
        "rank": spans.rank,
        "step": spans.step,
        "moe_ordinal": spans.layer,
        "layer": layer,
        "phase": pa.DictionaryArray.from_arrays(pa.array(spans.phase, pa.int8()), pa.array(PHASES)),
        "start_s": spans.start_s,
        "end_s": spans.end_s,
    }


def _links(result: SimulationResult) -> dict[str, Any]:
    tables = result.tables
    assert tables is not None
    return {
        "link": pa.array(tables.link_names, pa.string()),
        "tier": pa.array(tables.link_tier, pa.string()),
        "bandwidth_bytes_per_s": tables.link_bandwidth,
        "bytes": tables.link_bytes,
    }


def _devices(tables: Tables, layer_index: np.ndarray[Any, np.dtype[np.int32]]) -> dict[str, Any]:
    num_layers, num_devices = tables.load_LD.shape
    ordinal = np.repeat(np.arange(num_layers, dtype=np.int32), num_devices)
    return {
        "device": np.tile(np.arange(num_devices, dtype=np.int32), num_layers),
        "node": np.tile(tables.node_of_device_D, num_layers),
        "moe_ordinal": ordinal,
        "layer": layer_index[ordinal] if layer_index.size >= num_layers else ordinal,
        "load": tables.load_LD.ravel(),
    }
