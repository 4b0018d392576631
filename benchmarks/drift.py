"""Benchmark of drift: how level a plan stays in the next window, with its fixed split, a new one, or few moves.

Run: python benchmarks/drift.py [--smoke] [--layers 58] [--write].
Loads Zipf 1.0 over 256 experts, in another order in every layer; in the next window every expert's load is lognormal 0.3
times that. Balancedness = mean / largest load of a device, mean over layers. First table: plans made on the first window,
judged on the second: with the split they ship (EPLB and balanced: even), and with the split solved anew on that window,
which costs 100 us a layer and an all-reduce of the counts of tokens (float32, two_hop over H100 nodes). *experts* is the
time of the slowest device's experts of DeepSeek-V3 in fp8 at that balancedness, a layer, for so many tokens a device;
what the new split costs is in it. Second table: the old plan after so many moved experts a layer. `--write` puts both
into docs/PLANNING.md.
"""

import argparse
from pathlib import Path

import numpy as np
from _page import table, write_part
from numpy.typing import NDArray

from moesim.collective.reduction_flows import reduction_time
from moesim.compute import expert_cost
from moesim.placement import ExpertPlacement
from moesim.planner import PlacementProblem, place
from moesim.planner.levelling import level_shares
from moesim.planner.migration import migrate
from moesim.planner.search_state import copies_of
from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.step_work import WorkPlan
from moesim.study.work_plan import make_work_plan

PAGE = Path(__file__).resolve().parents[1] / "docs" / "PLANNING.md"
BEGIN, END = "<!-- drift: python benchmarks/drift.py --write -->", "<!-- end of drift -->"
EXPERTS, TOP_K, DRIFT, SPLIT_S = 256, 8, 0.3, 100e-6
CASES = ((288, 32), (320, 64))
STRATEGIES = ("eplb_global", "eplb_hierarchical", "balanced", "elastic")
TOKENS = (128, 4096)  # a device: decode, prefill
MOVES = (0, 16, 32, 60)
Loads = NDArray[np.float64]


def two_windows(layers: int) -> tuple[Loads, Loads]:
    """Loads [L, E] of a window and of the next one; each layer adds up to 1."""
    rng = np.random.default_rng(0)
    now_LE = np.stack([rng.permutation(1.0 / np.arange(1, EXPERTS + 1)) for _ in range(layers)])
    next_LE = now_LE * rng.lognormal(0.0, DRIFT, now_LE.shape)
    return now_LE / now_LE.sum(axis=1, keepdims=True), next_LE / next_LE.sum(axis=1, keepdims=True)


def work_on(devices: int) -> WorkPlan:
    """DeepSeek-V3 in fp8 on H100 nodes, experts in order."""
    scenario = {
        "format_version": 1,
        "model": "deepseek-v3",
        "cluster": {"topology": "dgx-h100-superpod", "nodes": devices // 8},
        "parallel": {"ep": devices},
        "trace": {"router": "uniform", "tokens_per_rank": 1, "steps": "0:1"},
        "weights": {"dtype": "fp8"},
        "memory": {"check": "warn"},
    }
    setting = load_setting(make_scenario(scenario))
    loads = PlacementProblem(np.ones((setting.model.num_moe_layers, EXPERTS)), devices, 8, EXPERTS)
    return make_work_plan(setting, place("contiguous", loads).placements, "nearest")


def new_split_s(work: WorkPlan) -> float:
    """Seconds a layer of solving a split at run time: the program, and the all-reduce of what it reads."""
    groups = [np.arange(work.num_devices)]
    counts_bytes = 4.0 * EXPERTS
    cluster, links = work.builder.cluster, work.builder.links
    return SPLIT_S + reduction_time(cluster, links, groups, counts_bytes, algorithm="two_hop").time_s


def shares(placement: ExpertPlacement, load_E: Loads, *, anew: bool) -> Loads:
    """The part of its expert's tokens that each slot takes [P]: solved for these loads, the plan's own, or even."""
    if anew:
        return level_shares(placement, load_E, np.ones(placement.num_devices))
    even_P = 1.0 / placement.replicas_E[placement.expert_of_slot_P]
    share_P: Loads = even_P if placement.split_NP is None else placement.split_NP[0]
    return share_P


def balancedness(placement: ExpertPlacement, load_E: Loads, share_P: Loads) -> float:
    """Mean / largest load of a device."""
    load_P = load_E[placement.expert_of_slot_P] * share_P
    load_D = np.bincount(placement.device_of_slot_P, weights=load_P, minlength=placement.num_devices)
    return float(load_D.mean() / load_D.max())


def experts_s(work: WorkPlan, placement: ExpertPlacement, load_E: Loads, share_P: Loads, tokens: int) -> float:
    """Seconds of the slowest device's experts at so many tokens a device."""
    expert_P = placement.expert_of_slot_P
    load_P = np.rint(load_E[expert_P] * share_P * tokens * TOP_K * placement.num_devices).astype(np.int64)
    cost = expert_cost(load_P, placement.device_of_slot_P, work.rates, work.model, "fp8", expert_P)
    return float(cost.time_s.max())


def drift_rows(slots: int, devices: int, layers: int) -> list[tuple[str, ...]]:
    """A line for each strategy and kind of split."""
    now_LE, next_LE = two_windows(layers)
    problem, work = PlacementProblem(now_LE, devices, 8, slots, num_groups=8), work_on(devices)
    charged_s = new_split_s(work)
    rows: list[tuple[str, ...]] = []
    for name in STRATEGIES:
        placements = place(name, problem).placements
        now = np.mean(
            [
                balancedness(p, load_E, shares(p, load_E, anew=False))
                for p, load_E in zip(placements, now_LE, strict=True)
            ]
        )
        for anew in (False, True):
            pairs = [(p, load_E, shares(p, load_E, anew=anew)) for p, load_E in zip(placements, next_LE, strict=True)]
            level = np.mean([balancedness(*pair) for pair in pairs])
            times = [
                np.mean([experts_s(work, *pair, tokens) for pair in pairs]) + anew * charged_s for tokens in TOKENS
            ]
            split = "solved anew" if anew else "shipped" if placements[0].split_NP is not None else "even"
            cells = [f"{slots} on {devices}", name, split, f"{now:.4f}", f"{level:.3f}"]
            rows.append((*cells, *(f"{seconds * 1e6:.0f} us" for seconds in times)))
    return rows


def migration_rows(slots: int, devices: int, layers: int) -> list[tuple[str, ...]]:
    """A line for each number of moves that every layer may make, and one for a fresh plan."""
    now_LE, next_LE = two_windows(layers)
    old = place("balanced", PlacementProblem(now_LE, devices, 8, slots)).placements
    problems = [PlacementProblem(load_E[None, :], devices, 8, slots) for load_E in next_LE]
    fresh = [place("balanced", problem).placements[0] for problem in problems]
    rows: list[tuple[str, ...]] = []
    for most in (*MOVES, None):
        new = fresh
        if most is not None:
            layered = zip(problems, old, fresh, strict=True)
            new = [migrate(one, [before], [after], "nearest", most, 0.0)[0] for one, before, after in layered]
        moved = [int((copies_of(after) & ~copies_of(before)).sum()) for before, after in zip(old, new, strict=True)]
        level = np.mean(
            [balancedness(p, load_E, shares(p, load_E, anew=False)) for p, load_E in zip(new, next_LE, strict=True)]
        )
        allowed = "planned anew" if most is None else str(most)
        rows.append((f"{slots} on {devices}", allowed, f"{np.mean(moved):.1f}", str(max(moved)), f"{level:.4f}"))
    return rows


def main() -> None:
    """Print the tables; write them into the page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one layer of the smaller case")
    parser.add_argument("--layers", type=int, default=58)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/PLANNING.md")
    arguments = parser.parse_args()
    cases, layers = (CASES[:1], 1) if arguments.smoke else (CASES, arguments.layers)
    drift = [row for case in cases for row in drift_rows(*case, layers)]
    moves = [row for case in cases for row in migration_rows(*case, layers)]
    headers = ("slots", "plan of", "split", "this window", "next window", *(f"experts, {n} tokens" for n in TOKENS))
    text = f"{table(headers, drift)}\n\n" + table(
        ("slots", "moves allowed a layer", "moved, mean", "moved, most", "balancedness"), moves
    )
    text += f"\n\n{layers} layers."
    print(text)
    if arguments.write:
        write_part(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main()
