"""From 65,536 to 16,777,216 experts on 128 to 4096 GPUs: nodes a token touches, step time and bytes for four layouts.

    python examples/million_experts.py            # examples/million_experts.csv and docs/pictures/million_experts.png
    python examples/million_experts.py --small --out FOLDER

One product-key layer (8 heads x 16 single-neuron experts, d_model 1024, structure 0.7) in prefill on DGX H100 nodes,
closed-form network. Planned on one step, judged on the next, one copy of each expert. Rows that the CSV holds already are
kept: delete it to measure all anew (the largest size takes five minutes of one core).
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from moesim.provenance import data_folder
from moesim.scenario import Scenario, make_scenario
from moesim.study import compare

ROOT = Path(__file__).resolve().parents[1]
SIZES = ((65_536, 128), (262_144, 256), (1_048_576, 1024), (4_194_304, 2048), (16_777_216, 4096))
SMALL = ((1_024, 16),)
LAYOUTS = ("hash", "longest_first", "key_grid", "topology")
SMALL_LAYOUTS = ("hash", "longest_first", "key_grid")
COLUMNS = ("experts", "devices", "layout", "fanout_nodes", "step_time_s", "bytes_a_token", "balancedness")
TOKENS_PER_RANK = 16
Row = dict[str, str]


def scenario_of(experts: int, devices: int, folder: Path) -> Scenario:
    """The scenario of a size; writes its model, PEER's with that many experts, into `folder`."""
    model = (data_folder("models") / "peer-1m.yaml").read_text()
    path = folder / f"peer-{experts}.yaml"
    path.write_text(model.replace("num_experts: 1048576", f"num_experts: {experts}").replace("peer-1m", path.stem))
    return make_scenario(
        {
            "format_version": 1,
            "model": str(path),
            "cluster": {"topology": "dgx-h100-superpod", "nodes": devices // 8},
            "parallel": {"ep": devices},
            "trace": {"router": "product_key", "structure": 0.7, "tokens_per_rank": TOKENS_PER_RANK, "steps": "1:2"},
            "dispatch": {"algorithm": "node_dedup"},
            "network": {"fidelity": "bound"},
            "mode": {"kind": "prefill"},
        }
    )


def rows_of(experts: int, devices: int, layouts: Sequence[str]) -> Iterator[Row]:
    """One row for each layout."""
    with tempfile.TemporaryDirectory() as folder:
        scenario = scenario_of(experts, devices, Path(folder))
        answer = compare(scenario, layouts, plan_steps="0:1")
    copy_bytes = 2 * 1024 * 2  # bf16, there and back
    for run in answer.runs:
        assert run.fanout_nodes is not None  # every layout takes these sizes
        yield {
            "experts": str(experts),
            "devices": str(devices),
            "layout": run.strategy,
            "fanout_nodes": f"{run.fanout_nodes:.3f}",
            "step_time_s": f"{run.step_time_s:.4e}",
            "bytes_a_token": f"{run.fanout_nodes * copy_bytes:.0f}",
            "balancedness": f"{run.balancedness:.3f}",
        }


def study(sizes: Sequence[tuple[int, int]], out: Path, layouts: Sequence[str] = LAYOUTS) -> list[Row]:
    """Rows of all sizes in the CSV file `out`, written size by size; those in it already stay."""
    rows = list(csv.DictReader(out.open())) if out.exists() else []
    for experts, devices in sizes:
        if not any(row["experts"] == str(experts) for row in rows):
            rows = [*rows, *rows_of(experts, devices, layouts)]
            with out.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    return rows


def draw(rows: Sequence[Row], out: Path) -> None:
    """Three pictures side by side against the number of experts, a line for each layout."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 3.9), layout="constrained")
    panels = (
        ("fanout_nodes", 1.0, "nodes a token touches"),
        ("step_time_s", 1e3, "step (ms)"),
        ("bytes_a_token", 1e-3, "kB a token, both ways"),
    )
    for axes, (column, scale, title) in zip(figure.subplots(1, 3), panels, strict=True):
        for layout, marker in zip(LAYOUTS, "os^D", strict=True):
            mine = [row for row in rows if row["layout"] == layout]
            x = [int(row["experts"]) for row in mine]
            axes.plot(x, [scale * float(row[column]) for row in mine], marker=marker, markersize=4, label=layout)
        ticks = sorted({(int(row["experts"]), int(row["devices"])) for row in rows})
        axes.set_xscale("log", base=2)
        axes.set_xticks([e for e, _ in ticks], [f"{_short(e)}\n{d}" for e, d in ticks], fontsize=8)
        axes.set_xlabel("experts / devices")
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_ylim(bottom=0.0)
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(LAYOUTS), frameon=False)
    figure.savefig(out, dpi=130, metadata={"Software": None})


def _short(number: int) -> str:
    return f"{number >> 20}M" if number >= 1 << 20 else f"{number >> 10}k"


def main() -> None:
    """Run the study and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small size, in seconds")
    parser.add_argument("--out", type=Path, help="folder for both files; default: examples/ and docs/pictures/")
    asked = parser.parse_args()
    stem = "million_experts_small" if asked.small else "million_experts"
    table = (asked.out or ROOT / "examples") / f"{stem}.csv"
    rows = study(SMALL if asked.small else SIZES, table, SMALL_LAYOUTS if asked.small else LAYOUTS)
    draw(rows, (asked.out or ROOT / "docs" / "pictures") / f"{stem}.png")
    for row in rows:
        print("  ".join(f"{row[column]:>13}" for column in COLUMNS))


if __name__ == "__main__":
    main()
