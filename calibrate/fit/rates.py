"""Fit the plain rates of a device: memory copy, gathering of rows, launch; fractions of the datasheet's memory rate."""

from collections.abc import Sequence

import numpy as np

from calibrate.measurement import Measurement
from moesim.calibration_curves import Figure
from moesim.cluster import Accelerator
from moesim.model import dtype_bytes

_LARGE = 2**26  # bytes from which a copy no longer fits caches
_TRAFFIC_PER_BYTE = 2.0  # a copy, like a permutation, reads and writes every byte


def copy_fractions(measurements: Sequence[Measurement], accelerator: Accelerator) -> dict[str, Figure]:
    """`memory_fraction` from copies and `permute_fraction` from permutations of 64 MiB or more; nothing without them."""
    found = {}
    for operation, name in (("copy", "memory_fraction"), ("permute", "permute_fraction")):
        rows = [m for m in measurements if m.operation == operation and _bytes(m) >= _LARGE]
        if not rows:
            continue
        rate = np.array([_TRAFFIC_PER_BYTE * _bytes(row) / row.time_s for row in rows])
        fraction = rate / accelerator.memory_bytes_per_s
        found[name] = Figure(
            value=float(f"{np.median(fraction):.6g}"),
            kind="measured",
            source="; ".join(sorted({row.source for row in rows})),
            fit_error=float(np.median(np.abs(fraction / np.median(fraction) - 1.0))),
            measurements=tuple(row.id for row in rows),
        )
    return found


def _bytes(measurement: Measurement) -> float:
    """Bytes of the buffer a copy or a permutation moves."""
    params = measurement.params
    if "bytes" in params:
        return float(params["bytes"])
    if "rows" in params and "hidden" in params:
        return float(params["rows"]) * float(params["hidden"]) * dtype_bytes(str(params.get("dtype", "bf16")))
    return 0.0


def launch_seconds(measurements: Sequence[Measurement]) -> dict[str, Figure]:
    """`launch_s`: the median of measured launches; nothing without them."""
    rows = [m for m in measurements if m.operation == "launch" and not m.params.get("graph")]
    if not rows:
        return {}
    return {
        "launch_s": Figure(
            value=float(f"{np.median([row.time_s / row.params.get('calls', 1) for row in rows]):.6g}"),
            kind="measured",
            source="; ".join(sorted({row.source for row in rows})),
            measurements=tuple(row.id for row in rows),
        )
    }
