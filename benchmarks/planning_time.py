"""Benchmark of planning time: a model of 58 layers with 256 experts on 64 devices, with the usual work and with little.

Run: python benchmarks/planning_time.py [--smoke] [--layers 58] [--write].
DeepSeek-V3 on eight H100 nodes, 320 slots a layer, prefill, 128 tokens a device, drawn by the router `latent_topic`
or `zipf` (seeded). Strategies plan on steps 0:24 and are judged on steps 24:28 by the closed form. Seconds are those of
the strategy, without compilation. `--write` puts the table into docs/PLANNING.md.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _page import table, write_part
from _short_models import short_model

from moesim.planner import PlacementProblem, place, replica_policy
from moesim.routing import DealtStep
from moesim.scenario import make_scenario
from moesim.setting import Setting, load_setting
from moesim.step_bound import step_phases
from moesim.step_work import StepWork
from moesim.study.placing import compile_strategy
from moesim.study.planning import DEFAULT_WORK_S
from moesim.study.posing import pose
from moesim.study.work_plan import make_work_plan

PAGE = Path(__file__).resolve().parents[1] / "docs" / "PLANNING.md"
BEGIN, END = "<!-- planning time: python benchmarks/planning_time.py --write -->", "<!-- end of planning time -->"
HEADERS = ("router", "strategy", "time limit", "processor time", "by the clock", "step, unseen", "quicker than EPLB")
EPLB = ("eplb_global", "eplb_hierarchical")
ROUTERS = ("latent_topic", "zipf")
LIMITS = (5.0, DEFAULT_WORK_S)
PLANNED, JUDGED = (0, 24), (24, 28)


def posed(router: str, layers: int, nodes: int, folder: Path) -> tuple[Setting, list[DealtStep], PlacementProblem]:
    """The setting, the judged steps, and the problem of the planning window."""
    scenario = {
        "format_version": 1,
        "model": str(short_model("deepseek-v3", layers, folder)),
        "cluster": {"topology": "dgx-h100-superpod", "nodes": nodes},
        "trace": {"router": router, "tokens_per_rank": 128, "steps": f"{PLANNED[0]}:{JUDGED[1]}"},
        "placement": {"strategy": "contiguous", "slots": 256 + 8 * nodes},
        "dispatch": {"kernel": "generic", "dtype": "fp8"},
        "mode": {"kind": "prefill"},
        "memory": {"check": "warn"},
    }
    setting = load_setting(make_scenario(scenario))
    return setting, list(setting.steps(JUDGED)), pose(setting, list(setting.steps(PLANNED)), tokens=True)


def judged(setting: Setting, steps: list[DealtStep], name: str, problem: PlacementProblem) -> tuple[list[str], float]:
    """Seconds of a strategy, of the processor and by the clock, and those of the step under its plan, mean over steps."""
    compile_strategy(name, problem)
    processor_s, clock_s = time.process_time(), time.perf_counter()
    answer = place(name, problem)
    spent = [f"{seconds:.1f} s" for seconds in (time.process_time() - processor_s, time.perf_counter() - clock_s)]
    work = make_work_plan(setting, answer.placements, replica_policy(name))
    return spent, float(np.mean([step_phases(StepWork(plan=work, dealt=step)).step_s for step in steps]))


def rows_of(router: str, layers: int, nodes: int, limits: Sequence[float]) -> list[tuple[str, ...]]:
    """Lines of the table for one router: both EPLB modes, then topology with every time limit."""
    with tempfile.TemporaryDirectory() as folder:
        setting, steps, problem = posed(router, layers, nodes, Path(folder))
    rows, eplb_s = [], np.inf
    for name in EPLB:
        spent, step_s = judged(setting, steps, name, problem)
        eplb_s = min(eplb_s, step_s)
        rows.append((router, name, "", *spent, f"{step_s * 1e3:.3f} ms", ""))
    for limit in limits:
        limited = dataclasses.replace(problem, work_limit=limit / DEFAULT_WORK_S)
        spent, step_s = judged(setting, steps, "topology", limited)
        rows.append(
            (router, "topology", f"{limit:.0f} s", *spent, f"{step_s * 1e3:.3f} ms", f"{eplb_s / step_s - 1:+.1%}")
        )
    return rows


def main() -> None:
    """Print the table; write it into the page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one layer on two nodes, little work")
    parser.add_argument("--layers", type=int, default=58, help="MoE layers")
    parser.add_argument("--write", action="store_true", help="put the table into docs/PLANNING.md")
    arguments = parser.parse_args()
    layers, nodes, limits = (1, 2, LIMITS[:1]) if arguments.smoke else (arguments.layers, 8, LIMITS)
    rows = [row for router in ROUTERS for row in rows_of(router, layers, nodes, limits)]
    print(table(HEADERS, rows))
    if arguments.write:
        write_part(PAGE, BEGIN, END, table(HEADERS, rows))


if __name__ == "__main__":
    main()
