"""Benchmark of whole steps: one decode step of DeepSeek-V3's shape, and how much of it is SimPy itself.

Run: python benchmarks/step.py [--smoke | --large]. Each case runs in a process of its own: once to compile, once timed,
once under cProfile, where the share of SimPy is the time inside its own functions. `--large` is 256 and 1024 ranks.
Processor seconds are those of all threads; on a machine that others use too they tell more than the clock.
"""

import argparse
import cProfile
import multiprocessing
import pstats
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import simpy

from moesim.scenario import Scenario, make_scenario
from moesim.study import simulate


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One decode step on DGX H100 nodes; `target_s` in processor seconds, None without one."""

    name: str
    nodes: int
    network: dict[str, object]
    algorithm: str = "node_dedup"
    model: str = "deepseek-v3"
    tokens_per_rank: int = 128
    target_s: float | None = None


BOUND: dict[str, object] = {"fidelity": "bound"}
MERGED: dict[str, object] = {"fidelity": "fluid", "tolerance": 0.02}
EXACT: dict[str, object] = {"fidelity": "fluid", "tolerance": 0.0}
CASES = (
    Case(name="64 ranks, bound", nodes=8, network=BOUND, target_s=2.0),
    Case(name="64 ranks, fluid, tolerance 0.02", nodes=8, network=MERGED, target_s=20.0),
    Case(name="64 ranks, fluid, exact", nodes=8, network=EXACT),
)
LARGE = (
    Case(name="1024 ranks, bound", nodes=128, network=BOUND, target_s=60.0),
    Case(name="256 ranks, fluid, exact", nodes=32, network=EXACT, target_s=60.0),
    Case(name="256 ranks, direct, tolerance 0.02", nodes=32, network=MERGED, algorithm="direct", target_s=300.0),
)
SMOKE = tuple(
    Case(name=f"8 ranks, {name}", nodes=1, network=network, model="deepseek-v2-lite", tokens_per_rank=8)
    for name, network in (("bound", BOUND), ("fluid, exact", EXACT))
)


def scenario(case: Case, *, nodes: int | None = None, model: str | None = None) -> Scenario:
    """58 MoE layers x 256 experts for DeepSeek-V3, zipf routing, FP8 dispatch; at least one expert slot a device."""
    return make_scenario(
        {
            "format_version": 1,
            "model": model or case.model,
            "cluster": {"topology": "dgx-h100-superpod", "nodes": nodes or case.nodes},
            "trace": {"router": "zipf", "tokens_per_rank": case.tokens_per_rank, "steps": "0:1", "seed": 0},
            "placement": {"strategy": "contiguous", "slots": max(256, 8 * case.nodes)},
            "dispatch": {"algorithm": case.algorithm, "dtype": "fp8"},
            "network": case.network,
            "mode": {"kind": "decode", "context_length": 4096},
        }
    )


def simpy_share(case: Scenario) -> float:
    """Share of the profiled time spent inside SimPy's own files."""
    profile = cProfile.Profile()
    profile.runcall(simulate, case)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # untyped in the standard library
    folder = str(Path(simpy.__file__).parent)
    inside: float = sum(row[2] for (file, _, _), row in stats.items() if file.startswith(folder))
    total: float = sum(row[2] for row in stats.values())
    return inside / total


def measured(case: Case) -> str:
    """One line of the table; the run compiles on a small cluster first."""
    began = time.process_time()
    simulate(scenario(case, nodes=2, model="deepseek-v2-lite"))
    compiled_s = time.process_time() - began
    began, clock = time.process_time(), time.perf_counter()
    result = simulate(scenario(case))
    processor_s, wall_s = time.process_time() - began, time.perf_counter() - clock
    memory_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{case.name}: {processor_s:.1f} s; once more under cProfile", file=sys.stderr, flush=True)
    share = simpy_share(scenario(case))
    return (
        f"{case.name:34} {result.step_time_s * 1e3:9.3f} ms {processor_s:11.1f} {wall_s:8.1f} {case.target_s or '-':>9} "
        f"{memory_gib:6.2f} {result.events:8d} {share:6.1%}   (first run {compiled_s:.1f} s)"
    )


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny cases, to see that the benchmark works")
    parser.add_argument("--large", action="store_true", help="256 and 1024 ranks; some ten minutes")
    asked = parser.parse_args()
    cases = SMOKE if asked.smoke else LARGE if asked.large else CASES
    print(
        f"{'case':34} {'step time':>12} {'processor s':>11} {'wall s':>8} {'target s':>9} {'GiB':>6} {'events':>8} {'SimPy':>6}"
    )
    for case in cases:
        fresh = multiprocessing.get_context("spawn")  # so that the peak of memory is this case's own
        with ProcessPoolExecutor(max_workers=1, mp_context=fresh) as pool:
            print(pool.submit(measured, case).result(), flush=True)


if __name__ == "__main__":
    main()
