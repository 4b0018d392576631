"""Benchmark of the command line's start: `moesim --help` against an empty Python process in the same run.

Run: python benchmarks/startup.py [--smoke]. Prints the median of several runs; target 0.5 s for --help.
"""

import argparse
import statistics
import subprocess
import sys
import time


def median_s(command: list[str], runs: int) -> float:
    """Median wall seconds of `command`, after one run that is not counted."""
    seconds = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def main() -> None:
    """Print both medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="one run each")
    runs = 1 if parser.parse_args().smoke else 7
    empty_s = median_s([sys.executable, "-c", "pass"], runs)
    help_s = median_s([sys.executable, "-m", "moesim", "--help"], runs)
    print(f"moesim --help {help_s:.3f} s (target 0.5 s), python -c pass {empty_s:.3f} s, ratio {help_s / empty_s:.1f}")


if __name__ == "__main__":
    main()
