"""Reader of llama.cpp importance matrices in GGUF: tokens that reached each expert, counted for quantisation.

Of every MoE layer `blk.N` (N is the model layer index) one of the expert tensors' `.counts` is taken; all must agree.
Array letters: L layer, E expert.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.routing import RoutedModel
from moesim.trace.count_table import CountTable, count_trace
from moesim.trace.gguf_file import MAGIC, GgufFile, read_gguf
from moesim.trace.layer_rule import layers_of_rows
from moesim.trace.rows import TraceRows
from moesim.trace.source_files import head_of, origin_of

_COUNTS = re.compile(r"blk\.(\d{1,5})\.ffn_(?:gate|up|down|gate_up)_exps\.weight\.counts")


def recognises(path: Path) -> bool:
    """Whether `path` is a GGUF file whose head speaks of an imatrix."""
    head = head_of(path)
    return head.startswith(MAGIC) and b"imatrix" in head


def read(
    path: Path, *, model: RoutedModel | None = None, key: str | None = None, layers: Sequence[int] | None = None
) -> TraceRows:
    """The counts as one step. Without `model`, top-k is what the file's number of tokens makes it. Raises InputError."""
    if key is not None:
        raise InputError(f"{path} names its layers itself; leave out --key")
    file = read_gguf(path)
    load_of_layer = _loads(path, file.tensors)
    stated = tuple(load_of_layer)
    load_LE = np.stack(list(load_of_layer.values()))
    asked = None if layers is None else tuple(layers)
    top_k = _top_k(file, load_LE)
    inferred = f"top_k {top_k} is inferred from chunks x chunk size; no model was named"
    table = CountTable(
        load_SRE=load_LE[None],
        layer_of_row=layers_of_rows(len(stated), model=model, asked=asked, stated=stated, source=str(path)),
        source=str(path),
        origin=origin_of(path, [path]),
        recorder="llama.cpp imatrix",
        top_k=top_k if model is None else 0,
        notes=(inferred,) if model is None and top_k else (),
    )
    return count_trace(table, model)


def _loads(path: Path, tensors: Mapping[str, NDArray[np.float32]]) -> dict[int, NDArray[np.int64]]:
    """Layer -> counts [E], layers ascending."""
    found: dict[int, NDArray[np.int64]] = {}
    for name, values in tensors.items():
        match = _COUNTS.fullmatch(name)
        if match is None:
            continue
        if not (np.isfinite(values).all() and (values >= 0).all() and (values < 2**50).all()):
            raise InputError(f"{path}: {name} holds counts that are negative or no numbers; the file is damaged")
        load_E = np.rint(values.reshape(-1)).astype(np.int64)
        layer = int(match[1])
        if not np.array_equal(found.setdefault(layer, load_E), load_E):
            raise InputError(
                f"{path}: the expert tensors of layer {layer} disagree on their counts; the file is damaged"
            )
    if not found:
        raise InputError(f"{path} has no counts of experts (blk.N.ffn_*_exps); it is the imatrix of a dense model")
    if len({len(load_E) for load_E in found.values()}) > 1:
        raise InputError(f"{path} has layers of different numbers of experts, which no trace holds")
    return dict(sorted(found.items()))


def _top_k(file: GgufFile, load_LE: NDArray[np.int64]) -> int:
    """Experts a token, where the file's chunks say how many tokens there were and it comes out whole; else 0."""
    chunks: Any = file.keys.get("imatrix.chunk_count")
    size: Any = file.keys.get("imatrix.chunk_size")
    if type(chunks) is not int or type(size) is not int or chunks * size < 1:
        return 0
    total_L = load_LE.sum(axis=1)
    top_k = int(total_L[0]) // (chunks * size)
    return top_k if 0 < top_k <= load_LE.shape[1] and (total_L == top_k * chunks * size).all() else 0
