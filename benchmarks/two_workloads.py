"""Benchmark of one plan for two workloads: the slower one's step time against EPLB planned on the sum of both.

Run: python benchmarks/two_workloads.py --traces INTENT.npz TRANSLATION.npz [--extra 3 4 6] [--layers 26] [--write] | --smoke.
Each trace is replayed under DeepSeek-V2-Lite cut to so many layers, decode with 4 tokens a rank on two H100 nodes, so many
extra slots a device. Strategies plan on steps 0:8 of both traces, objective `worst`, and are judged by `fluid` on steps
8:10. *EPLB* is its better mode, *oracle* topology planned on the judged steps; all are the slower workload's step.
`--write` puts the table into docs/PLANNING.md.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _page import table, write_part
from _short_models import short_model, short_trace

from moesim.result import Comparison
from moesim.scenario import make_scenario
from moesim.study import compare
from moesim.trace.convert import convert_trace

PAGE = Path(__file__).resolve().parents[1] / "docs" / "PLANNING.md"
BEGIN, END = "<!-- two workloads: python benchmarks/two_workloads.py --write -->", "<!-- end of two workloads -->"
MODEL, LAYERS, NODES = "deepseek-v2-lite", 26, 2
HEADERS = ("slots", "devices", "EPLB", "topology", "lower by", "oracle", "intent", "translation")


def compared(model: Path, traces: Sequence[dict[str, Any]], extra: int, strategy: str, window: str) -> Comparison:
    """EPLB and the strategy on two traces."""
    scenario = {
        "format_version": 1,
        "model": str(model),
        "cluster": {"topology": "dgx-h100-superpod", "nodes": NODES},
        "trace": list(traces),
        "placement": {"strategy": "contiguous", "groups": 8, "extra_slots_per_device": extra},
        "dispatch": {"kernel": "generic", "dtype": "fp8"},
        "memory": {"check": "warn"},
        "plan": {"objective": "worst"},
    }
    return compare(make_scenario(scenario), ["eplb_global", "eplb_hierarchical", strategy], plan_steps=window)


def row_of(comparison: Comparison, slots: int) -> tuple[str, ...]:
    """One line of the table."""
    *published, ours = comparison.runs
    eplb_s = min(run.step_time_s for run in published if run.step_time_s is not None)
    assert ours.step_time_s is not None and ours.case_times_s is not None
    oracle_s = comparison.headroom.oracle_s
    times = [eplb_s, ours.step_time_s, *([] if oracle_s is None else [oracle_s]), *ours.case_times_s.values()]
    cells = [f"{seconds * 1e6:.1f} us" for seconds in times]
    cells[2:2] = [f"{1.0 - ours.step_time_s / eplb_s:.1%}"] + ([""] if oracle_s is None else [])
    return (str(slots), str(8 * NODES), *cells)


def main() -> None:
    """Print the table; write it into the page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="balanced on two synthetic traces of one layer")
    parser.add_argument("--traces", nargs=2, type=Path, metavar="NPZ")
    parser.add_argument("--extra", nargs="+", type=int, default=[3, 4, 6])
    parser.add_argument("--layers", type=int, default=LAYERS, help="MoE layers, evenly spaced")
    parser.add_argument("--write", action="store_true", help="put the table into docs/PLANNING.md")
    arguments = parser.parse_args()
    if not arguments.smoke and arguments.traces is None:
        parser.error("give --traces INTENT.npz TRANSLATION.npz, or --smoke")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.smoke:
            made = [{"router": "zipf", "seed": seed, "tokens_per_rank": 4, "steps": "1:2"} for seed in (0, 1)]
            model = short_model(MODEL, 1, folder)
            rows.append(row_of(compared(model, made, 3, "balanced", "0:1"), 64 + 24 * NODES))
        else:
            model, traces = short_model(MODEL, arguments.layers, folder), []
            for source in arguments.traces:
                path = folder / f"{source.stem}.parquet"
                convert_trace(short_trace(source, arguments.layers, folder), path, model=None)
                traces.append({"path": str(path), "tokens_per_rank": 4, "steps": "8:10", "routing_only": True})
            for extra in arguments.extra:
                slots = 64 + 8 * NODES * extra
                rows.append(row_of(compared(model, traces, extra, "topology", "0:8"), slots))
    print(table(HEADERS, rows))
    if arguments.write:
        write_part(PAGE, BEGIN, END, table(HEADERS, rows))


if __name__ == "__main__":
    main()
