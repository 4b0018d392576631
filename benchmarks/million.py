"""A million experts: time, memory, fan-out and balance of planning and simulating one product-key layer.

    python benchmarks/million.py --smoke               # every row in small, in seconds
    python benchmarks/million.py --rows plan,load      # some rows; all without
    python benchmarks/million.py --keep DIR --write    # rows kept in DIR are not run anew; into docs/PERFORMANCE.md

Every row runs in a process of its own: seconds are processor time of all threads without compilation (a small version runs
first), memory is the process's peak. Experts are found by product keys (8 heads x 16), structure 0.7 unless it says
otherwise. Plans see one window of tokens and are judged on the next.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _page import table, write_part
from numpy.typing import NDArray

from moesim.placement import ExpertPlacement
from moesim.planner import PlacementProblem, place
from moesim.planner.problem import TokenSketch
from moesim.planner.strategies import topology
from moesim.routing import DealtStep
from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.study.placing import policy_of
from moesim.study.simulating import replayed
from moesim.study.work_plan import make_work_plan
from moesim.trace import load_trace
from moesim.trace.dealing import deal
from moesim.trace.synthetic import synthetic_steps
from moesim.traffic import count_placed

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "PERFORMANCE.md"
HEADERS = ("what", "measured", "peak memory", "target")
BEGIN, END = "<!-- million: python benchmarks/million.py --write -->", "<!-- end of million -->"
PER_NODE, TOP_K, HEADS = 8, 128, 8
QUALITY = 4.0  # --time-limit 120
Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Size:
    """What a row is run on; `tokens` of one window, on all devices together."""

    experts: int
    devices: int
    tokens: int

    @property
    def words(self) -> str:
        """As in the table."""
        return f"{self.experts:,} experts, {self.devices} devices, {self.tokens:,} tokens"


MILLION, HUGE, SMOKE = Size(1 << 20, 1024, 1 << 16), Size(1 << 24, 4096, 1 << 16), Size(1 << 16, 64, 1 << 11)
WARM = Size(1 << 12, 32, 1 << 9)


def windows(size: Size, structure: float, number: int = 2) -> list[Ids]:
    """Ids [T, K] of some steps in a row."""
    steps = synthetic_steps(
        "product_key",
        num_layers=1,
        num_experts=size.experts,
        top_k=TOP_K,
        num_ranks=size.devices,
        tokens_per_rank=size.tokens // size.devices,
        steps=(0, number),
        seed=0,
        mode="prefill",
        heads=HEADS,
        structure=structure,
    )
    return [step.experts_LTK[0] for step in steps]


def recorded() -> tuple[Size, list[Ids]]:
    """The recorded product-key layer, dealt to 128 devices."""
    steps = deal(
        load_trace(ROOT / "traces" / "peer-262k-public-domain.parquet"),
        steps=(0, 2), seed=0, num_ranks=128, mode="prefill", tokens_per_rank=96, top_k=64,
    )  # fmt: skip
    ids = [step.experts_LTK[0] for step in steps]
    return Size(1 << 18, 128, len(ids[0])), ids


def sources(size: Size, tokens: int) -> NDArray[np.int32]:
    """The rank of each token, in order."""
    return (np.arange(tokens) * size.devices // tokens).astype(np.int32)


def problem(size: Size, ids: Ids, work: float) -> PlacementProblem:
    """What a strategy sees of a window."""
    stride = max(1, -(-len(ids) // int(65_536 * work)))
    some = ids[::stride]
    sketch = TokenSketch(
        experts_LTK=some[None],
        source_T=sources(size, len(ids))[::stride],
        weight_T=np.full(len(some), float(stride)),
        window_T=np.zeros(len(some), dtype=np.int32),
        window_weight_W=np.ones(1),
        token_T=np.arange(len(some)),
        whole=False,
    )
    load_E = np.bincount(ids[ids >= 0], minlength=size.experts).astype(np.float64)
    return PlacementProblem(load_E[None], size.devices, PER_NODE, size.experts, sketch=sketch, work_limit=work)


def planned(size: Size, ids: Ids, strategy: str, work: float = 1.0) -> tuple[ExpertPlacement, float]:
    """One layer's placement and the processor seconds of the strategy."""
    posed = problem(size, ids, work)
    began = time.process_time()
    placement = place(strategy, posed).placements[0]
    return placement, time.process_time() - began


def judged(size: Size, placement: ExpertPlacement, ids: Ids) -> tuple[float, float]:
    """Nodes a token and balancedness of devices on tokens the plan did not see."""
    counts = count_placed(ids, sources(size, len(ids)), placement, "nearest", PER_NODE, 0).counts
    return counts.fanout_nodes, float(counts.load_D.mean() / counts.load_D.max())


def plan_row(size: Size, work: float = 1.0) -> str:
    """Time of `topology`."""
    plan_ids, unseen = windows(size, 0.7)
    placement, seconds = planned(size, plan_ids, "topology", work)
    nodes, level = judged(size, placement, unseen)
    return f"{seconds:.1f} s; {nodes:.2f} nodes a token, balancedness {level:.3f} on unseen tokens"


def fan_out_row(size: Size, ids: list[Ids]) -> str:
    """Nodes a token of four layouts on unseen tokens."""
    parts = []
    for strategy, work in (("hash", 1.0), ("key_grid", 1.0), ("topology", 1.0), ("topology", QUALITY)):
        placement, _ = planned(size, ids[0], strategy, work)
        nodes, level = judged(size, placement, ids[-1])
        parts.append(f"{strategy}{' quality' if work > 1 else ''} {nodes:.2f} ({level:.2f})")
    return "; ".join(parts)


def load_row(size: Size) -> str:
    """Balancedness and time by loads alone, on the planning window."""
    ids = windows(size, 0.7, 1)[0]
    placement, seconds = planned(size, ids, "longest_first")
    load_E = np.bincount(ids[ids >= 0], minlength=size.experts)
    load_D = np.bincount(placement.device_of_slot_P, weights=load_E[placement.expert_of_slot_P])
    return f"{load_D.mean() / load_D.max():.5f} in {seconds:.2f} s"


def bound_step(size: Size) -> tuple[float, float]:
    """Processor seconds of simulating a step in closed form, its tokens dealt already; the step's own seconds."""
    data = {
        "format_version": 1, "parallel": {"ep": size.devices},
        "cluster": {"topology": "dgx-h100-superpod", "nodes": size.devices // PER_NODE},
        "trace": {"router": "uniform", "tokens_per_rank": size.tokens // size.devices, "steps": "0:1"},
        "dispatch": {"algorithm": "node_dedup"}, "network": {"fidelity": "bound"},
        "mode": {"kind": "prefill"}, "memory": {"check": "warn"},
    }  # fmt: skip
    model = (ROOT / "models" / "peer-1m.yaml").read_text()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peer.yaml"
        path.write_text(model.replace("num_experts: 1048576", f"num_experts: {size.experts}"))
        setting = load_setting(make_scenario({**data, "model": str(path)}))
    ids = windows(size, 0.7, 1)[0]
    step = DealtStep(step=0, rank_T=sources(size, len(ids)), experts_LTK=ids[None], weights_LTK=None, fill=1.0)
    placement, _ = planned(size, ids, "hash")
    work = make_work_plan(setting, (placement,), policy_of(setting, "hash"))
    began = time.process_time()
    result = replayed(setting, work, "hash", [step], (), None)
    return time.process_time() - began, result.step_time_s


def bound_row(size: Size) -> str:
    """Time of a closed-form step."""
    seconds, step_s = bound_step(size)
    return f"{seconds:.1f} s (a step of {step_s * 1e3:.2f} ms)"


def growth_row(sizes: list[Size]) -> str:
    """Planning seconds at several sizes, and the slope on log axes."""
    seconds = []
    for size in sizes:
        ids = windows(size, 0.7, 1)[0]
        seconds.append(planned(size, ids, "topology")[1])
    over = [(size.experts if size.experts != sizes[0].experts else size.tokens) for size in sizes]
    over[0] = sizes[0].tokens if sizes[-1].experts == sizes[0].experts else sizes[0].experts
    slope = float(np.polyfit(np.log(over), np.log(seconds), 1)[0])
    told = ", ".join(f"{number:,}: {second:.1f} s" for number, second in zip(over, seconds, strict=True))
    return f"{told}; slope {slope:.2f}"


def more_experts(smoke: bool) -> list[Size]:
    """Sizes with four and sixteen times as many experts."""
    if smoke:
        return [Size(1 << bits, 64, 1 << 11) for bits in (14, 16, 18)]
    return [Size(1 << bits, 512, 1 << 16) for bits in (18, 20, 22)]


def more_tokens(smoke: bool) -> list[Size]:
    """Sizes with two and four times as many tokens."""
    experts, devices, least = (1 << 16, 64, 10) if smoke else (1 << 20, 512, 13)
    return [Size(experts, devices, 1 << bits) for bits in range(least, least + 3)]


ROWS: dict[str, tuple[str, str, Callable[[bool], str]]] = {
    "plan": ("plan, `topology`", "20 s", lambda smoke: plan_row(SMOKE if smoke else MILLION)),
    "quality": (
        "plan, `topology --time-limit 120`", "120 s, 6 GB", lambda smoke: plan_row(SMOKE if smoke else MILLION, QUALITY),
    ),
    "structured": (
        "nodes a token (balancedness), structure 0.7", "5 % below `key_grid`, .80",
        lambda smoke: fan_out_row(SMOKE if smoke else MILLION, windows(SMOKE if smoke else MILLION, 0.7)),
    ),
    "recorded": (
        "the same, recorded, 262,144 experts, 128 devices", "5 % below `key_grid`, .80", lambda _: fan_out_row(*recorded()),
    ),
    "unstructured": (
        "the same, structure 0", "reported",
        lambda smoke: fan_out_row(SMOKE if smoke else MILLION, windows(SMOKE if smoke else MILLION, 0.0)),
    ),
    "load": ("`longest_first`, balancedness", ".9999 in 3 s", lambda smoke: load_row(SMOKE if smoke else MILLION)),
    "bound": (
        "`bound` step of 1,048,576 tokens", "30 s",
        lambda smoke: bound_row(SMOKE if smoke else Size(1 << 20, 1024, 1 << 20)),
    ),
    "huge": ("`bound` step, 16,777,216 experts, 4096 devices", "20 GB", lambda smoke: bound_row(SMOKE if smoke else HUGE)),
    "experts": ("plan against experts, 65,536 tokens, 64 nodes", "slope 1", lambda smoke: growth_row(more_experts(smoke))),
    "tokens": ("plan against tokens, 1,048,576 experts, 64 nodes", "slope 1", lambda smoke: growth_row(more_tokens(smoke))),
}  # fmt: skip


def run_row(name: str, *, smoke: bool) -> dict[str, object]:
    """One row in this process, after a small version of it has compiled what it needs."""
    topology.MOST_CELLS = 1 << 10  # also small sizes go the way of large ones
    if not smoke:
        ROWS[name][2](True)
    began = time.process_time()
    answer = ROWS[name][2](smoke)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "row": name,
        "measured": answer,
        "all_s": round(time.process_time() - began, 1),
        "peak_gb": usage.ru_maxrss / 1e6,
    }


def _row(answer: dict[str, object]) -> tuple[str, ...]:
    """The cells of a row under HEADERS."""
    title, target, _ = ROWS[str(answer["row"])]
    return title, str(answer["measured"]), f"{answer['peak_gb']:.2f} GB", target


def main() -> None:
    """Run rows, each in a process of its own, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small sizes")
    parser.add_argument("--rows", help=f"some of {','.join(ROWS)}")
    parser.add_argument("--row", choices=sorted(ROWS), help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where rows are kept and found again")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    asked = parser.parse_args()
    if asked.row:
        print(json.dumps(run_row(asked.row, smoke=asked.smoke)))
        return
    answers = []
    for name in asked.rows.split(",") if asked.rows else ROWS:
        kept = asked.keep / f"{name}.json" if asked.keep else None
        if kept is not None and kept.exists():
            answers.append(json.loads(kept.read_text()))
            continue
        command = [sys.executable, __file__, "--row", name, *(["--smoke"] if asked.smoke else [])]
        answers.append(
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        )
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(answers[-1]) + "\n")
    text = table(HEADERS, map(_row, answers))
    print(text)
    if asked.write:
        write_part(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main()
