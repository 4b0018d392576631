"""nccl-tests: the matrix of alltoallv_perf, bytes from every rank to every rank, to measure what was predicted.

Array letters: D rank.
"""

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.exporters.export import Check, Export, ExportRequest
from moesim.units import format_time

ALIGNMENT = 16  # bytes: every entry is a multiple
_MOST_RANKS = 1 << 13


def export(request: ExportRequest) -> Export:
    """Options: layer=INDEX (model layer index, default the one whose fullest rank moves most), operation=dispatch|combine.

    Entries are the mean over the scenario's steps, rounded up; with relays (node_dedup) both legs are in one matrix.
    """
    site, layers = request.need_site(), request.plan.layers
    operation = request.option("operation", "dispatch")
    if operation not in ("dispatch", "combine"):
        raise InputError(f"nccl-alltoallv: option operation={operation[:40]!r} is neither dispatch nor combine")
    if site.cluster.num_devices > _MOST_RANKS:
        raise InputError(
            f"nccl-alltoallv: {site.cluster.num_devices} ranks make a matrix of too much text; take {_MOST_RANKS}"
        )
    asked = request.option("layer")
    layer = request.number("layer", 0) if asked else _fullest(request, operation)
    if layer not in layers:
        raise InputError(
            f"nccl-alltoallv: layer={layer} is no MoE layer of the plan; they are {layers[0]} to {layers[-1]}"
        )
    traffic = site.traffic(layers.index(layer))
    mean_DD = traffic.dispatch_DD if operation == "dispatch" else traffic.combine_DD
    bytes_DD = (np.ceil(mean_DD / ALIGNMENT) * ALIGNMENT).astype(np.int64)
    content = "".join(" ".join(map(str, row)) + "\n" for row in bytes_DD.tolist()).encode()
    size = _buffer_bytes(bytes_DD)
    seconds = traffic.dispatch_s if operation == "dispatch" else traffic.combine_s
    return Export(
        files={request.out.name: content},
        launch_flags=(
            f"NCCL_TESTS_ALLTOALLV_MATRIX_FILE={request.out}",
            f"alltoallv_perf -b {size} -e {size} -g 1",
            f"ranks {len(bytes_DD)}",
        ),
        checks=_checks(content, mean_DD, size),
        notes=(
            f"{operation} of model layer {layer}: {int(bytes_DD.sum())} bytes; the closed form predicts "
            f"{format_time(seconds)} with the scenario's communication kernel",
        ),
    )


def _fullest(request: ExportRequest, operation: str) -> int:
    """Model layer index of the layer whose fullest rank sends or receives most."""
    site, layers = request.need_site(), request.plan.layers
    most = [_fullest_rank(getattr(site.traffic(ordinal), f"{operation}_DD")) for ordinal in range(len(layers))]
    return layers[int(np.argmax(most))]


def _fullest_rank(bytes_DD: NDArray[np.float64]) -> float:
    return float(max(bytes_DD.sum(axis=0).max(), bytes_DD.sum(axis=1).max()))


def _buffer_bytes(bytes_DD: NDArray[np.int64]) -> int:
    """At least the largest row or column total, whole blocks of ALIGNMENT for every peer."""
    block = ALIGNMENT * len(bytes_DD)
    largest = int(max(bytes_DD.sum(axis=0).max(), bytes_DD.sum(axis=1).max()))
    return max(-(-largest // block), 1) * block


def _checks(content: bytes, mean_DD: NDArray[np.float64], size: int) -> tuple[Check, ...]:
    rows = [line.split() for line in content.decode().splitlines()]
    square = {len(row) for row in rows} == {len(mean_DD)} and len(rows) == len(mean_DD)
    read_DD = np.array(rows, dtype=np.int64) if square else np.full((1, 1), -1)
    return (
        Check("the matrix is square, one row and column per rank", square),
        Check("entries are 0 or more", bool((read_DD >= 0).all())),
        Check("entries are multiples of 16 bytes", bool((read_DD % ALIGNMENT == 0).all())),
        Check("no entry is below the predicted traffic", bool((read_DD >= mean_DD).all())),
        Check(
            "the buffer holds every row and column",
            bool(max(read_DD.sum(axis=0).max(), read_DD.sum(axis=1).max()) <= size),
        ),
    )
