"""How many copies of a million experts? Fan-out and step time against memory, and where a whole copy per node pays.

    python examples/memory_decides.py             # examples/memory_decides.csv and docs/pictures/memory_decides.png
    python examples/memory_decides.py --small --out FOLDER

One product-key layer of 65,536 single-neuron experts on 128 DGX H100 nodes, prefill, with room for r copies of every
expert, up to a whole copy on every node; planned on one step, judged on the next. Below, which layers fit a node whole.
"""

import argparse
import csv
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from million_experts import ROOT, scenario_of

from moesim.study.memory_decides import CopiesPoint, gradient_exchange_s, most_experts, sweep_copies, tokens_to_pay

COPIES = (1, 2, 4, 8, 16, 32, 64, 128)
EXPERTS, DEVICES = 65_536, 1024
NODE, NIC_BYTES_PER_S, ROOM_BYTES = 8, 50e9, 64e9  # a DGX H100; what 80 GB leave beside activations and dense weights
SERVING_BYTES, TRAINING_BYTES = 2.0, 16.0  # a weight: bf16; with gradient, master copy and two moments (Adam)


def sweep(copies: Sequence[int], experts: int, devices: int) -> list[CopiesPoint]:
    """The points of a size."""
    with tempfile.TemporaryDirectory() as folder:
        scenario = scenario_of(experts, devices, Path(folder)).changed(compare={"plan_steps": "0:1"})
        return list(sweep_copies(scenario, copies))


def write(points: Sequence[CopiesPoint], out: Path) -> None:
    """The points as CSV."""
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in dataclasses.fields(CopiesPoint)])
        writer.writerows([f"{value:.6g}" for value in dataclasses.astuple(point)] for point in points)


def read(path: Path) -> list[CopiesPoint]:
    """The points of a CSV."""
    rows = csv.DictReader(path.open())
    return [
        CopiesPoint(**{name: (int if name == "copies" else float)(text) for name, text in row.items()}) for row in rows
    ]


def draw(points: Sequence[CopiesPoint], out: Path) -> None:
    """Fan-out and step time against memory of a device; experts a node holds whole against d_model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 3.8), layout="constrained")
    fan_out, time, crossing = figure.subplots(1, 3)
    memory = [point.device_bytes / 2**20 for point in points]
    fan_out.plot(memory, [point.fanout_nodes for point in points], "o-", markersize=4)
    fan_out.set_title("nodes a token touches", loc="left", fontsize=10)
    time.plot(memory, [1e3 * point.step_s for point in points], "o-", markersize=4, label="step")
    time.plot(
        memory, [1e3 * point.communication_s for point in points], "s--", markersize=4, label="dispatch + combine"
    )
    time.set_title("ms", loc="left", fontsize=10)
    time.legend(frameon=False, fontsize=8)
    for axes in (fan_out, time):
        for point, x in zip(points, memory, strict=True):
            y = point.fanout_nodes if axes is fan_out else 1e3 * point.step_s
            axes.annotate(f"{point.copies}x", (x, y), xytext=(3, 4), textcoords="offset points", fontsize=7)
        axes.set_xscale("log", base=2)
        axes.set_xticks(memory[::2], [f"{size:g}" for size in memory[::2]])
        axes.margins(x=0.12)
        axes.set_xlabel("expert weights of a device, one layer (MiB)")
        axes.set_ylim(bottom=0.0)
        axes.grid(alpha=0.3)
    widths = [256, 512, 1024, 2048, 4096, 8192]
    for name, each in (("serving, bf16", SERVING_BYTES), ("training, Adam", TRAINING_BYTES)):
        crossing.plot(
            widths, [most_experts(ROOM_BYTES, NODE, 2 * width * each) / 2**20 for width in widths], label=name
        )
    crossing.set_xscale("log", base=2)
    crossing.set_yscale("log", base=10)
    crossing.set_xticks(widths, [str(width) for width in widths])
    crossing.set_xlabel("d_model")
    crossing.set_title("million experts x layers that fit a node whole", loc="left", fontsize=10)
    crossing.legend(frameon=False, fontsize=8)
    crossing.grid(alpha=0.3)
    figure.savefig(out, dpi=130, metadata={"Software": None})


def sentences(points: Sequence[CopiesPoint], experts: int, devices: int, tokens: int) -> list[str]:
    """Where the crossings lie."""
    one, whole, nodes = points[0], points[-1], devices // NODE
    exchange_s = gradient_exchange_s(experts, 2 * 1024 * 2.0, NODE, nodes, NIC_BYTES_PER_S)
    need = tokens_to_pay(one, whole, exchange_s, tokens)
    fits = [most_experts(ROOM_BYTES, NODE, 2 * 1024 * each) / 2**20 for each in (SERVING_BYTES, TRAINING_BYTES)]
    return [
        f"serving: a copy on every node makes a step {one.step_s / whole.step_s:.2f} times as fast "
        f"({one.step_s * 1e3:.3f} to {whole.step_s * 1e3:.3f} ms), {whole.device_bytes / 2**20:.1f} MiB a device and layer",
        f"it fits up to {fits[0]:.0f} million experts x layers of d_model 1024 (serving), {fits[1]:.0f} (training with Adam)",
        f"training: copies exchange gradients in {exchange_s * 1e3:.2f} ms a layer and step; that pays from {need:.3g} tokens "
        f"a step on ({need / devices:.3g} a device), against {tokens} judged here",
    ]


def main() -> None:
    """Sweep, write, draw, say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small size, in seconds")
    parser.add_argument("--redraw", action="store_true", help="draw what the CSV holds")
    parser.add_argument("--out", type=Path, help="folder for both files; default: examples/ and docs/pictures/")
    asked = parser.parse_args()
    stem, experts, devices = (
        ("memory_decides_small", 1_024, 32) if asked.small else ("memory_decides", EXPERTS, DEVICES)
    )
    table = (asked.out or ROOT / "examples") / f"{stem}.csv"
    if not asked.redraw:
        write(sweep((1, 2, 4) if asked.small else COPIES, experts, devices), table)
    points = read(table)
    draw(points, (asked.out or ROOT / "docs" / "pictures") / f"{stem}.png")
    print("\n".join(sentences(points, experts, devices, devices * 16)))


if __name__ == "__main__":
    main()
