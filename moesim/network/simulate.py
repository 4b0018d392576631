"""simulate_flows: when do flows end that start together and share links max-min fairly?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.network.bound import link_busy_s, path_sums
from moesim.network.flow import Paths, amounts
from moesim.network.fluid import run_to_end, start
from moesim.network.maxmin import check_simple
from moesim.network.running import Running, new_running


@dataclass(frozen=True, slots=True)
class FlowTimes:
    """When flows end, and how far that can be from the exact answer.

    finish_s: float64 [F]. completion_s: the last of them, 0 without flows. solves: how often rates were shared anew.
    error_bound: max(T, UB) / LB - 1 for completion T and the bounds of bound.py: neither T nor the exact completion lies
    outside LB..(1 + error_bound) LB. backward_error: the largest relative change of one flow's bytes after which the
    answer is exact. Both are guaranteed, and 0 where the answer is exact up to rounding.
    """

    finish_s: NDArray[np.float64]
    completion_s: float
    error_bound: float
    backward_error: float
    solves: int


def simulate_flows(
    link_bandwidth: Any,
    path_offsets: Any,
    path_links: Any,
    flow_bytes: Any,
    *,
    weight: Any = None,
    tolerance: float = 0.0,
) -> FlowTimes:
    """Finish times of flows that all start at 0, without latency, at weighted max-min fair rates.

    link_bandwidth: bytes/s [links], > 0. path_offsets [F + 1], path_links: the links each flow crosses (CSR), each at
    most once; an empty path takes no time. flow_bytes: [F] >= 0. weight: [F] > 0, or None for all 1. tolerance: 0 is
    exact; e > 0 merges completions closer than e x the lower bound (largest load / bandwidth of a link), which needs
    about 1 / e solves instead of one per completion. Raises InputError for anything else.

    >>> times = simulate_flows([10.0, 2.0], [0, 1, 3], [0, 0, 1], [40.0, 20.0])
    >>> times.finish_s.tolist(), times.completion_s
    ([5.0, 10.0], 10.0)
    """
    bandwidth = amounts("link bandwidth", link_bandwidth, positive=True)
    paths = Paths(path_offsets, path_links)
    paths.check_links(len(bandwidth))
    check_simple(paths)
    size = _one_each("flow bytes", amounts("flow bytes", flow_bytes), paths)
    share = np.ones(paths.num_flows)
    if weight is not None:
        share = _one_each("flow weight", amounts("flow weight", weight, positive=True), paths)
    if isinstance(tolerance, bool) or not 0.0 <= tolerance <= 1.0:
        raise InputError(f"tolerance is {tolerance}, outside 0..1")
    if tolerance == 0.0:
        run = run_flows(bandwidth, paths, size, share)
        return _times(run, 0.0)
    busy = link_busy_s(paths, size, bandwidth)
    lower = float(busy.max(initial=0.0))
    upper = float((path_sums(paths, busy) * (size > 0.0)).max(initial=0.0))
    run = run_flows(bandwidth, paths, size, share, window=tolerance * lower, floor_s=busy)
    completion = float(run.flow["finish"].max())
    return _times(run, max(completion, upper) / min(completion, lower) - 1.0 if completion > 0.0 else 0.0)


def run_flows(
    bandwidth: NDArray[np.float64],
    paths: Paths,
    size: NDArray[np.float64],
    weight: NDArray[np.float64],
    *,
    window: float = 0.0,
    floor_s: NDArray[np.float64] | None = None,
) -> Running:
    """The fluid run of flows that start together, to its end; checked input only."""
    if len(weight) and (weight == weight[0]).all():
        weight = np.ones(len(weight))  # equal weights are the same as weight 1, and sums of 1 are exact
    run = new_running(bandwidth, paths.offsets, paths.links, size, weight, floor_s)
    moving = np.flatnonzero((size > 0.0) & (np.diff(paths.offsets) > 0)).astype(np.int32)
    run.flow["finish"] = 0.0
    if len(moving):
        start(run, moving, len(moving), 0.0)
        run_to_end(run, window)
    return run


def _one_each(name: str, vector: NDArray[np.float64], paths: Paths) -> NDArray[np.float64]:
    if len(vector) != paths.num_flows:
        raise InputError(f"{name} has {len(vector)} entries for {paths.num_flows} flows")
    return vector


def _times(run: Running, error_bound: float) -> FlowTimes:
    return FlowTimes(
        finish_s=run.flow["finish"][:-1].copy(),
        completion_s=float(run.flow["finish"].max()),
        error_bound=error_bound,
        backward_error=float(run.run["backward_error"][0]),
        solves=int(run.run["solves"][0]),
    )
