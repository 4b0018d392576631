"""Time of counting traffic, and balancedness and time of the load-aware strategies.

Run `python benchmarks/traffic.py` (or with `--smoke` for a second's worth of the same). Compilation is not timed.
Counting: 1,000,000 tokens x 128 ids of 1,048,576 experts on 1024 devices of 8 a node, target <= 6 s and < 2 GB beyond
the input on 2 cores; GB/s is the input's bytes over the time, beside the time numpy takes to add the same ids up.
Placement: 58 layers x 256 experts, Zipf 1.0 and lognormal sigma 1 loads; balancedness = mean / max device load, even
split.
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moesim.placement import ExpertPlacement
from moesim.planner import PlacementProblem, place
from moesim.traffic import count_traffic

STRATEGIES = ("longest_first", "eplb_global", "eplb_hierarchical")
REPEATS = 3
SMALL = PlacementProblem(np.ones((1, 8)), num_devices=4, devices_per_node=2, num_slots=16, num_groups=2)


def best_s(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def resident_bytes() -> int:
    """Memory this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_bytes() -> int:
    """The most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def time_counting(tokens: int, top_k: int, experts: int, devices: int) -> None:
    """Print one line on count_traffic."""
    rng = np.random.default_rng(0)
    ids_TK = rng.integers(0, experts, (tokens, top_k), dtype=np.int32)
    source_T = rng.integers(0, devices, tokens, dtype=np.int32)
    device_E = rng.integers(0, devices, experts, dtype=np.int32)
    warm_tokens = min(tokens, (3 << 20) // top_k)  # enough for the threaded kernel to be compiled
    count_traffic(ids_TK[:1], source_T[:1], device_E, devices, 8)
    count_traffic(ids_TK[:warm_tokens], source_T[:warm_tokens], device_E, devices, 8)
    sum_s = best_s(ids_TK.sum, REPEATS)
    before = resident_bytes()
    seconds = best_s(lambda: count_traffic(ids_TK, source_T, device_E, devices, 8), REPEATS)
    beyond = max(0, peak_bytes() - before)
    print(
        f"count_traffic {tokens} tokens x {top_k}, {experts} experts, {devices} devices: {seconds:.3f} s, "
        f"{ids_TK.nbytes / seconds / 1e9:.3f} GB/s, {seconds / sum_s:.1f} x expert_ids.sum() ({sum_s:.3f} s), "
        f"{beyond / 1e6:.0f} MB beyond the input"
    )


def balancedness(load_LE: NDArray[np.float64], placements: tuple[ExpertPlacement, ...]) -> float:
    """Mean over layers of mean / max device load, each expert's load split evenly over its copies."""
    ratios = []
    for load_E, placement in zip(load_LE, placements, strict=True):
        share_P = (load_E / placement.replicas_E)[placement.expert_of_slot_P]
        load_D = np.bincount(placement.device_of_slot_P, share_P, minlength=placement.num_devices)
        ratios.append(load_D.mean() / load_D.max())
    return float(np.mean(ratios))


def print_strategies(layers: int, experts: int) -> None:
    """Print a line for each load, slots and strategy: balancedness, same-device duplicates a layer, time of all layers."""
    rng = np.random.default_rng(0)
    zipf_LE = np.stack([rng.permutation(1e6 / np.arange(1, experts + 1)) for _ in range(layers)])
    for name, load_LE in (("zipf 1.0", zipf_LE), ("lognormal 1", rng.lognormal(0, 1, (layers, experts)) * 1e4)):
        for slots, devices in ((288, 32), (320, 64)):
            problem = PlacementProblem(load_LE, devices, 8, slots, num_groups=8)
            for strategy in STRATEGIES:
                print_strategy(f"{name:11} {slots} slots {devices} devices", strategy, problem, REPEATS)


def print_large_layer(experts: int, devices: int) -> None:
    """Print a line for each strategy on one layer of very many experts with an eighth more slots."""
    load_LE = np.random.default_rng(0).lognormal(0, 1, (1, experts))
    problem = PlacementProblem(load_LE, devices, 8, experts + experts // 8)
    for strategy in STRATEGIES[:2]:
        print_strategy(f"{experts} experts {devices} devices", strategy, problem, repeats=1)


def print_strategy(label: str, strategy: str, problem: PlacementProblem, repeats: int) -> None:
    """Print one line on one strategy."""
    place(strategy, SMALL)  # compiles it
    milliseconds = 1e3 * best_s(lambda: place(strategy, problem), repeats)
    placements = place(strategy, problem).placements
    duplicates = sum(placement.same_device_duplicates for placement in placements) / len(placements)
    even = balancedness(problem.load_LE, placements)
    print(f"{label}  {strategy:17} {even:.6f}  {duplicates:.1f} duplicates a layer  {milliseconds:.1f} ms")


def main() -> None:
    """Run everything, or a small part of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it runs")
    if parser.parse_args().smoke:
        time_counting(tokens=2_000, top_k=16, experts=4096, devices=64)
        print_strategies(layers=2, experts=256)
        print_large_layer(experts=4096, devices=64)
        return
    time_counting(tokens=1_000_000, top_k=128, experts=1 << 20, devices=1024)
    print_strategies(layers=58, experts=256)
    for experts in (1 << 16, 1 << 20):
        print_large_layer(experts, devices=1024)


if __name__ == "__main__":
    main()
