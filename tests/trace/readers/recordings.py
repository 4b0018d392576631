"""Writers of the recorders' files, from routing as an array of expert ids, and what a converted trace holds.

Array letters: R layer row (every layer), L MoE layer, T token, K top-k, P physical slot, E expert.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from moesim.routing import RoutedModel, TraceInfo
from moesim.trace.convert import convert_trace
from moesim.trace.rows import TokenRows
from moesim.trace.store import open_trace, read_rows


@dataclass(frozen=True)
class Toy:
    """Four layers, the first dense, eight experts, top-2."""

    name: str = "toy"
    num_layers: int = 4
    moe_layer_indices: tuple[int, ...] = (1, 2, 3)
    num_experts: int = 8
    top_k: int = 2
    has_heads_merged: bool = False


TOY = Toy()
IDS_LTK = np.array(
    [
        [[1, 2], [7, 4], [2, 7], [0, 3], [0, 3]],
        [[2, 1], [1, 0], [0, 4], [0, 1], [0, 4]],
        [[1, 5], [2, 3], [0, 1], [1, 5], [1, 2]],
    ]
)  # of the five tokens in the samples of answers


def converted(source: Path, model: RoutedModel | None = TOY, **options: Any) -> tuple[TraceInfo, Any]:
    """(header, experts [L, T, K] of one step and rank or counts [S, L, E]) of `source` after conversion."""
    out = source.parent / "converted.parquet"
    convert_trace(source, out, model=model, **options)
    trace = open_trace(out)
    batches = [rows for _, rows in read_rows(trace)]
    out.unlink()
    info = trace.info
    if info.level == "count":
        load = np.concatenate([rows.tokens_W for rows in batches if not isinstance(rows, TokenRows)])
        return info, load.reshape(info.num_steps, info.num_layers, info.num_experts)
    experts_WK = np.concatenate([rows.experts_WK for rows in batches if isinstance(rows, TokenRows)])
    step_W = np.concatenate([rows.step_W for rows in batches])
    steps = [experts_WK[step_W == step].reshape(info.num_layers, -1, info.top_k) for step in range(info.num_steps)]
    return info, np.concatenate(steps, axis=1)


def loads(ids_LTK: NDArray[Any], num_experts: int = 8) -> NDArray[np.int64]:
    """Tokens of each expert [L, E]."""
    return np.stack([np.bincount(ids_TK[ids_TK >= 0], minlength=num_experts) for ids_TK in ids_LTK])


def with_dense(ids_LTK: NDArray[Any], fill: int) -> NDArray[Any]:
    """A row of `fill` for the dense layer 0 before the MoE layers."""
    return np.concatenate([np.full_like(ids_LTK[:1], fill), ids_LTK])


def per_token_record(ids_LTK: NDArray[Any], number: int, rank: int = 0, **fields: Any) -> dict[str, Any]:
    """One record of SGLang's per_token mode: ids in eight columns, -1 filling them."""
    ids_RT8 = np.full((len(ids_LTK) + 1, ids_LTK.shape[1], 8), -1, np.int32)
    ids_RT8[1:, :, : ids_LTK.shape[2]] = ids_LTK
    return {
        **{"forward_pass_id": number, "rank": rank, "gatherer_key": "primary", "extend_seq_lens": None},
        **{"forward_mode": 2, "topk_ids_of_layer": torch.from_numpy(ids_RT8), "misc_objects": [], **fields},
    }


def save_records(path: Path, records: Sequence[Mapping[str, Any]], map_RP: NDArray[Any] | None) -> Path:
    """A dump of SGLang's recorder; without a map none is in it."""
    dump: dict[str, Any] = {"records": list(records)}
    if map_RP is not None:
        dump["last_physical_to_logical_map"] = torch.from_numpy(map_RP)
    torch.save(dump, path)
    return path


def trivial_map(num_slots: int = 8, num_experts: int = 8, num_rows: int = 4) -> NDArray[np.int64]:
    """Slot i holds expert i mod experts, in every layer."""
    return np.tile(np.arange(num_slots) % num_experts, (num_rows, 1))


def npy_text(values: NDArray[Any]) -> str:
    """base64 of an .npy file."""
    stream = io.BytesIO()
    np.save(stream, values)
    return base64.b64encode(stream.getvalue()).decode()


def save_json(path: Path, value: Any) -> Path:
    """`value` as JSON."""
    path.write_text(json.dumps(value))
    return path


def save_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def router_lines(ids_LTK: NDArray[Any], step: int = 0, rank: int = 0, **fields: Any) -> list[dict[str, Any]]:
    """Lines of Megatron's RouterTracer for the layers 1.., ids of a token ascending."""
    shape = {"num_tokens": ids_LTK.shape[1], "topk": ids_LTK.shape[2]}
    where = {"step": step, "stage": "pre_dispatch", "block": "decoder", "rank": rank, **shape, **fields}
    ascending_LTK = np.sort(ids_LTK, axis=2).tolist()
    return [{**where, "layer": layer, "top_indices": ids_TK} for layer, ids_TK in enumerate(ascending_LTK, 1)]


def save_statistic(folder: Path, tables: Mapping[int, Mapping[str, NDArray[Any]]]) -> Path:
    """A folder of TensorRT-LLM's expert statistic: rank -> tensors."""
    folder.mkdir(exist_ok=True)
    save_json(folder / "meta_info.json", {"num_experts": 8, "num_experts_per_token": 2})
    for rank, tensors in tables.items():
        save_file(dict(tensors), folder / f"rank{rank}.safetensors")
    return folder


def save_imatrix(path: Path, load_LE: NDArray[Any], chunk_count: int = 1, chunk_size: int = 1) -> Path:
    """llama.cpp's imatrix of layers 1.., by the `gguf` package."""
    writer = gguf.GGUFWriter(path, arch="")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["text.txt"])
    writer.add_uint32("imatrix.chunk_count", chunk_count)
    writer.add_uint32("imatrix.chunk_size", chunk_size)
    for layer, load_E in enumerate(load_LE, 1):
        for part in ("gate", "up", "down"):
            name = f"blk.{layer}.ffn_{part}_exps.weight"
            writer.add_tensor(f"{name}.in_sum2", np.ones((len(load_E), 4), np.float32))
            writer.add_tensor(f"{name}.counts", load_E.astype(np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
