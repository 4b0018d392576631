"""The physical check of a measurement: wire bytes over datasheet link rates is a time that nothing can beat. Stdlib only.

Rates are one direction, bytes/s; a network counts with all cards of an 8-device node, whichever devices take part.
A measurement that beats its bound gets a flag in its params: it is kept, shown and not fitted.
"""

from collections.abc import Mapping
from typing import Any

from calibrate.wire_bytes import all_to_all_wire_bytes, copy_bytes, distinct_ranks, remote_bytes

# (scale-up, network card) per device. Sources: jax-ml scaling book, GPUs (A100 to B200); arXiv 2505.09343 (H800);
# docs.nvidia.com DGX GB200; aiconfigurator-core 0.12.0 systems (B300, GB300); AMD data sheets by way of a public
# chip catalogue (MI300X 7 x 64 GB/s, MI355X 7 x 76.8 GB/s). Where machines differ, the faster card stands here.
_RATES = {
    "a100-40-sxm": (300e9, 25e9),
    "a100-80-sxm": (300e9, 25e9),
    "h100-sxm": (450e9, 50e9),
    "h200-sxm": (450e9, 50e9),
    "h800-sxm": (200e9, 50e9),
    "b200-sxm": (900e9, 100e9),
    "b300-sxm": (900e9, 100e9),
    "gb200-nvl72": (900e9, 100e9),
    "gb300-nvl72": (900e9, 100e9),
    "mi300x": (448e9, 50e9),
    "mi355x": (537.6e9, 50e9),
}
_DEVICES_PER_NODE = 8
_ALLOWANCE = 1.02  # figures are printed with three digits


def fastest_time_s(operation: str, params: Mapping[str, Any]) -> float | None:
    """Seconds no run of this operation can beat; None where the table or the params do not say enough.

    all_reduce has no bound here: switches that add (SHARP) halve its bytes.
    """
    rates = _RATES.get(params.get("hardware", ""))
    ranks = params.get("ranks")
    if rates is None:
        return None
    scale_up, network = rates
    if operation == "point_to_point" and params.get("pair_class") == "scale_up":
        return float(params["bytes"] / scale_up)
    if not ranks or ranks < 2:
        return None
    nodes = int(params.get("nodes", 1))
    if operation in ("all_to_all", "all_gather", "reduce_scatter") and "bytes_per_rank" in params:
        size = float(params["bytes_per_rank"])
        inside = all_to_all_wire_bytes(size, int(ranks)) / (scale_up + network)
        if operation != "all_to_all" or nodes < 2:
            return inside
        cards = max(1.0, _DEVICES_PER_NODE * nodes / int(ranks))
        return max(inside, remote_bytes(size, nodes) / (network * cards))
    if operation in ("dispatch", "combine") and nodes == 1:
        return _dispatch_time(params, ranks, scale_up)
    return None


def _dispatch_time(params: Mapping[str, Any], ranks: int, scale_up: float) -> float | None:
    needed = ("tokens_per_rank", "hidden", "top_k", "experts", "dtype")
    if any(params.get(name) is None for name in needed) or str(params["dtype"])[:2] not in ("fp", "bf"):
        return None
    if params["experts"] < max(ranks, params["top_k"]) or params["dtype"] == "fp4":
        return None
    copies = params["tokens_per_rank"] * distinct_ranks(ranks, params["experts"], params["top_k"])
    payload = min(copy_bytes(params["hidden"], params["dtype"], header=False), params["hidden"] * 1.0)
    return float(all_to_all_wire_bytes(copies * payload, ranks) / scale_up)


def flag_of(operation: str, params: Mapping[str, Any], time_s: float) -> str | None:
    """Why this time contradicts physics, or None."""
    bound = fastest_time_s(operation, params)
    if bound is None or time_s * _ALLOWANCE >= bound:
        return None
    return f"faster than its links: {time_s * 1e6:.4g} us, they need {bound * 1e6:.4g} us"
