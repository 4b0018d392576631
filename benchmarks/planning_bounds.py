"""Benchmark of bounds: how far the experts' time under a plan can be from the best, at the sizes engines run.

Run: python benchmarks/planning_bounds.py [--smoke] [--write].
The experts of DeepSeek-V3 in fp8 on H100: 58 layers of 256 experts, top-8, 4096 tokens a device, loads Zipf 1.0 or
lognormal 1 (seeded); 288 slots on 32 devices, 320 and 288 on 64; datasheet roofline and fitted curves. *Experts* is the
slowest device's time under `balanced` (tokens of an expert evenly over its copies), *bound* what no plan beats, both
summed over layers; the gap is their ratio - 1. *Tokens* is the gap of the fullest device's tokens to the best load bound,
whose name and number of layers come last. `--write` puts the table into docs/PLANNING.md.
"""

import argparse
import collections
from pathlib import Path

import numpy as np
from _page import table, write_part
from numpy.typing import NDArray

from moesim.compute import expert_cost
from moesim.planner import PlacementProblem, place
from moesim.planner.bounds import experts_bound
from moesim.planner.bounds_fitted import expert_floor
from moesim.planner.bounds_load import load_bounds
from moesim.planner.objective_tables import cost_tables
from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.step_work import WorkPlan
from moesim.study.work_plan import make_work_plan

PAGE = Path(__file__).resolve().parents[1] / "docs" / "PLANNING.md"
BEGIN, END = "<!-- compute gap: python benchmarks/planning_bounds.py --write -->", "<!-- end of compute gap -->"
HEADERS = ("loads", "slots", "devices", "profile", "experts", "bound", "gap", "tokens", "best load bound")
CASES = ((288, 32), (320, 64), (288, 64))
TOKENS, TOP_K, EXPERTS, LAYERS = 4096, 8, 256, 58
Loads = NDArray[np.int64]


def drawn_loads(kind: str, layers: int, devices: int) -> Loads:
    """Whole tokens of every expert in every layer, `TOKENS` x `TOP_K` a device."""
    rng = np.random.default_rng(0)
    if kind == "zipf":
        share_LE = np.stack([rng.permutation(1.0 / np.arange(1, EXPERTS + 1)) for _ in range(layers)])
    else:
        share_LE = rng.lognormal(0.0, 1.0, (layers, EXPERTS))
    share_LE /= share_LE.sum(axis=1, keepdims=True)
    # A token goes to an expert once: no expert gets more than all tokens.
    return np.minimum(np.rint(share_LE * TOKENS * TOP_K * devices), TOKENS * devices).astype(np.int64)


def work_plan(devices: int, profile: str | None) -> WorkPlan:
    """DeepSeek-V3 on H100 nodes, experts in order."""
    scenario = {
        "format_version": 1,
        "model": "deepseek-v3",
        "cluster": {"topology": "dgx-h100-superpod", "nodes": devices // 8},
        "parallel": {"ep": devices},
        "trace": {"router": "uniform", "tokens_per_rank": 1, "steps": "0:1"},
        "mode": {"kind": "prefill"},
        "weights": {"dtype": "fp8"},
        "memory": {"check": "warn"},
        "profile": profile,
    }
    setting = load_setting(make_scenario(scenario))
    loads = PlacementProblem(np.ones((setting.model.num_moe_layers, EXPERTS)), devices, 8, EXPERTS)
    return make_work_plan(setting, place("contiguous", loads).placements, "nearest")


def row_of(kind: str, slots: int, devices: int, profile: str | None, layers: int) -> tuple[str, ...]:
    """One line of the table."""
    work, load_LE = work_plan(devices, profile), drawn_loads(kind, layers, devices)
    problem = PlacementProblem(load_LE.astype(np.float64), devices, 8, slots)
    costs, weight_S = cost_tables(work, np.full(devices, float(TOKENS))), np.full(devices, 1.0 / devices)
    slots_D = problem.slots_of_devices
    floor = expert_floor(costs, weight_S, slots_D, load_LE[:1], int(load_LE.max()))
    experts_s = bound_s = tokens = fullest = 0.0
    best: collections.Counter[str] = collections.Counter()
    for load_E, placement in zip(load_LE, place("balanced", problem).placements, strict=True):
        expert_P, copies_E = placement.expert_of_slot_P, placement.replicas_E
        copy_P = np.zeros(placement.num_slots, dtype=np.int64)
        copy_P[placement.slots_by_expert_P] = np.arange(placement.num_slots) - np.repeat(
            placement.slot_offsets_E1[:-1], copies_E
        )
        load_P = load_E[expert_P] // copies_E[expert_P] + (copy_P < (load_E % copies_E)[expert_P])
        cost = expert_cost(load_P, placement.device_of_slot_P, work.rates, work.model, "fp8", expert_P)
        experts_s += float(cost.time_s.max())
        bound_s += experts_bound(costs, slots_D, load_E[None, :], weight_S, floor)[0]
        bounds = load_bounds(load_E.astype(np.float64), slots_D, np.ones(devices))
        name = max(bounds, key=lambda key: bounds[key])
        best[name] += 1
        tokens += bounds[name]
        fullest += float(np.bincount(placement.device_of_slot_P, weights=load_P, minlength=devices).max())
    names = "; ".join(f"{name} ({count})" for name, count in sorted(best.items()))
    gaps = [f"{value:.2%}" for value in (experts_s / bound_s - 1, fullest / tokens - 1)]
    times = [f"{seconds * 1e3:.2f} ms" for seconds in (experts_s, bound_s)]
    return (kind, str(slots), str(devices), profile or "datasheet", *times, *gaps, names)


def main() -> None:
    """Print the table; write it into the page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="two layers of one case")
    parser.add_argument("--write", action="store_true", help="put the table into docs/PLANNING.md")
    arguments = parser.parse_args()
    cases = CASES[:1] if arguments.smoke else CASES
    profiles = (None,) if arguments.smoke else (None, "h100-sxm")
    rows = [
        row_of(kind, slots, devices, profile, 2 if arguments.smoke else LAYERS)
        for slots, devices in cases
        for kind in ("zipf", "lognormal")
        for profile in profiles
    ]
    print(table(HEADERS, rows))
    if arguments.write:
        write_part(PAGE, BEGIN, END, table(HEADERS, rows))


if __name__ == "__main__":
    main()
