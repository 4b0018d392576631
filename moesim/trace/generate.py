"""Generation of trace files: a synthetic router's choices streamed into the Parquet store, block by block.

Array letters: W row of the file, T token, K top-k.
"""

import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import get_num_threads
from pydantic import ValidationError

from moesim.errors import InputError
from moesim.model import MoEModel
from moesim.routing import TraceInfo
from moesim.trace.rows import TokenRows, TraceRows
from moesim.trace.step_statistics import SAME_TOKENS
from moesim.trace.store import write_trace
from moesim.trace.synthetic import Parameter, SyntheticRouter, make_router, router_parameters
from moesim.trace.token_batches import BLOCK_TOKENS, TokenDeal

_MOST_IDS_PER_BLOCK = 2**24  # 64 MiB
_LEAST_ROWS = 2**16  # written at once, where there are as many
_BYTES_PER_ROW = 22  # all columns but the experts, before compression


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceShape:
    """Size of a trace to generate; `top_k` counts the ids of one head, a token has heads x top_k."""

    num_experts: int
    top_k: int
    layers: tuple[int, ...] = (0,)  # model layer indices
    heads: int = 1
    model: str | None = None


def shape_of(
    model: MoEModel | None,
    *,
    num_experts: int | None = None,
    top_k: int | None = None,
    heads: int | None = None,
    num_layers: int | None = None,
) -> TraceShape:
    """The shape of `model`'s routing, what is given in its place; without a model experts and top_k must be given."""
    if model is not None:
        heads = model.moe.heads if heads is None else heads
        indices = model.moe_layer_indices
        num_layers = len(indices) if num_layers is None else num_layers
        if not 1 <= num_layers <= len(indices):
            raise InputError(f"layers={num_layers} must be 1..{len(indices)}, the MoE layers of {model.name}")
        num_experts = model.num_experts if num_experts is None else num_experts
        top_k = max(1, model.top_k // max(1, heads)) if top_k is None else top_k
        is_the_models = (num_experts, top_k * heads) == (model.num_experts, model.top_k)
        return TraceShape(
            num_experts=num_experts,
            top_k=top_k,
            layers=indices[:num_layers],
            heads=heads,
            model=model.name if is_the_models else None,
        )
    if num_experts is None or top_k is None:
        raise InputError("the number of experts and top-k are needed; give --experts and --topk, or --model")
    count = 1 if num_layers is None else num_layers
    if not 1 <= count <= 2**15:
        raise InputError(f"layers={count} must be 1..{2**15}")
    return TraceShape(
        num_experts=num_experts, top_k=top_k, layers=tuple(range(count)), heads=1 if heads is None else heads
    )


def generate_trace(
    out: str | Path,
    *,
    router: str,
    shape: TraceShape,
    num_tokens: int,
    num_ranks: int = 1,
    num_steps: int = 1,
    repeat_tokens: bool = False,
    seed: int = 0,
    parameters: dict[str, Parameter] | None = None,
    block_tokens: int = BLOCK_TOKENS,
) -> dict[str, Any]:
    """Route `num_tokens` tokens and write them to the Parquet file `out`; {out, rows, tokens}.

    Tokens are spread over steps and ranks as evenly as can be. `repeat_tokens`: every step routes the same tokens, as
    when one looks at a router during its training. Memory is bounded by the block, which groups of tokens do not cross.
    Raises InputError, before anything is written, for sizes that cannot be and for too full a disk.
    """
    path, given = Path(out), dict(parameters or {})
    _check_sizes(num_tokens, num_ranks, num_steps, shape, repeat_tokens)
    if shape.heads > 1 or "heads" in router_parameters(router):
        given["heads"] = shape.heads
    info = _info(router, shape, num_tokens, num_ranks, num_steps, seed, given, repeat_tokens)
    _check_disk(path, info)
    made = make_router(
        router,
        num_layers=len(shape.layers),
        num_experts=shape.num_experts,
        top_k=shape.top_k * shape.heads,
        seed=seed,
        parameters=given,
    )
    deal = TokenDeal(
        num_tokens=num_tokens,
        num_steps=num_steps,
        num_ranks=num_ranks,
        sequence_tokens=made.knobs.sequence_tokens,
        repeated=repeat_tokens,
    )
    block_tokens = max(1, min(block_tokens, _MOST_IDS_PER_BLOCK // info.top_k))
    num_rows = write_trace(TraceRows(info, _merged(_rows(made, deal, shape.layers, block_tokens))), path)
    return {"out": str(out), "rows": num_rows, "tokens": num_tokens}


def _check_sizes(num_tokens: int, num_ranks: int, num_steps: int, shape: TraceShape, repeat_tokens: bool) -> None:
    sizes = {"tokens": num_tokens, "ranks": num_ranks, "steps": num_steps, "experts": shape.num_experts}
    for name, value in {**sizes, "top_k": shape.top_k, "heads": shape.heads}.items():
        if value < 1:
            raise InputError(f"{name} must be >= 1, got {value}")
    if num_ranks * num_steps > num_tokens:
        raise InputError(
            f"tokens={num_tokens} are fewer than ranks x steps = {num_ranks} x {num_steps}; give each rank one a step"
        )
    if shape.heads * shape.top_k > shape.num_experts:
        raise InputError(
            f"heads x top_k = {shape.heads} x {shape.top_k} = {shape.heads * shape.top_k} is more than experts="
            f"{shape.num_experts}; take more experts or fewer heads"
        )
    if repeat_tokens and num_tokens % num_steps:
        raise InputError(f"steps={num_steps} must divide tokens={num_tokens} where every step routes the same tokens")


def _info(
    router: str,
    shape: TraceShape,
    num_tokens: int,
    num_ranks: int,
    num_steps: int,
    seed: int,
    given: dict[str, Parameter],
    repeat_tokens: bool,
) -> TraceInfo:
    told = "".join(f", {name}={_short(given[name])}" for name in sorted(given))
    try:
        return TraceInfo(
            level="token",
            model=shape.model,
            num_experts=shape.num_experts,
            top_k=shape.top_k * shape.heads,
            layers=shape.layers,
            num_tokens=num_tokens,
            num_ranks=num_ranks,
            num_steps=num_steps,
            has_sequences=True,
            origin=f"synthetic router {router}, seed {seed}{told}",
            recorder="moesim trace generate",
            seed=seed,
            notes=(SAME_TOKENS,) if repeat_tokens else (),
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"])) or "sizes"
        raise InputError(
            f"a trace of this size cannot be: {name}: {first['msg']}, got {str(first['input'])[:80]}"
        ) from None


def _check_disk(path: Path, info: TraceInfo) -> None:
    """Refuse a trace whose rows, before compression, are more than the disk has room for."""
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to write {path.name} into; make it first")
    needed = info.num_tokens * info.num_layers * (4 * info.top_k + _BYTES_PER_ROW)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise InputError(
            f"{info.num_tokens} tokens x {info.num_layers} layers x {info.top_k} experts may take {needed / 1e9:.4g} GB, "
            f"but {path.parent} has {free / 1e9:.4g} GB free; generate fewer tokens or write elsewhere"
        )


def _rows(made: SyntheticRouter, deal: TokenDeal, layers: tuple[int, ...], block_tokens: int) -> Iterator[TokenRows]:
    """Rows in the file's order; a few blocks are routed ahead on threads, which changes nothing but the time."""
    work = (
        (step, ordinal, span)
        for step in range(deal.num_steps)
        for ordinal in range(len(layers))
        for span in deal.blocks(step, block_tokens)
    )

    def route(step: int, ordinal: int, span: tuple[int, int]) -> TokenRows:
        batch = deal.batch(step, *span)
        return TokenRows(
            np.full(len(batch), step, np.int32),
            np.full(len(batch), layers[ordinal], np.int16),
            deal.ranks(step, *span),
            np.arange(*span) + deal.first_token(step),
            made.routes[ordinal](batch),
            None,
            batch.sequence_T.astype(np.int32),
        )

    with ThreadPoolExecutor(get_num_threads()) as threads:
        ahead: deque[Future[TokenRows]] = deque()
        for item in work:
            ahead.append(threads.submit(route, *item))
            if len(ahead) > get_num_threads():
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _merged(blocks: Iterator[TokenRows]) -> Iterator[TokenRows]:
    """The same rows in fewer, larger batches: each becomes a row group of the file."""
    held: list[TokenRows] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) >= _LEAST_ROWS:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(blocks: list[TokenRows]) -> TokenRows:
    if len(blocks) == 1:
        return blocks[0]
    return TokenRows(
        np.concatenate([block.step_W for block in blocks]),
        np.concatenate([block.layer_W for block in blocks]),
        np.concatenate([block.rank_W for block in blocks]),
        np.concatenate([block.token_W for block in blocks]),
        np.concatenate([block.experts_WK for block in blocks]),
        None,
        np.concatenate([block.sequence_W for block in blocks if block.sequence_W is not None]),
    )


def _short(value: Parameter) -> Parameter:
    """Whole floats, as a command line gives them, without their point."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
