"""Layers of a trace against those of a model: which layer each row is, and whether the trace can be replayed."""

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.routing import RoutedModel, TraceInfo


def layers_of_rows(
    num_rows: int,
    *,
    model: RoutedModel | None,
    asked: tuple[int, ...] | None,
    stated: tuple[int, ...] | None,
    source: str,
) -> tuple[int, ...]:
    """Model layer index of each of the file's `num_rows` layer rows.

    `asked` (the caller's) goes before `stated` (the file's); without either the rows are the model's MoE layers in
    order, when their number is that of its MoE layers, or all its layers, when it is that. Else InputError.
    """
    layers = stated if asked is None else asked
    if layers is not None:
        if len(layers) != num_rows or len(set(layers)) != num_rows or min(layers, default=-1) < 0:
            raise InputError(
                f"{source}: layers {layers} must name {num_rows} different layers, one for each of its rows"
            )
        return layers
    if model is None:
        raise InputError(
            f"{source} does not say which layers its {num_rows} rows are; give --model NAME or --layers 0,1,..."
        )
    if num_rows == len(model.moe_layer_indices):
        return tuple(model.moe_layer_indices)
    if num_rows == model.num_layers:
        return tuple(range(model.num_layers))
    raise InputError(
        f"{source} has {num_rows} layer rows, but {model.name} has {len(model.moe_layer_indices)} MoE layers of "
        f"{model.num_layers} layers; name the rows' layers with --layers"
    )


def layers_of_all_rows(
    num_rows: int, *, model: RoutedModel | None, asked: tuple[int, ...] | None, source: str
) -> tuple[int, ...]:
    """Model layer index of each row where the recorder writes one for every layer, dense ones too.

    The rows are layers 0.. unless `asked` names them; InputError when the model has another number of layers.
    """
    if asked is None and model is not None and num_rows != model.num_layers:
        raise InputError(
            f"{source} has {num_rows} layer rows, one for every layer of its model, but {model.name} has "
            f"{model.num_layers} layers; it is another model's, or name the rows' layers with --layers"
        )
    return layers_of_rows(num_rows, model=model, asked=asked, stated=tuple(range(num_rows)), source=source)


def check_model(info: TraceInfo, model: RoutedModel, source: str) -> None:
    """Raise InputError when `info` is not routing of `model`: its name (where stated), experts, top-k and layers."""
    check_shape(info, model, source)
    if info.model is not None and info.model != model.name:
        raise InputError(
            f"{source} is a trace of {info.model}, not of {model.name}; routing_only: true replays its routing under it"
        )
    foreign = sorted(set(info.layers) - set(model.moe_layer_indices))
    if foreign:
        raise InputError(f"{source} has layers {foreign[:8]}, which are not MoE layers of {model.name}")


def check_shape(info: TraceInfo, model: RoutedModel, source: str) -> None:
    """Raise InputError when experts or top-k are not the model's; a top-k the trace does not know passes."""
    pairs = (("experts", info.num_experts, model.num_experts), ("top-k", info.top_k or model.top_k, model.top_k))
    for what, got, expected in pairs:
        if got != expected:
            raise InputError(f"{source} has {what} {got}, but {model.name} has {expected}; it is another model's trace")


def rows_to_replay(info: TraceInfo, model: RoutedModel, source: str, *, routing_only: bool) -> NDArray[np.int64]:
    """For every MoE layer of `model` the layer of the trace to replay there (position in `info.layers`).

    With `routing_only` the trace's layers are repeated in order, whatever model it is of; else it must be the model's
    and have all its MoE layers. Raises InputError.
    """
    if routing_only:
        check_shape(info, model, source)
        return relabel_layers(info.layers, model.moe_layer_indices)
    check_model(info, model, source)
    if len(info.layers) != len(model.moe_layer_indices):
        raise InputError(
            f"{source} has {len(info.layers)} of the {len(model.moe_layer_indices)} MoE layers of {model.name}; "
            f"routing_only: true repeats them in order"
        )
    return np.arange(len(info.layers), dtype=np.int64)


def relabel_layers(trace_layers: tuple[int, ...], model_moe_layers: tuple[int, ...]) -> NDArray[np.int64]:
    """For every MoE layer of the model the layer of the trace to replay, its layers repeated in order.

    >>> relabel_layers((2, 3, 4), (1, 2, 3, 4, 5)).tolist()
    [0, 1, 2, 0, 1]
    """
    return np.arange(len(model_moe_layers), dtype=np.int64) % len(trace_layers)
