"""Overlap: an all-to-all beside a matrix product, and what each takes alone; what SMs (or cores) they share shows.

Each row is one `part`: both together, or one of them alone; together minus the longer one is what was not hidden.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from calibrate.blocks import check_received, poisoned, send_buffer
from calibrate.machine import Machine
from calibrate.timing import Operation


def unable(machine: Machine) -> str | None:
    """Needs two ranks or more."""
    return None if machine.ranks > 1 else "an overlap needs at least 2 ranks; start with torchrun --nproc-per-node N"


def cases(machine: Machine, effort: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Message and matrix sizes, each pair as `both`, `all_to_all` alone and `gemm` alone."""
    widths = (2048, 8192) if machine.is_gpu else (512,)
    for power in (20, 26) if effort == "full" else (16,):
        for width in widths:
            for part in ("both", "all_to_all", "gemm"):
                size = 2**power // machine.ranks * machine.ranks
                yield "overlap", {**machine.places, "bytes_per_rank": size, "gemm_width": width, "part": part}


def prepare(machine: Machine, params: dict[str, Any]) -> Operation:
    """The all-to-all is started asynchronously, the product runs, then both are waited for."""
    size, width, part = int(params["bytes_per_rank"]), int(params["gemm_width"]), params["part"]
    blocks = [size // machine.ranks] * machine.ranks
    source, target = send_buffer(machine, blocks), poisoned(machine, size)
    random = torch.Generator(device=machine.device).manual_seed(0)
    left = torch.randn(width, width, generator=random, device=machine.device, dtype=torch.bfloat16)
    product = torch.empty_like(left)

    def run(_: int) -> None:
        work = dist.all_to_all_single(target, source, async_op=True) if part != "gemm" else None
        if part != "all_to_all":
            torch.matmul(left, left, out=product)
        if work is not None:
            work.wait()

    def check() -> None:
        if part != "gemm":
            check_received(machine, target, blocks, "all-to-all beside a product")

    return Operation(run, check)
