"""Benchmark of whole steps: one decode step of DeepSeek-V3's shape, and how much of it is SimPy itself.

Run: python benchmarks/step.py [--smoke]. Prints seconds after compilation, against the targets of docs/PERFORMANCE.md, and
the ratio of fluid to bound in the same run. The share of SimPy is the time inside its own functions under cProfile.
"""

import argparse
import cProfile
import pstats
import time
from pathlib import Path

import simpy

from moesim.result import SimulationResult
from moesim.scenario import Scenario, make_scenario
from moesim.study import simulate

CASES = {
    "bound": {"fidelity": "bound"},
    "fluid, tolerance 0.02": {"fidelity": "fluid", "tolerance": 0.02},
    "fluid, exact": {"fidelity": "fluid", "tolerance": 0.0},
}
TARGET_S = {"bound": 2.0, "fluid, tolerance 0.02": 20.0}


def scenario(network: dict[str, object], *, smoke: bool) -> Scenario:
    """One decode step, 64 ranks x 58 MoE layers x 256 experts (smoke: 8 ranks of DeepSeek-V2-Lite), zipf routing."""
    return make_scenario(
        {
            "format_version": 1,
            "model": "deepseek-v2-lite" if smoke else "deepseek-v3",
            "cluster": {"topology": "dgx-h100-superpod", "nodes": 1 if smoke else 8},
            "trace": {"router": "zipf", "tokens_per_rank": 8 if smoke else 128, "steps": "0:1", "seed": 0},
            "dispatch": {"algorithm": "node_dedup", "dtype": "fp8"},
            "network": network,
            "mode": {"kind": "decode", "context_length": 4096},
        }
    )


def timed(case: Scenario) -> tuple[SimulationResult, float]:
    """The result and the wall seconds of the run alone (routing and placement are made before)."""
    result = simulate(case)
    return result, result.wall_s


def simpy_share(case: Scenario) -> float:
    """Share of the profiled time spent inside SimPy's own files."""
    profile = cProfile.Profile()
    profile.runcall(simulate, case)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # untyped in the standard library
    folder = str(Path(simpy.__file__).parent)
    inside = sum(row[2] for (file, _, _), row in stats.items() if file.startswith(folder))
    return inside / sum(row[2] for row in stats.values())


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a tiny case, to see that the benchmark works")
    smoke = parser.parse_args().smoke
    bound_s = 0.0
    print(f"{'case':24} {'step time':>12} {'wall s':>8} {'target s':>9} {'x bound':>8} {'events':>8} {'SimPy':>6}")
    for name, network in CASES.items():
        case = scenario(network, smoke=smoke)
        began = time.perf_counter()
        timed(case)  # compiles
        compiled_s = time.perf_counter() - began
        result, wall_s = timed(case)
        bound_s = bound_s or wall_s
        target = TARGET_S.get(name)
        print(
            f"{name:24} {result.step_time_s * 1e3:9.3f} ms {wall_s:8.2f} {target or '-':>9} {wall_s / bound_s:8.1f} "
            f"{result.events:8d} {simpy_share(case):6.1%}   (first run {compiled_s:.1f} s)"
        )


if __name__ == "__main__":
    main()
