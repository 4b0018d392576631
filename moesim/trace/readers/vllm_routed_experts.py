"""Reader of vLLM's `routed_experts`: base64 of an .npy file in saved answers, or such an .npy file itself.

Array letters: T token, R layer row (every layer), K top-k.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.routing import RoutedModel
from moesim.trace.layer_rule import layers_of_all_rows
from moesim.trace.pass_recording import Recording, token_trace
from moesim.trace.rows import TraceRows
from moesim.trace.saved_responses import ANY_JSON, NPY_MAGIC, first_payload, join_choices, payloads, without_dense
from moesim.trace.source_files import files_in, head_of, origin_of

_MOST_BYTES = 2**32


def recognises(path: Path) -> bool:
    """Whether the first `routed_experts` of a JSON file is an .npy file, or `path` is one of uint8 or uint16 [T, R, K]."""
    head = head_of(path, 256)
    if head.startswith(NPY_MAGIC):
        return any(kind in head for kind in (b"'|u1'", b"'<u2'")) and _header_is_3d(head)
    return first_payload(path) == NPY_MAGIC


def read(
    path: Path, *, model: RoutedModel | None = None, key: str | None = None, layers: Sequence[int] | None = None
) -> TraceRows:
    """The tokens of all answers as one step, each answer a sequence. Raises InputError."""
    if key is not None:
        raise InputError(f"{path} is read whole; leave out --key")
    is_array = path.is_file() and head_of(path, 6) == NPY_MAGIC
    found = [(str(path), path.read_bytes())] if is_array else payloads(path)
    ids_RTK, lengths = join_choices([_array(payload, place) for place, payload in found], str(path))
    asked = None if layers is None else tuple(layers)
    layer_of_row = layers_of_all_rows(len(ids_RTK), model=model, asked=asked, source=str(path))
    kept = without_dense(ids_RTK, str(path), layer_of_row, None if model is None else model.moe_layer_indices)
    if not kept:
        raise InputError(f"{path}: every layer is zero; there is no routing in it")
    dense = f"{len(layer_of_row) - len(kept)} layers of zeros are taken as dense; no model was named"
    inferred = f"num_experts {int(ids_RTK.max()) + 1} is inferred from the largest expert id; no model was named"
    recording = Recording(
        passes={0: {0: ids_RTK[kept]}},
        layer_of_row=tuple(layer_of_row[row] for row in kept),
        num_experts=int(ids_RTK.max()) + 1 if model is None else model.num_experts,
        source=str(path),
        origin=origin_of(path, [path] if is_array else files_in(path, ANY_JSON)),
        recorder="vLLM routed_experts",
        lengths={(0, 0): lengths},
        notes=(inferred, *[dense] * (len(kept) < len(layer_of_row))) if model is None else (),
    )
    return token_trace(recording, model)


def _header_is_3d(head: bytes) -> bool:
    start, end = head.find(b"'shape': ("), head.find(b")")
    return 0 < start < end and len([part for part in head[start + 10 : end].split(b",") if part.strip()]) == 3


def _array(payload: bytes, place: str) -> NDArray[Any]:
    """The array in an .npy byte string, whose claimed size must be the one it has."""
    if not payload.startswith(NPY_MAGIC):
        raise InputError(
            f"{place}: routed_experts has no \\x93NUMPY at its start, so it is not vLLM's; "
            f"raw int32 is SGLang's: --format sglang_routed_experts"
        )
    stream = io.BytesIO(payload)
    try:
        version = npy.read_magic(stream)
        shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(stream)
    except Exception as error:  # numpy's parser of the header raises what Python's tokenizer and parser do
        raise InputError(f"{place}: routed_experts is a damaged .npy file ({str(error)[:100]})") from None
    size, held = math.prod(shape) * dtype.itemsize, len(payload) - stream.tell()
    if dtype.kind not in "iu" or len(shape) != 3 or min(shape[1:], default=0) < 1:
        raise InputError(f"{place}: routed_experts must be integers [tokens, layers, top-k], got {dtype} {shape}")
    if size != held or size > _MOST_BYTES:
        raise InputError(f"{place}: routed_experts claims {size} bytes, but holds {held}; it is truncated or lies")
    stream.seek(0)
    values: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
    return values
