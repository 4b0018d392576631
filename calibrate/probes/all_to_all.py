"""All-to-all: equal blocks from 1 KiB to 256 MiB a rank, and uneven blocks as skewed experts make them.

`bytes_per_rank` is the send buffer of one rank, own block included (nccl-tests' `size`); of uneven cases the mean.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch.distributed as dist

from calibrate.blocks import check_received, poisoned, send_buffer
from calibrate.machine import Machine
from calibrate.timing import Operation, buffer_sets

_LARGEST_MATRIX = 64  # ranks whose whole matrix is written down; beyond that its seed says it


def unable(machine: Machine) -> str | None:
    """Needs two ranks or more."""
    return None if machine.ranks > 1 else "an all-to-all needs at least 2 ranks; start with torchrun --nproc-per-node N"


def cases(machine: Machine, effort: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sizes by powers of two, equal and then with receivers' shares that follow a power law."""
    largest = 28 if effort == "full" else 16
    for power in range(10, largest + 1, 1 if effort == "full" else 3):
        if 2**power >= machine.ranks:
            size = 2**power // machine.ranks * machine.ranks
            yield "all_to_all", {**machine.places, "bytes_per_rank": size, "dtype": "uint8", "distribution": "equal"}
    for power in range(14, largest + 1, 2):
        for exponent in (0.5, 1.0):
            yield "all_to_all", _uneven(machine, 2**power, exponent)


def _uneven(machine: Machine, mean_bytes: int, exponent: float) -> dict[str, Any]:
    params = {
        **machine.places,
        "bytes_per_rank": mean_bytes,
        "dtype": "uint8",
        "distribution": f"power_law:{exponent}",
        "seed": 0,
    }
    if machine.ranks <= _LARGEST_MATRIX:
        params["send_bytes"] = skewed_matrix(machine.ranks, mean_bytes, exponent, 0).tolist()
    return params


def skewed_matrix(ranks: int, mean_bytes: int, exponent: float, seed: int) -> np.ndarray:
    """Bytes from each rank (row) to each rank (column): each sender's shares are a shuffled power law of rank."""
    random = np.random.default_rng(seed)
    shares = np.arange(1, ranks + 1, dtype=np.float64) ** -exponent
    popular = random.permutation(ranks)
    rows = []
    for _ in range(ranks):
        noisy = shares[popular] * random.lognormal(0.0, 0.3, ranks)
        rows.append(np.floor(noisy / noisy.sum() * mean_bytes))
    return np.array(rows, dtype=np.int64)


def prepare(machine: Machine, params: dict[str, Any]) -> Operation:
    """Marked send buffers, poisoned receive buffers, rotated."""
    size = int(params["bytes_per_rank"])
    if params["distribution"] == "equal":
        matrix = np.full((machine.ranks, machine.ranks), size // machine.ranks, dtype=np.int64)
    else:
        exponent = float(str(params["distribution"]).split(":")[1])
        matrix = skewed_matrix(machine.ranks, size, exponent, int(params["seed"]))
    sent, received = matrix[machine.rank].tolist(), matrix[:, machine.rank].tolist()
    count = buffer_sets(machine, sum(sent) + sum(received))
    count = int(-machine.largest(-np.array([float(count)]))[0])
    sources = [send_buffer(machine, sent) for _ in range(count)]
    targets = [poisoned(machine, sum(received)) for _ in range(count)]
    done: set[int] = set()

    def run(i: int) -> None:
        if params["distribution"] == "equal":
            dist.all_to_all_single(targets[i % count], sources[i % count])
        else:
            dist.all_to_all_single(targets[i % count], sources[i % count], received, sent)
        done.add(i % count)

    def check() -> None:
        for i in done:
            check_received(machine, targets[i], received, "all-to-all")

    return Operation(run, check)
