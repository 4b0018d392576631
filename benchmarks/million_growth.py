"""Growth: processor time and memory of planning and of simulating one product-key layer, against experts and tokens.

    python benchmarks/million_growth.py            # docs/pictures/million_growth.png and .csv, slopes on log axes
    python benchmarks/million_growth.py --smoke    # small sizes in this process, nothing drawn

Every point runs in a process of its own, after a small version has compiled what it needs. Memory is the process's peak,
its libraries and the routed tokens included. Plans are by `topology`, steps by the closed form, on 64 nodes of 8.
"""

import argparse
import csv
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from million import ROOT, WARM, Size, bound_step, planned, windows

from moesim.planner.strategies import topology

KINDS = ("plan", "step")
BASE = Size(1 << 20, 512, 1 << 15)
EXPERTS = tuple(1 << bits for bits in (18, 20, 22, 24))
TOKENS = tuple(1 << bits for bits in (13, 15, 17))
OUT = ROOT / "docs" / "pictures" / "million_growth.csv"
COLUMNS = ("kind", "experts", "tokens", "seconds", "peak_gb")


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement; processor seconds, gigabytes."""

    kind: str
    experts: int
    tokens: int
    seconds: float
    peak_gb: float


def measure(kind: str, size: Size) -> Point:
    """A point in this process."""
    topology.MOST_CELLS = 1 << 10  # also small sizes go the way of large ones
    seconds = {}
    for one in (WARM, size):
        seconds[one] = planned(one, windows(one, 0.7, 1)[0], "topology")[1] if kind == "plan" else bound_step(one)[0]
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return Point(kind, size.experts, size.tokens, seconds[size], peak_gb)


def sizes() -> list[Size]:
    """All sizes, each once."""
    along = [Size(experts, BASE.devices, BASE.tokens) for experts in EXPERTS]
    return along + [Size(BASE.experts, BASE.devices, tokens) for tokens in TOKENS if tokens != BASE.tokens]


def measure_apart(kind: str, size: Size) -> Point:
    """A point in a process of its own."""
    command = [sys.executable, __file__, "--point", kind, str(size.experts), str(size.tokens)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak_gb = done.stdout.split()[-2:]
    return Point(kind, size.experts, size.tokens, float(seconds), float(peak_gb))


def line(points: Sequence[Point], kind: str, along: str) -> list[Point]:
    """Points of a kind with all else as in BASE, by `along` (experts or tokens)."""
    other = "tokens" if along == "experts" else "experts"
    mine = [point for point in points if point.kind == kind and getattr(point, other) == getattr(BASE, other)]
    return sorted(mine, key=lambda point: int(getattr(point, along)))


def slope(points: Sequence[Point], along: str, of: str) -> float:
    """Of the straight line through the points on log axes."""
    x, y = ([float(getattr(point, name)) for point in points] for name in (along, of))
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def draw(points: Sequence[Point], out: Path) -> None:
    """Time and memory against experts and tokens, log axes, beside a line of slope 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 6.4), layout="constrained")
    for row, (of, unit) in zip(
        figure.subplots(2, 2), (("seconds", "processor seconds"), ("peak_gb", "peak GB")), strict=True
    ):
        for axes, along in zip(row, ("experts", "tokens"), strict=True):
            for kind, marker in zip(KINDS, "os", strict=True):
                mine = line(points, kind, along)
                x, y = [getattr(point, along) for point in mine], [getattr(point, of) for point in mine]
                axes.plot(x, y, marker=marker, markersize=4, label=f"{kind}, slope {slope(mine, along, of):.2f}")
            low = min(getattr(point, of) for point in points)
            axes.plot(x, [low * one / x[0] for one in x], color="gray", linestyle=":", label="slope 1")
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xlabel(along)
            axes.set_title(unit, loc="left", fontsize=10)
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, fontsize=8)
    figure.savefig(out, dpi=120, metadata={"Software": None})


def main() -> None:
    """Measure, print slopes, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small sizes")
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.point:
        kind, experts, tokens = asked.point
        point = measure(kind, Size(int(experts), BASE.devices, int(tokens)))
        print(f"{point.seconds:.2f} {point.peak_gb:.3f}")
        return
    if asked.smoke:
        for kind in KINDS:
            print(measure(kind, Size(1 << 14, 64, 1 << 10)))
        return
    points = [measure_apart(kind, size) for kind in KINDS for size in sizes()]
    with OUT.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([getattr(point, name) for name in COLUMNS] for point in points)
    draw(points, OUT.with_suffix(".png"))
    for kind in KINDS:
        for along in ("experts", "tokens"):
            mine = line(points, kind, along)
            told = ", ".join(f"{getattr(point, along):,}: {point.seconds:g} s {point.peak_gb:g} GB" for point in mine)
            print(f"{kind} against {along}: {told}; slope {slope(mine, along, 'seconds'):.2f}")


if __name__ == "__main__":
    main()
