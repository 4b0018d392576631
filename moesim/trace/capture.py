"""Capture of routing from a running Hugging Face model: hooks that note which experts every token was sent to.

In transformers 5 every MoE block hands its experts module (name ends in `.experts`, class in `Experts`) the hidden
states, the indices [T, K] and the weights [T, K]: that is what is noted. Where a family does otherwise, its router's
output is read instead (`_ROUTERS`). Needs torch, and transformers for `capture_text`: the extra `capture`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from moesim.errors import InputError
from moesim.trace.captured import CapturedRouting

_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
_LAYER_WORDS = ("layers", "layer", "h", "blocks", "block")
# Router class -> where its output holds the logits; the experts chosen are the top-k of them.
_ROUTERS = {"Llama4Router": 1, "JetMoeTopKGating": 4}
_MOST_TEXT_BYTES = 2**30


@contextmanager
def capture(model: Any, *, name: str | None = None, origin: str = "") -> Iterator[CapturedRouting]:
    """Note the routing of every forward pass of `model` while the context lasts; then `.write(path)` the result.

    `name` is the model's name in moesim (for the trace's header), `origin` what text it ran on. One sequence per batch
    row; a pass of one token a row goes on with the sequences of the pass before it. Tokens with attention_mask 0 are
    padding. Raises InputError when the model has no MoE layer this program knows, or is an encoder and a decoder.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise InputError(
            f"{type(model).__name__} has an encoder and a decoder, which run on different tokens; a trace has one "
            f"row of tokens for all layers, so such a model cannot be captured"
        )
    sources = _sources(model)
    if not sources:
        raise InputError(
            f"{type(model).__name__} has no module that this program knows to choose experts; it looks for modules "
            f"called `experts` of a class ...Experts (transformers 5), and for {', '.join(_ROUTERS)}"
        )
    captured = CapturedRouting(tuple(sorted(sources)), _num_experts(model), name, origin or type(model).__name__)
    handles = [model.register_forward_pre_hook(_token_hook(captured), with_kwargs=True)]
    for layer, (module, logits_at) in sorted(sources.items()):
        if logits_at is None:
            handles.append(module.register_forward_pre_hook(_experts_hook(captured, layer), with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(_router_hook(captured, layer, logits_at, _top_k(model))))
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def capture_text(
    folder: str | Path, text: str | Path, out: str | Path, *, name: str | None = None, most_tokens: int, length: int
) -> dict[str, Any]:
    """Run the Hugging Face model in `folder` over a text file and write its routing to `out`; {out, rows, tokens}.

    The text is cut into sequences of `length` tokens, at most `most_tokens` in all. Only safetensors weights are loaded,
    and no code that the folder brings is run. Raises InputError.
    """
    folder, text = Path(folder), Path(text)
    if length < 1 or most_tokens < 1:
        raise InputError(f"tokens and sequence length must be at least 1, got {most_tokens} and {length}")
    if not text.is_file() or text.stat().st_size > _MOST_TEXT_BYTES:
        raise InputError(f"{text} must be a text file of at most {_MOST_TEXT_BYTES} bytes")
    torch, model, tokenizer = _load(folder)
    ids = tokenizer(text.read_text(encoding="utf-8", errors="replace"), return_tensors="pt").input_ids[:, :most_tokens]
    if not ids.shape[1]:
        raise InputError(f"{text} holds no token")
    with capture(model, name=name, origin=f"{folder.name} on {text.name}") as captured, torch.no_grad():
        for start in range(0, ids.shape[1], length):
            model(ids[:, start : start + length], use_cache=False)
    return captured.write(out)


def _load(folder: Path) -> tuple[Any, Any, Any]:
    try:
        import torch
        import transformers
        from safetensors import SafetensorError
    except ModuleNotFoundError as error:
        raise InputError(f"capture needs {error.name}: pip install 'moesim[capture]'") from None
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is no folder of a Hugging Face model: it has no config.json")
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, dtype="auto", **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot load the model in {folder}: {str(error).splitlines()[0][:200]}") from None
    return torch, model.eval(), tokenizer


def _sources(model: Any) -> dict[int, tuple[Any, int | None]]:
    """Model layer index -> (module to listen to, place of the logits in its output; None: indices among its inputs)."""
    found: dict[int, tuple[Any, int | None]] = {}
    for name, module in model.named_modules():
        layer = _layer(name)
        kind = type(module).__name__
        if layer is None or "attn" in name or "attention" in name:
            continue
        if kind in _ROUTERS:
            found[layer] = (module, _ROUTERS[kind])
        elif name.endswith(".experts") and kind.endswith("Experts"):
            found.setdefault(layer, (module, None))
    return found


def _layer(name: str) -> int | None:
    words = name.split(".")
    return next(
        (int(after) for word, after in pairwise(words) if word in _LAYER_WORDS and after.isdecimal()),
        None,
    )


def _config(model: Any) -> Any:
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _num_experts(model: Any) -> int:
    config = _config(model)
    for part, key in product((config, getattr(config, "ffn_config", None)), _EXPERT_COUNTS):  # the latter: DBRX
        value = getattr(part, key, None)
        if isinstance(value, list | tuple) and value:
            value = max(value)
        if isinstance(value, int) and value > 0:
            return value
    raise InputError(f"the config of {type(model).__name__} names no number of experts ({', '.join(_EXPERT_COUNTS)})")


def _top_k(model: Any) -> int:
    return int(getattr(_config(model), "num_experts_per_tok", 1))


def _token_hook(captured: CapturedRouting) -> Any:
    def note(_module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        tokens = named.get("input_ids", inputs[0] if inputs else None)
        tokens = named.get("inputs_embeds") if tokens is None else tokens
        if tokens is None:
            raise InputError("capture needs input_ids or inputs_embeds, to know how many tokens a pass has")
        rows, width = int(tokens.shape[0]), int(tokens.shape[1])
        mask = named.get("attention_mask")
        kept = np.ones((rows, width), bool)
        if mask is not None and mask.dim() == 2:
            kept = mask[:, -width:].cpu().numpy().astype(bool)
        first = captured.sequences[-1].max() + 1 if captured.sequences else 0
        if width == 1 and captured.sequences and len(np.unique(captured.sequences[-1])) == rows:
            first -= rows  # one more token of each sequence of the pass before
        sequence = first + np.repeat(np.arange(rows, dtype=np.int32), width)
        captured.kept.append(kept.reshape(-1))
        captured.sequences.append(sequence.astype(np.int32))

    return note


def _experts_hook(captured: CapturedRouting, layer: int) -> Any:
    def note(module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        tensors = [value for value in (*inputs, *named.values()) if hasattr(value, "dim") and value.dim() == 2]
        ids = next((value for value in tensors if not value.is_floating_point()), None)
        if ids is None:
            raise InputError(f"layer {layer}: {type(module).__name__} was handed no table of expert indices")
        weights = [value for value in tensors if value.is_floating_point() and value.shape == ids.shape]
        _add(captured, layer, ids, weights[-1] if weights else None)

    return note


def _router_hook(captured: CapturedRouting, layer: int, logits_at: int, top_k: int) -> Any:
    def note(_module: Any, _inputs: tuple[Any, ...], output: Any) -> None:
        logits = output[logits_at].reshape(-1, output[logits_at].shape[-1])
        # What the family makes of the logits is not known here, so no gate weights are noted.
        _add(captured, layer, logits.float().topk(top_k, dim=-1).indices, None)

    return note


def _add(captured: CapturedRouting, layer: int, ids: Any, weights: Any) -> None:
    table = None if weights is None else weights.detach().float().cpu().numpy()
    captured.add(layer, ids.detach().cpu().numpy(), table)
