"""Permute: gathering token rows into expert order and adding them back, and gathering rows of a table of tiny experts.

`rows` of `hidden` elements are moved; a gather reads and writes each row once, a scatter
clears the target, then reads each row and adds it to one of the target's.
"""

from collections.abc import Iterator
from typing import Any

import torch

from calibrate.machine import Machine
from calibrate.timing import Operation, ProbeFailed, buffer_sets

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# (rows, hidden, table rows): tokens x top-k of serving and training; a PEER table of single-neuron experts
_TOKENS = ((1024, 2880), (8192, 2048), (32768, 4096), (32768, 7168))
_QUICK = ((1024, 2048),)
_PEER_ROWS, _PEER_HIDDEN = 65536, 1024


def unable(machine: Machine) -> str | None:
    """Runs everywhere."""
    return None


def cases(machine: Machine, effort: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Gather and scatter by model width; in full also a gather from 2^18 and 2^20 experts of one neuron."""
    common = {"hardware": machine.hardware, "dtype": "bf16"}
    for rows, hidden in _TOKENS if effort == "full" else _QUICK:
        for direction in ("gather", "scatter"):
            yield "permute", {**common, "direction": direction, "rows": rows, "hidden": hidden, "table_rows": rows}
    if effort == "full":
        for table in (2**18, 2**20):
            peer = {"direction": "gather", "rows": _PEER_ROWS, "hidden": _PEER_HIDDEN, "table_rows": table}
            yield "permute", {**common, **peer}


def prepare(machine: Machine, params: dict[str, Any]) -> Operation:
    """Row indices are a seeded permutation, or seeded draws where the table is larger than the rows moved."""
    rows, hidden, table_rows = (int(params[key]) for key in ("rows", "hidden", "table_rows"))
    dtype = _DTYPES[params["dtype"]]
    row_bytes = hidden * dtype.itemsize
    if (table_rows + rows) * row_bytes > machine.free_bytes() // 2:
        raise MemoryError(f"{(table_rows + rows) * row_bytes} bytes needed, {machine.free_bytes()} free")
    random = torch.Generator().manual_seed(0)
    draw = torch.randperm(rows, generator=random) if rows == table_rows else None
    index = (torch.randint(table_rows, (rows,), generator=random) if draw is None else draw).to(machine.device)
    table = torch.arange(table_rows, device=machine.device).remainder(251).to(dtype)[:, None].repeat(1, hidden)
    count = buffer_sets(machine, rows * row_bytes, room=0.2)
    outputs = [torch.full((rows, hidden), torch.nan, dtype=dtype, device=machine.device) for _ in range(count)]
    done: set[int] = set()

    def gather(i: int) -> None:
        torch.index_select(table, 0, index, out=outputs[i % count])
        done.add(i % count)

    def scatter(i: int) -> None:
        outputs[i % count].zero_().index_add_(0, index, table)
        done.add(i % count)

    def check() -> None:
        expected = (
            table[index] if params["direction"] == "gather" else torch.zeros_like(table).index_add_(0, index, table)
        )
        for i in done:
            if not torch.equal(outputs[i], expected):
                raise ProbeFailed(f"{params['direction']} of {rows} rows gave wrong rows")

    return Operation(gather if params["direction"] == "gather" else scatter, check)
