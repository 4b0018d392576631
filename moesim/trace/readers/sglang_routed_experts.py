"""Reader of SGLang answers with `routed_experts`: base64 of raw int32, tokens x layers x top-k, without a header.

Array letters: T token, R layer row (every layer), K top-k.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moesim.errors import InputError
from moesim.routing import RoutedModel
from moesim.trace.layer_rule import layers_of_rows
from moesim.trace.pass_recording import Recording, token_trace
from moesim.trace.rows import TraceRows
from moesim.trace.saved_responses import ANY_JSON, NPY_MAGIC, first_payload, join_choices, payloads, without_dense
from moesim.trace.source_files import files_in, origin_of


def recognises(path: Path) -> bool:
    """Whether the first `routed_experts` of a JSON file is base64 of something else than an .npy file."""
    payload = first_payload(path)
    return payload is not None and payload != NPY_MAGIC


def read(
    path: Path, *, model: RoutedModel | None = None, key: str | None = None, layers: Sequence[int] | None = None
) -> TraceRows:
    """The tokens of all answers as one step, each answer a sequence; `model` gives the shape. Raises InputError."""
    if key is not None:
        raise InputError(f"{path} is read whole; leave out --key")
    if model is None:
        raise InputError(f"{path} holds raw ids without a shape; --model NAME gives the layers and the top-k")
    cell = 4 * model.num_layers * model.top_k
    choices = []
    for place, payload in payloads(path):
        if payload.startswith(NPY_MAGIC):
            raise InputError(f"{place}: routed_experts is an .npy file, as vLLM writes: --format vllm_routed_experts")
        if len(payload) % cell:
            raise InputError(
                f"{place}: routed_experts has {len(payload)} bytes, which is no multiple of 4 * {model.num_layers} "
                f"layers * top-{model.top_k} of {model.name}; it is another model's or truncated"
            )
        choices.append(np.frombuffer(payload, "<i4").reshape(-1, model.num_layers, model.top_k))
    ids_RTK, lengths = join_choices(choices, str(path))
    asked = None if layers is None else tuple(layers)
    every = tuple(range(model.num_layers))
    layer_of_row = layers_of_rows(model.num_layers, model=model, asked=asked, stated=every, source=str(path))
    kept = without_dense(np.maximum(ids_RTK, 0), str(path), layer_of_row, model.moe_layer_indices)
    recording = Recording(
        passes={0: {0: ids_RTK[kept]}},
        layer_of_row=tuple(layer_of_row[row] for row in kept),
        num_experts=model.num_experts,
        source=str(path),
        origin=origin_of(path, files_in(path, ANY_JSON)),
        recorder="SGLang routed_experts",
        lengths={(0, 0): lengths},
    )
    return token_trace(recording, model)
