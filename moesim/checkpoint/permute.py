"""Permutation of a checkpoint's experts, one shard at a time: memory for 16 MiB, disk for a second copy."""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from moesim.checkpoint.expert_tensors import Change, Found, Order, change_of, check_complete
from moesim.checkpoint.shard import Shard, TensorEntry, blocks, header_bytes, read_shard
from moesim.errors import InputError

_INDEX = "model.safetensors.index.json"
_EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack")
_OTHER_LAYOUTS = (
    ("*.distcp", "a torch.distributed checkpoint, as Megatron-Core and TorchTitan save"),
    ("layer_*_expert_*_model_states.pt", "the pickles DeepSpeed saves, one per expert"),
    ("*_model_states.pt", "the pickles DeepSpeed saves"),
    ("mp_rank_*", "the folders of ranks Megatron saves"),
    ("*.pt*", "pickles"),
    ("*.bin", "pickles"),
)
_BLOCK = 16 * 2**20


def permute_checkpoint(
    source: str | Path, out: str | Path, orders: Mapping[int, Order], *, num_experts: int, num_groups: int = 1
) -> dict[str, Any]:
    """Write the checkpoint `source` (a folder or one .safetensors file) to `out` with its experts in another order.

    `orders[layer][s]` is the old expert that takes position s of model layer `layer`; each must be a permutation, and
    keep groups together where the router chooses groups first (`num_groups`, or the checkpoint's own `n_group`).
    Everything else is copied. `out` must not exist; it appears whole or not at all. Returns {files, permuted, copied,
    notes}. Raises InputError, also where a layer's router or experts are not all found.
    """
    source, out = Path(source), Path(out)
    files = _weight_files(source)
    if out.exists():
        raise InputError(f"{out} exists already; name a new place, nothing is overwritten")
    groups = max(num_groups, _check_config(source, num_experts))
    for layer, order in orders.items():
        _check_order(layer, order, num_experts, groups)
    shards = [read_shard(path) for path in files]
    changes, found = _all_changes(shards, orders, num_experts)
    for layer in orders:
        check_complete(layer, found[layer], num_experts)
    _check_disk(out, shards)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        notes = _write(source, temporary, shards, changes, orders)
        temporary.replace(out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from None
    finally:
        _remove(temporary)
    names = [out / path.name for path in files] if source.is_dir() else [out]
    permuted = len(changes)
    copied = sum(len(shard.tensors) for shard in shards) - permuted
    return {"files": [str(name) for name in names], "permuted": permuted, "copied": copied, "notes": notes}


def _weight_files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(
            f"there is no checkpoint {source}; expected a folder with .safetensors files, or one such file"
        )
    files = sorted(source.glob("*.safetensors"))
    if not files:
        raise InputError(f"{source} holds no .safetensors file{_what_it_holds(source)}, first")
    return files


def _what_it_holds(source: Path) -> str:
    """What a folder without safetensors has instead, and the next step."""
    for pattern, kind in _OTHER_LAYOUTS:
        if next(source.glob(pattern), None) is not None:
            return f" but {kind}; export it to safetensors under the same tensor names"
    return "; save the model with safe_serialization=True, or convert it"


def _check_config(source: Path, num_experts: int) -> int:
    """Hold config.json's number of experts to the plan's; the number of groups it routes by, 1 where it says none."""
    path = source / "config.json"
    if not source.is_dir() or not path.is_file():
        return 1
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {str(error)[:100]}") from None
    text = config.get("text_config", config) if isinstance(config, dict) else {}
    for key in _EXPERT_KEYS:
        if isinstance(text.get(key), int) and text[key] != num_experts:
            raise InputError(
                f"{path} says {key}={text[key]}, but the plan places {num_experts} experts: another model's"
            )
    groups = text.get("n_group")
    return groups if isinstance(groups, int) and groups > 0 else 1


def _check_order(layer: int, order: Order, num_experts: int, num_groups: int) -> None:
    if sorted(order.tolist()) != list(range(num_experts)):
        raise InputError(f"layer {layer}: the order must name each of the {num_experts} experts once")
    if num_experts % num_groups:
        raise InputError(f"{num_experts} experts do not divide into {num_groups} groups")
    group_of = order.reshape(num_groups, -1) // (num_experts // num_groups)
    mixed = np.flatnonzero((group_of != group_of[:, :1]).any(axis=1))
    if mixed.size:
        raise InputError(
            f"layer {layer}: new group {int(mixed[0])} would mix experts of several of the {num_groups} groups the router "
            f"chooses first; only plans that keep groups together leave the model's outputs unchanged"
        )


def _all_changes(
    shards: list[Shard], orders: Mapping[int, Order], num_experts: int
) -> tuple[dict[str, Change], dict[int, Found]]:
    found: dict[int, Found] = defaultdict(Found)
    changes = {}
    for shard in shards:
        for entry in shard.tensors:
            change = change_of(entry.name, entry.shape, orders, num_experts, found)
            if change is not None:
                if change.replaces_ids and entry.dtype not in ("I64", "I32"):
                    raise InputError(f"tensor {entry.name!r} holds expert ids as {entry.dtype}; expected I32 or I64")
                changes[entry.name] = change
    return changes, found


def _check_disk(out: Path, shards: list[Shard]) -> None:
    needed = sum(shard.path.stat().st_size for shard in shards)
    parent = out.resolve().parent
    if not parent.is_dir():
        raise InputError(f"the folder {parent} of {out.name} does not exist")
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise InputError(f"the permuted copy needs {needed} bytes; {parent} has {free} free")


def _write(
    source: Path, place: Path, shards: list[Shard], changes: Mapping[str, Change], orders: Mapping[int, Order]
) -> list[str]:
    if source.is_file():
        _write_shard(shards[0], place, changes, orders)
        return []
    place.mkdir()
    for shard in shards:
        _write_shard(shard, place / shard.path.name, changes, orders)
    return _copy_others(source, place, changes)


def _copy_others(source: Path, place: Path, changes: Mapping[str, Change]) -> list[str]:
    """Config, tokenizer and the like as they are; the index with the new names; weights in other formats left out."""
    notes = []
    for path in sorted(source.iterdir()):
        if not path.is_file() or path.suffix == ".safetensors":
            continue
        if path.suffix in _OTHER_WEIGHTS:
            notes.append(f"{path.name} was left out: only .safetensors weights are permuted")
        elif path.name == _INDEX:
            (place / path.name).write_text(_renamed_index(path, changes), encoding="utf-8")
        else:
            shutil.copyfile(path, place / path.name)
    return notes


def _renamed_index(path: Path, changes: Mapping[str, Change]) -> str:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        files = index["weight_map"]
        renamed = {changes[name].name if name in changes else name: file for name, file in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path} is not an index of shards: it has no usable weight_map") from None
    return json.dumps({**index, "weight_map": dict(sorted(renamed.items()))}, indent=2) + "\n"


def _write_shard(shard: Shard, path: Path, changes: Mapping[str, Change], orders: Mapping[int, Order]) -> None:
    """The same tensors at the same places, under their new names; only data that changes is not copied straight."""
    renamed = [
        TensorEntry(changes[t.name].name if t.name in changes else t.name, t.dtype, t.shape, t.start, t.stop)
        for t in shard.tensors
    ]
    with open(shard.path, "rb") as stream, open(path, "wb") as target:
        target.write(header_bytes(renamed, shard.metadata))
        for entry in shard.tensors:
            change = changes.get(entry.name)
            start = shard.data_start + entry.start
            if change is None or (change.axis is None and not change.replaces_ids):
                target.writelines(blocks(stream, start, start + entry.num_bytes))
            else:
                _write_changed(stream, target, entry, start, change, orders[change.layer])


def _write_changed(
    stream: BinaryIO, target: BinaryIO, entry: TensorEntry, start: int, change: Change, order: Order
) -> None:
    if change.replaces_ids:
        position_of = np.argsort(order)
        kind = np.dtype("<i8" if entry.dtype == "I64" else "<i4")
        for block in blocks(stream, start, start + entry.num_bytes):
            ids = np.frombuffer(block, kind)
            known = (ids >= 0) & (ids < len(order))
            target.write(np.where(known, position_of[np.where(known, ids, 0)], ids).astype(kind).tobytes())
    elif change.axis == 0:
        row = entry.num_bytes // len(order)
        for expert in order.tolist():
            target.writelines(blocks(stream, start + expert * row, start + (expert + 1) * row))
    else:
        assert change.axis is not None
        outer = int(np.prod(entry.shape[: change.axis]))
        span = entry.num_bytes // outer  # bytes of one slice along the axes before the experts'
        step = max(1, _BLOCK // span)
        for first in range(0, outer, step):
            count = min(step, outer - first)
            data = b"".join(blocks(stream, start + first * span, start + (first + count) * span))
            slices = np.frombuffer(data, np.uint8).reshape(count, len(order), -1)
            target.write(slices[:, order].tobytes())


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
